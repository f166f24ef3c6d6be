"""Training samples: volumes are read and brought into the model frame once, kept in memory, and cut into chunks of
slices.

Shapes: D slices of a chunk, C channels (1 or 3), S side of the model frame, P objects, h = w side of the decoder's
masks. A target is a tuple of label values whose union is its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from medsam_adapter.data.augment import Augmentation
from medsam_adapter.data.geometry import Letterbox
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.sample import Case, Sample
from medsam_adapter.errors import DataError
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.text_sampler import TextSampler


class FrozenFeatures(Protocol):
    """Features of a case's slices, wherever they are kept."""

    def __getitem__(self, slices: slice) -> Tensor:
        """(n, ...) of these slices."""


@dataclass
class PreparedCase:
    """A case in the model frame.

    Attributes:
        image: (D, C, S, S) uint8, intensities in 255ths.
        labels: (D, S, S) integer.
        resized_hw: the part of the frame that the picture fills.
        targets: those that occur and are to be learned.
        slices_of: {target: indices of the slices that show it}, in any rater's map where there are raters.
        raters: the label maps of single raters; in each sample one that shows a target there stands in for `labels`.
            Mostly none.
        frozen: if set, `frozen[first:last]` are the features of these slices, which stand in for the image.
    """

    case_id: str
    image: Tensor
    labels: Tensor
    resized_hw: tuple[int, int]
    targets: list[tuple[int, ...]]
    slices_of: dict[tuple[int, ...], np.ndarray]
    raters: list[Tensor] = field(default_factory=list)
    frozen: FrozenFeatures | None = None


def prepare_case(
    sample: Sample,
    processor: MSAProcessor,
    targets: Collection[tuple[int, ...]] | None = None,
    raters: Sequence[np.ndarray] = (),
) -> PreparedCase:
    """Turn, window and resize a sample for training.

    Args:
        targets: what is to be learned; all that the sample has if None.
        raters: (D, H, W) label maps of single raters.

    Raises:
        DataError: a case without reference.
    """
    if sample.labels is None:
        raise DataError(
            "this case has no label map", file=sample.scan.path, expected="a reference to train on", found="none"
        )
    turn = processor.turn_of(sample.scan)
    source = turn.array_to_source(processor.unit_intensities(sample.scan))
    letterbox = Letterbox(source.shape[1:3], processor.image_size)
    images = torch.from_numpy(np.ascontiguousarray(source))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    images = letterbox.image_to_model(images)
    labels, *marked = [_resized(turn.array_to_source(each), letterbox) for each in (sample.labels, *raters)]
    wanted = sample.targets.values() if targets is None else targets
    drawn = marked or [labels]  # what is trained on: what one of four readers marked counts, too
    shown = {target: sum(mask_of(each, target).flatten(1).any(1).numpy() for each in drawn) for target in wanted}
    slices_of = {target: np.flatnonzero(slices) for target, slices in shown.items() if np.any(slices)}
    image = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return PreparedCase(sample.case_id, image, labels, letterbox.resized_hw, list(slices_of), slices_of, marked)


