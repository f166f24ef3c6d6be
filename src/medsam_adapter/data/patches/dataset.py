"""Random patches of whole cases for networks without prompts: cases are brought to the plan's grid once and kept.

Shapes: C channels, K targets, d, h, w voxels on the plan's grid; a patch is (C, d, h, w), or (C, h, w) where the plan
is 2-D. Targets are K masks that may overlap (the tumour and its core), each a channel of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.patches.augment import PatchAugmentation
from medsam_adapter.data.patches.grid import CaseGrid
from medsam_adapter.data.patches.plan import Plan
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import DataError

FOREGROUND_SHARE = 1 / 3
"""Of patches that are centred on a voxel of a target (nnU-Net)."""
SPOTS = 10_000


@dataclass
class PatchCase:
    """A case on the plan's grid.

    Attributes:
        image: (C, d, h, w) float16, normalised.
        labels: (d, h, w) int16 label values.
        spots: {name of a target that occurs: (n, 3) voxels of it, at most `SPOTS`}.
    """

    case_id: str
    image: Tensor
    labels: Tensor
    spots: dict[str, np.ndarray]


def load_patch_cases(
    dataset: Dataset, cases: Sequence[Case], plan: Plan, progress: Callable[[int, int], None] | None = None
) -> list[PatchCase]:
    """Read cases and bring them to the plan's grid.

    Args:
        progress: called with (cases done, cases).

    Raises:
        DataError: a case that cannot be read, has no label map or does not fit the plan.
    """
    prepared = []
    for done, case in enumerate(cases, 1):
        sample = dataset.read(case)
        if sample.labels is None:
            raise DataError(
                "this case has no label map", file=sample.scan.path, expected="a reference to train on", found="none"
            )
        grid = CaseGrid.of(sample.scan, plan)
        image, labels = grid.image(sample.scan, plan).half(), grid.labels(sample.labels).short()
        prepared.append(PatchCase(case.case_id, image, labels, _spots(labels, plan.targets, done)))
        if progress:
            progress(done, len(cases))
    return prepared


class PatchDataset(TorchDataset):
    """Random patches. The same item for the same (seed, epoch, index).

    Args:
        cases: on the plan's grid.
        plan: says the patch and the targets.
        patches_per_case: drawn from each case in an epoch.
        augmentation: None for none.
    """

    def __init__(
        self,
        cases: Sequence[PatchCase],
        plan: Plan,
        patches_per_case: int = 1,
        augmentation: PatchAugmentation | None = None,
        seed: int = 0,
    ):
        self.cases, self.plan, self.patches_per_case = list(cases), plan, patches_per_case
        self.augmentation, self.seed, self.epoch = augmentation, seed, 0

    def __len__(self) -> int:
        return len(self.cases) * self.patches_per_case

    def set_epoch(self, epoch: int) -> None:
        """Another epoch, other patches and augmentations."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """image (C, ...) float32, targets (K, ...) float32 of 0 and 1, case_id."""
        case = self.cases[index % len(self.cases)]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        start = self._start(case, rng)
        image = _cut(case.image, start, self.plan.patch_size).float()
        labels = _cut(case.labels[None], start, self.plan.patch_size)[0]
        if self.plan.spatial_dims == 2:
            image, labels = image[:, 0], labels[0]
        if self.augmentation is not None:
            image, labels = self.augmentation(image, labels, int(rng.integers(2**31)))
        return {"image": image, "targets": target_masks(labels, self.plan.targets).float(), "case_id": case.case_id}

    def _start(self, case: PatchCase, rng: np.random.Generator) -> np.ndarray:
        """First voxel of a patch, below 0 where the case is smaller than the patch and stands in its middle."""
        patch, shape = np.array(self.plan.patch_size), np.array(case.labels.shape)
        room = shape - patch
        if case.spots and rng.random() < FOREGROUND_SHARE:
            spots = case.spots[list(case.spots)[rng.integers(len(case.spots))]]
            start = np.clip(spots[rng.integers(len(spots))] - patch // 2, 0, np.maximum(room, 0))
        else:
            start = rng.integers(np.maximum(room, 0) + 1)
        return np.where(room < 0, room // 2, start)


def target_masks(labels: Tensor, targets: Mapping[str, tuple[int, ...]]) -> Tensor:
    """(K, ...) bool, where each target is."""
    return torch.stack([torch.isin(labels, torch.tensor(values, dtype=labels.dtype)) for values in targets.values()])


def _spots(labels: Tensor, targets: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(seed), {}
    for name, mask in zip(targets, target_masks(labels, targets), strict=True):
        voxels = np.argwhere(mask.numpy())
        if len(voxels):
            found[name] = voxels[rng.integers(len(voxels), size=SPOTS)] if len(voxels) > SPOTS else voxels
    return found


def _cut(volume: Tensor, start: np.ndarray, size: Sequence[int]) -> Tensor:
    """(C, *size) of (C, d, h, w); what lies beyond the volume is 0, its mean."""
    inside = [slice(None)]
    padding: list[int] = []
    for first, length, whole in zip(start, size, volume.shape[1:], strict=True):
        low, high = max(0, int(first)), min(whole, int(first) + length)
        inside.append(slice(low, high))
        padding = [low - int(first), int(first) + length - high, *padding]
    return F.pad(volume[tuple(inside)], padding)
