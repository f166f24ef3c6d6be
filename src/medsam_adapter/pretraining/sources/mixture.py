"""Batches from several sources, the same whatever ran before.

Over a whole run the images are numbered: n = step * batch_size * num_processes + process_index * batch_size + slot. The
seed and n decide which source gives image n and how it is augmented. The k-th draw from a source that can be read in
any order gives entry k mod N of a permutation of epoch k // N; the k-th draw of a process from a stream gives example
k. What cannot be read is replaced by what follows it and moves no other image, so a resumed run need not know which
files were damaged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from medsam_adapter.errors import DataError
from medsam_adapter.pretraining.sources.augment import augment
from medsam_adapter.pretraining.sources.base import Picture, Source
from medsam_adapter.pretraining.sources.streaming import StreamSource
from medsam_adapter.processing_msa import MSAProcessor

MAX_FAILURES = 100  # so many images of a source in a row that cannot be read are no accident
_PICKS, _ORDER, _VIEWS = 1, 2, 3  # separate the random streams of one seed
_CHUNK = 2**20


class Mixture(IterableDataset):
    """Batches for self-supervised training, for `DataLoader(mixture, batch_size=None, num_workers=W)`.

    Each batch is a dict: pixel_values (B, 3, S, S) float32 as `MSAProcessor.slices_to_model` makes them, step int,
    source (B,) int64 index of the source, labels and names, lists of B, and skipped, a list of (name, reason) of images
    that could not be read. `DataLoader` makes lists of those pairs.

    Args:
        sources: of one kind or the other; a stream needs W <= 1.
        weights: how often each is drawn, in any unit.
        batch_size: B, images in a step of this process.
        steps: steps of the whole run.
        image_size: S, side of the model frame.
        start: the first step to give.
        process_index, num_processes: which part of each step this process makes. Processes together see what one would
            see with the batch of them all; streams are shared out by their own rule.
        augment: random views (`augment.augment`), else the images as they are.

    Raises:
        DataError: no sources, weights that do not fit them, or an empty source; while iterating, 100 images of a source
            in a row that cannot be read, or a stream with several workers.
    """

    def __init__(
        self,
        sources: Sequence[Source | StreamSource],
        weights: Sequence[float],
        batch_size: int,
        steps: int,
        image_size: int,
        seed: int,
        start: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        augment: bool = True,
    ):
        self.sources: list[Any] = list(sources)  # one kind or the other, as `_is_stream` says
        self.seed, self.augment = seed, augment
        self.batch_size, self.steps, self.start = batch_size, steps, start
        self.process_index, self.num_processes = process_index, num_processes
        self._processor = MSAProcessor(image_size=image_size)
        self._bounds = _bounds(weights, self.sources)
        self._is_stream = np.array([hasattr(source, "examples") for source in self.sources])
        for source, is_stream in zip(self.sources, self._is_stream, strict=True):
            if not is_stream and not len(source):
                raise DataError(f"the source {source.name} is empty", expected="at least one image")
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if count > 1 and self._is_stream.any():
            raise DataError(
                "a stream cannot be shared among loading workers", expected="num_workers 0 or 1", found=str(count),
                hint="set num_workers to 1, or copy the data and use a source that is no stream",
            )  # fmt: skip
        picks_rng = np.random.default_rng([self.seed, _PICKS])
        drawn = self._count_before(self.start, picks_rng)
        streams = {
            int(i): _Ahead(
                self.sources[i].examples(int(drawn[i]), self.process_index, self.num_processes),
                self.sources[i].name,
            )
            for i in np.flatnonzero(self._is_stream)
        }
        for step in range(self.start, self.steps):
            picks = self._picks(picks_rng, 1)
            if (step - self.start) % count == number:
                yield self._batch(step, picks[0], drawn, streams)
            drawn += self._counts(picks)

    # -- which image -----------------------------------------------------------------------------------------------

    def _picks(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """(steps, num_processes * batch_size) index of the source of each image."""
        return np.searchsorted(self._bounds, rng.random((steps, self.num_processes * self.batch_size)), side="right")

    def _counts(self, picks: np.ndarray) -> np.ndarray:
        """(sources,) draws from each: of all processes, but of this one only from streams."""
        mine = picks[:, self._mine]
        everywhere, here = (np.bincount(part.ravel(), minlength=len(self.sources)) for part in (picks, mine))
        return np.where(self._is_stream, here, everywhere)

    def _count_before(self, step: int, rng: np.random.Generator) -> np.ndarray:
        """Draws from each source in the steps before; `rng` stands at that step afterwards."""
        drawn = np.zeros(len(self.sources), dtype=np.int64)
        at_once = max(1, _CHUNK // (self.num_processes * self.batch_size))
        for first in range(0, step, at_once):
            drawn += self._counts(self._picks(rng, min(at_once, step - first)))
        return drawn

    @property
    def _mine(self) -> slice:
        return slice(self.process_index * self.batch_size, (self.process_index + 1) * self.batch_size)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        if (source, epoch) not in self._orders:
            # A batch may stand on both sides of an epoch's end; what is older is not needed again.
            self._orders = {key: o for key, o in self._orders.items() if key[0] != source or key[1] >= epoch - 1}
            rng = np.random.default_rng([self.seed, _ORDER, source, epoch])
            own = getattr(self.sources[source], "order", None)
            self._orders[source, epoch] = own(rng) if own else rng.permutation(len(self.sources[source]))
        return self._orders[source, epoch]

    # -- the images ------------------------------------------------------------------------------------------------

    def _batch(self, step: int, picks: np.ndarray, drawn: np.ndarray, streams: dict[int, _Ahead]) -> dict:
        first = step * len(picks)
        drawn = drawn.copy()
        pictures: list[Picture] = []
        skipped: list[tuple[str, str]] = []
        pixels: list[torch.Tensor] = []
        for slot, source in enumerate(picks.tolist()):
            is_mine = self._mine.start <= slot < self._mine.stop
            if is_mine:
                picture = (
                    streams[source].take(skipped) if source in streams else self._read(source, drawn[source], skipped)
                )
                pictures.append(picture)
                pixels.append(self._to_model(picture.array, first + slot))
            if is_mine or source not in streams:
                drawn[source] += 1
        return {
            "pixel_values": torch.stack(pixels),
            "step": step,
            "source": torch.from_numpy(picks[self._mine].astype(np.int64)),
            "labels": [picture.label for picture in pictures],
            "names": [picture.name for picture in pictures],
            "skipped": skipped,
        }

    def _read(self, source: int, draw: int, skipped: list) -> Picture:
        """Draw number `draw` from a source of free access, or the first after it that can be read."""
        images = self.sources[source]
        epoch, at = divmod(int(draw), len(images))
        index = int(self._order(source, epoch)[at])
        tries = min(MAX_FAILURES, len(images))
        after = getattr(images, "after", lambda index: (index + 1) % len(images))
        for _ in range(tries):
            try:
                return images.read(index)
            except DataError as error:
                skipped.append(_told(error, f"{images.name} [{index}]"))
                index = after(index)
        raise _none_readable(images.name, tries, skipped[-1])

    def _to_model(self, image: np.ndarray, number: int) -> torch.Tensor:
        if self.augment:
            rng = np.random.default_rng([self.seed, _VIEWS, number])
            image = augment(image, rng, self._processor.image_size)
        return self._processor.slices_to_model(image[None])[0]


class _Ahead:
    """The examples of a stream one after the other; what stands in for a damaged one is looked up ahead and comes again
    in its own turn, so that example k is always draw k."""

    def __init__(self, examples: Iterator[Picture | DataError], name: str):
        self._examples, self._name = examples, name
        self._waiting: deque[Picture | DataError] = deque()

    def take(self, skipped: list) -> Picture:
        for offset in range(MAX_FAILURES):
            if offset == len(self._waiting):
                self._waiting.append(next(self._examples))
            example = self._waiting[offset]
            if isinstance(example, Picture):
                self._waiting.popleft()
                return example
            skipped.append(_told(example, self._name))
        raise _none_readable(self._name, MAX_FAILURES, skipped[-1])


def _bounds(weights: Sequence[float], sources: list) -> np.ndarray:
    """(sources,) upper ends of the part of [0, 1) that draws each source."""
    shares = np.asarray(weights, dtype=np.float64)
    if not len(sources) or shares.shape != (len(sources),) or not np.isfinite(shares).all() or shares.min() <= 0:
        raise DataError(
            "the sources and their weights do not fit", expected="one weight above 0 for each of one or more sources",
            found=f"{len(sources)} sources, weights {list(weights)}",
        )  # fmt: skip
    bounds = np.cumsum(shares / shares.sum())
    bounds[-1] = 1.0
    return bounds


def _told(error: DataError, name: str) -> tuple[str, str]:
    reason = f"{error.problem} ({error.found})" if error.found else error.problem
    return str(error.file or name), reason


def _none_readable(source: str, tries: int, last: tuple[str, str]) -> DataError:
    return DataError(
        f"{tries} images of the source {source} in a row cannot be read", expected="a damaged file now and then",
        found=f"the last one, {last[0]}: {last[1]}", hint="open that file; check path and `intensity` of the source",
    )  # fmt: skip