def _resized(labels: np.ndarray, letterbox: Letterbox) -> Tensor:
    """(D, H, W) labels in the model frame, (D, S, S) int32.

    A value whose every voxel falls between the pixels that are kept, a single voxel of a large picture for one, keeps a
    pixel.
    """
    whole = torch.from_numpy(np.ascontiguousarray(labels).astype(np.int32))[:, None].float()
    height, width = letterbox.resized_hw
    resized = F.interpolate(whole, (height, width), mode="nearest-exact")[:, 0].to(torch.int32)
    if height < labels.shape[1] or width < labels.shape[2]:
        for value in set(np.unique(labels).tolist()) - set(resized.unique().tolist()):
            z, y, x = np.argwhere(labels == value)[0]
            resized[z, y * height // labels.shape[1], x * width // labels.shape[2]] = value
    return F.pad(resized, (0, letterbox.image_size - width, 0, letterbox.image_size - height))


def mask_of(labels: Tensor, target: tuple[int, ...]) -> Tensor:
    """Where a label map shows a target: bool, of its shape."""
    if len(target) == 1:  # much the faster one
        return labels == target[0]
    return torch.isin(labels, torch.tensor(target, dtype=labels.dtype))


class PromptedDataset(TorchDataset):
    """Chunks of prepared cases with the objects to be prompted. The same item for the same (seed, epoch, index).

    Args:
        cases: prepared cases, each with at least one target.
        processor: whose normalisation and image size are used.
        chunk_slices: D; 1 for pictures.
        mask_side: h = w of the decoder's masks.
        objects: P; an object is repeated where fewer are visible.
        samples_per_case: chunks drawn from each case in an epoch.
        augmentation: None for none.
        texts: draws a sentence for each of P more objects; None for none.
        anywhere: with texts, the share of chunks that are cut anywhere, whether they show a target or not.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        processor: MSAProcessor,
        chunk_slices: int,
        mask_side: int,
        objects: int,
        samples_per_case: int = 1,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        texts: TextSampler | None = None,
        anywhere: float = 0.0,
    ):
        self.texts, self.anywhere = texts, anywhere
        self.cases, self.processor, self.seed, self.epoch = list(cases), processor, seed, 0
        self.chunk_slices, self.mask_side, self.objects = chunk_slices, mask_side, objects
        self.samples_per_case, self.augmentation = samples_per_case, augmentation

    def __len__(self) -> int:
        return len(self.cases) * self.samples_per_case

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, other chunks and augmentations."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """pixel_values (D, 3, S, S) or frozen (D, ...), targets (D, P, h, w) in [0, 1], slice_mask (D,), case_id; with
        `texts` also texts (P, W) and what they mean, text_targets (D, P, h, w)."""
        case = self.cases[index % len(self.cases)]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        first, count = self._chunk(case, rng)
        marked = [each[first : first + count] for each in case.raters or [case.labels]]
        if case.raters:  # who marked nothing here shows nothing to prompt
            marked = [each for each in marked if self._shows_any(case, each)] or marked
        labels = marked[rng.integers(len(marked))] if case.raters else marked[0]
        if case.frozen is not None:
            name, shown = "frozen", case.frozen[first : first + count]
        else:
            name, shown = "pixel_values", case.image[first : first + count].float() / 255
            if self.augmentation is not None:
                changed, turned = self._augmented(case, shown, labels, int(rng.integers(2**31)))
                if self._shows_any(case, turned) or not self._shows_any(case, labels):
                    shown, labels = changed, turned  # else the only target was tiny, or near the border, and is gone
            shown = self.processor.normalise(shown, case.resized_hw)
        targets = self._targets(case, labels, rng)
        missing = self.chunk_slices - count
        item = {
            name: F.pad(shown, (0, 0, 0, 0, 0, 0, 0, missing)),
            "targets": F.pad(targets, (0, 0, 0, 0, 0, 0, 0, missing)),
            "slice_mask": torch.arange(self.chunk_slices) < count,
            "case_id": case.case_id,
        }
        if self.texts is not None:
            said = [self.texts.draw(self._visible(case, labels), rng) for _ in range(self.objects)]
            meant = self._to_mask_size(torch.stack([self.texts.mask(labels, values) for values, _ in said], 1))
            item["texts"] = self.texts.embeddings[[row for _, row in said]]
            item["text_targets"] = F.pad(meant, (0, 0, 0, 0, 0, 0, 0, missing))
        return item

    def _augmented(self, case: PreparedCase, shown: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Changed within the part of the frame that the picture fills: what is mirrored stays in the picture."""
        assert self.augmentation is not None
        height, width = case.resized_hw
        changed = self.augmentation(shown[..., :height, :width], labels[:, :height, :width], seed)
        side = labels.shape[-1]
        image, turned = (F.pad(each, (0, side - width, 0, side - height)) for each in changed)
        return image, turned

    def _chunk(self, case: PreparedCase, rng: np.random.Generator) -> tuple[int, int]:
        """First slice and number of slices of a chunk that shows a target drawn evenly, or of any chunk."""
        depth = len(case.image)
        count = min(depth, self.chunk_slices)
        if self.texts is not None and rng.random() < self.anywhere:
            return int(rng.integers(depth - count + 1)), count
        slices = case.slices_of[case.targets[rng.integers(len(case.targets))]]
        shown = int(slices[rng.integers(len(slices))])
        first = shown - int(rng.integers(count))
        return int(np.clip(first, 0, depth - count)), count

    def _targets(self, case: PreparedCase, labels: Tensor, rng: np.random.Generator) -> Tensor:
        visible = self._visible(case, labels) or case.targets
        chosen = [visible[i] for i in rng.permutation(len(visible))[: self.objects]]
        chosen += [chosen[i % len(chosen)] for i in range(self.objects - len(chosen))]
        return self._to_mask_size(torch.stack([mask_of(labels, target) for target in chosen], 1))

    @staticmethod
    def _visible(case: PreparedCase, labels: Tensor) -> list[tuple[int, ...]]:
        return [target for target in case.targets if mask_of(labels, target).any()]

    @staticmethod
    def _shows_any(case: PreparedCase, labels: Tensor) -> bool:
        return any(mask_of(labels, target).any() for target in case.targets)

    def _to_mask_size(self, masks: Tensor) -> Tensor:
        """(D, P, S, S) masks as (D, P, h, w) in [0, 1].

        An object that nowhere fills half a pixel, a single voxel for one, would be there for nobody: its fullest pixels
        become full.
        """
        pooled = F.adaptive_avg_pool2d(masks.float(), (self.mask_side, self.mask_side))
        fullest = pooled.amax((0, 2, 3), keepdim=True)
        return torch.where((fullest > 0) & (fullest <= 0.5), pooled / fullest, pooled)


def load_cases(
    dataset: Dataset,
    cases: Sequence[Case],
    processor: MSAProcessor,
    targets: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    each_rater: bool = False,
) -> list[PreparedCase]:
    """Read and prepare cases; those that show no target are left out.

    Args:
        targets: names of targets; all if None.
        each_rater: of cases that several people marked, keep the map of each.
        progress: called with (cases done, cases).

    Raises:
        DataError: a case that cannot be read, an unknown target name, or no target in any case.
    """
    wanted = None if dataset.instances else wanted_targets(dataset, targets).values()
    prepared = []
    for done, case in enumerate(cases, 1):
        sample = dataset.read(case)
        raters = list(dataset.read_raters(case, sample.scan).values()) if each_rater else []
        ready = prepare_case(sample, processor, wanted, raters)
        if ready.targets:
            prepared.append(ready)
        if progress:
            progress(done, len(cases))
    if not prepared:
        raise DataError(
            "no case shows any target",
            file=dataset.root,
            expected=", ".join(targets or dataset.targets),
            found=f"{len(cases)} cases with empty label maps",
            hint="look at the masks with `msa data check`",
        )
    return prepared


def wanted_targets(dataset: Dataset, names: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """The targets of these names, in the data set's order; all if no names are given.

    Raises:
        DataError: an unknown name.
    """
    known = dataset.targets
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise DataError(
            f"the data set has no target {unknown[0]!r}",
            file=dataset.root,
            expected=", ".join(known) or "no named labels",
            found=", ".join(unknown),
            hint="set data.targets to names from this list, or leave it empty for all",
        )
    return {name: values for name, values in known.items() if not names or name in names}


def collate(samples: Sequence[dict]) -> dict:
    """Stack tensors; case ids stay a list."""
    tensors = [key for key in samples[0] if key != "case_id"]
    batch = {key: torch.stack([s[key] for s in samples]) for key in tensors}
    return {**batch, "case_id": [s["case_id"] for s in samples]}
