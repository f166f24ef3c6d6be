"""`kind: stream`: Parquet or WebDataset shards read from front to back, on the Hub or here, without a local copy.

`datasets` opens and interleaves the shards; shuffling and passing over examples are done here, because its shuffle
buffer gives another order in a loading worker than outside of one, and a resumed run needs the same one. An example is
decoded only when it is given out. A stream of 1.35 million images then needs the memory of `buffer` undecoded ones.
"""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapter.errors import DataError
from medsam_adapter.pretraining.sources.base import Picture, read_pages

BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
SHARDS_AT_ONCE = 8
SHARDS_PER_PROCESS = 4  # so many, and the largest share of shards is at most a quarter larger than the smallest


class StreamSource:
    """A data set with an image column, read in a random but repeatable order without end.

    Args:
        path: id of a data set on the Hub, a folder of shards, one shard, or a pattern of them (`shards/*.tar`).
        split: the part of the data set; files given by pattern are one part, whatever it is called.
        column: the image column; if None `image`, or else the only column of images. A file's suffix in WebDataset.
        label_column: the column of class names, if there is one.
        config: the configuration of a data set on the Hub that has several.
        buffer: how many examples are shuffled at a time.
        seed: of the order.
        name: what messages call this source.

    Raises:
        DataError: the data set or its column cannot be found.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        column: str | None = None,
        label_column: str | None = None,
        config: str | None = None,
        buffer: int = 1000,
        seed: int = 0,
        name: str | None = None,
    ):
        from datasets import Image

        self.name = name or f"stream {path}"
        self.buffer, self.seed = buffer, seed
        dataset = _open(path, split, config)
        columns = dataset.column_names or list(next(iter(dataset), {}))
        features = dataset.features or {}
        self.column = column or _image_column(columns, features, path)
        self.label_column = label_column
        wanted = [self.column, *([label_column] if label_column else [])]
        if any(name not in columns for name in wanted):
            raise DataError(
                "has no such column", file=path, expected=" and ".join(wanted), found=", ".join(columns),
                hint="set `column` and `label_column`",
            )  # fmt: skip
        # Other columns go first: they may be images too, which `datasets` would decode.
        dataset = dataset.select_columns(wanted + [key for key in ("__key__",) if key in columns])
        if isinstance(features.get(self.column), Image):
            dataset = dataset.cast_column(self.column, Image(decode=False))
        self._classes = getattr(features.get(label_column), "names", None)
        self._dataset = dataset

    def examples(self, start: int = 0, process_index: int = 0, num_processes: int = 1) -> Iterator[Picture | DataError]:
        """The examples of one process from number `start` on, epoch after epoch, and an error for each damaged one.

        Each process keeps shards of its own where there are enough, else it takes every `num_processes`-th example.
        Examples before `start` are read but not decoded; of whole epochs only the first is read, to count it.

        Raises:
            DataError: a damaged shard, or no example for this process.
        """
        epoch, to_pass = 0, start
        while True:
            count = 0
            for example in self._epoch(epoch, process_index, num_processes):
                count += 1
                if to_pass:
                    to_pass -= 1
                else:
                    yield self._picture(example)
            if not count:
                raise DataError(f"{self.name} has no example for process {process_index}", expected="at least one")
            # A process has as many examples in every epoch.
            epoch += 1 + to_pass // count
            to_pass %= count

    def _epoch(self, epoch: int, process_index: int, num_processes: int) -> Iterator[dict[str, Any]]:
        """The undecoded examples of one process in one epoch, shuffled."""
        dataset, rng = self._dataset, np.random.default_rng([self.seed, epoch])
        shards = dataset.num_shards
        own_shards = shards % num_processes == 0 or shards >= SHARDS_PER_PROCESS * num_processes
        # Shards are shared out before they are shuffled, so that a process has the same ones in each epoch.
        if own_shards and num_processes > 1:
            dataset = dataset.shard(num_processes, process_index, contiguous=False)
        # A buffer of one leaves the examples of a shard in their order.
        dataset = dataset.shuffle(
            seed=int(rng.integers(2**31)), buffer_size=1, max_buffer_input_shards=min(SHARDS_AT_ONCE, shards)
        )
        examples = iter(dataset)
        if not own_shards:
            examples = islice(examples, process_index, None, num_processes)
        waiting: list[dict[str, Any]] = []
        try:
            for example in examples:
                if len(waiting) < self.buffer:
                    waiting.append(example)
                    continue
                at = int(rng.integers(self.buffer))
                waiting[at], example = example, waiting[at]
                yield example
        except GeneratorExit:
            raise
        except Exception as error:  # a lost connection, a cut-off shard: each format raises its own
            raise DataError(
                f"{self.name} cannot be read on", expected="whole shards and a connection",
                found=f"{type(error).__name__}: {error}", hint="resume the run; if it comes again, get the shards anew",
            ) from error  # fmt: skip
        yield from (waiting[at] for at in rng.permutation(len(waiting)))

    def _picture(self, example: dict[str, Any]) -> Picture | DataError:
        image = example[self.column]
        is_entry = isinstance(image, dict)
        name = str((is_entry and image.get("path")) or example.get("__key__") or "an example without name")
        name = f"{self.name}: {name}"
        content = image.get("bytes") if is_entry else image
        if not isinstance(content, bytes):
            return DataError(
                "holds no bytes", file=name, expected="an encoded picture", found=type(content).__name__,
                hint="shards need the pictures inside, not paths to them",
            )  # fmt: skip
        try:
            array = read_pages(io.BytesIO(content), name)[0]
        except DataError as error:
            return error
        label = example.get(self.label_column) if self.label_column else None
        if label is not None and self._classes is not None:
            label = self._classes[label]
        return Picture(name, array, None if label is None else str(label))


def _open(path: str, split: str, config: str | None):
    """A `datasets.IterableDataset`."""
    from datasets import load_dataset

    is_pattern = any(sign in path for sign in "*?[{")
    suffix = Path(path).suffix.lower()
    try:
        if suffix in BUILDERS and (is_pattern or "://" in path or Path(path).is_file()):
            files = path if "://" in path else sorted(glob.glob(path)) if is_pattern else [path]
            if not files:
                raise FileNotFoundError("no file matches the pattern")
            return load_dataset(BUILDERS[suffix], data_files={split: files}, split=split, streaming=True)
        return load_dataset(path, config, split=split, streaming=True)
    except Exception as error:  # builders, hub and file systems each raise their own
        raise DataError(
            "cannot be opened as a stream", file=path,
            expected="a Hub data set, or a folder or pattern of .parquet or .tar shards",
            found=f"{type(error).__name__}: {error}", hint="check `path`, `split` and `config`; is a login needed?",
        ) from error  # fmt: skip


def _image_column(columns: list[str], features: Any, path: str) -> str:
    from datasets import Image

    if "image" in columns:
        return "image"
    images = [name for name in columns if isinstance(features.get(name), Image)]
    if len(images) != 1:
        raise DataError(
            "leaves open which column is the image", file=path, expected="`image`, or one column of images",
            found=", ".join(columns), hint="set `column`",
        )  # fmt: skip
    return images[0]
