"""What a data set is like, in the few numbers that a network is planned from: nnU-Net's data set fingerprint.

Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z. Ours: cases are turned to one orientation first, and
nothing is cropped; where a quarter of a typical image is exactly 0 (as round a stripped skull), 0 counts as outside.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.sample import Case, Sample, Scan
from medsam_adapter.errors import DataError

PERCENTILES = (0.5, 99.5)
VOXELS_PER_CASE = 10_000
OUTSIDE_SHARE = 0.25


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensities of one channel within all targets: two percentiles, mean and standard deviation."""

    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class Fingerprint:
    """Of the training cases of a data set.

    Attributes:
        shapes: (z, y, x) of each case in voxels, turned to `orientation`.
        spacings_mm: (z, y, x) of each case.
        channels: 1 (grey), 3 (colours) or the number of sequences.
        targets: {name: label values whose union it is}.
        orientation: where x, y and z point, such as "LPS".
        is_picture: pictures, which have pixels and no mm.
        is_ct: intensities mean the same in all cases (HU).
        statistics: of each channel.
        outside_share: of a typical case, the share of voxels that are exactly 0 in all channels.
    """

    shapes: tuple[tuple[int, int, int], ...]
    spacings_mm: tuple[tuple[float, float, float], ...]
    channels: int
    targets: dict[str, tuple[int, ...]]
    orientation: str
    is_picture: bool
    is_ct: bool
    statistics: tuple[ChannelStatistics, ...]
    outside_share: float = 0.0

    @property
    def num_cases(self) -> int:
        return len(self.shapes)

    @property
    def median_shape(self) -> tuple[int, int, int]:
        z, y, x = (int(size) for size in np.median(self.shapes, axis=0))
        return z, y, x

    @property
    def median_spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = (float(size) for size in np.median(self.spacings_mm, axis=0))
        return z, y, x

    @property
    def has_outside(self) -> bool:
        return self.outside_share > OUTSIDE_SHARE

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping) -> Fingerprint:
        """The way back from `to_json`, also after a trip through a JSON file."""
        values = dict(values)
        values["shapes"] = tuple(tuple(shape) for shape in values["shapes"])
        values["spacings_mm"] = tuple(tuple(spacing) for spacing in values["spacings_mm"])
        values["targets"] = {name: tuple(labels) for name, labels in values["targets"].items()}
        values["statistics"] = tuple(ChannelStatistics(**each) for each in values["statistics"])
        return cls(**values)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Fingerprint:
        """Raises DataError for a file that is no fingerprint."""
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                "is no fingerprint of a data set", file=file, expected="JSON as Fingerprint.save writes it",
                found=f"{type(error).__name__}: {error}", hint="delete it, and it is taken again",
            ) from error  # fmt: skip


def turn_of(scan: Scan, orientation: str) -> Turn:
    """The turn of a scan to an orientation; a picture and a volume without affine stay as they are."""
    shape_ijk = scan.shape_zyx[::-1]
    if scan.affine is None or orientation == "file":
        return Turn.none(shape_ijk)
    return Turn.to_codes(scan.affine, shape_ijk, orientation)


def take_fingerprint(
    dataset: Dataset,
    cases: Sequence[Case],
    targets: Mapping[str, tuple[int, ...]] | None = None,
    orientation: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fingerprint:
    """Reads all cases once.

    Args:
        cases: those to train on; test cases are none of its business.
        targets: {name: label values}; all of the data set if None.
        orientation: as the data set advises if None, else "LPS".
        progress: called with (cases done, cases).

    Raises:
        DataError: no cases, labels without names, a case without label map, pictures among volumes, cases of different
            channels, or no target in any case.
    """
    targets = dict(dataset.targets if targets is None else targets)
    orientation = orientation or dataset.orientation or "LPS"
    _refuse_nothing_to_learn(dataset, cases, targets)
    values = sorted({value for target in targets.values() for value in target})
    shapes, spacings, inside, outside, kinds, channels = [], [], [], [], set(), set()
    for done, case in enumerate(cases, 1):
        sample = dataset.read(case)
        scan, array = sample.scan, _channels_last(sample.scan.array)
        kinds.add(scan.is_volume)
        channels.add(array.shape[-1])
        turn = turn_of(scan, orientation)
        shapes.append(turn.array_to_source(scan.array[..., 0] if scan.array.ndim == 4 else scan.array).shape)
        spacings.append(turn.spacing_to_source(scan.spacing_mm))
        inside.append(_some_voxels(array, _labels(sample), values, done))
        outside.append(float((array == 0).all(-1).mean()))
        if progress:
            progress(done, len(cases))
    if len(kinds) > 1:
        raise DataError(
            "pictures and volumes are mixed", file=dataset.root, expected="one kind", found="both",
            hint="keep them in two data sets",
        )  # fmt: skip
    num_channels = _common_channels(channels, dataset)
    statistics = _statistics([np.broadcast_to(v, (len(v), num_channels)) for v in inside if len(v)], dataset, targets)
    return Fingerprint(
        tuple(shapes),
        tuple(spacings),
        num_channels,
        targets,
        orientation,
        is_picture=not kinds.pop(),
        is_ct=(dataset.intensity or "").startswith(("ct:", "window")) or str(dataset.modality).upper() == "CT",
        statistics=statistics,
        outside_share=float(np.median(outside)),
    )


def _channels_last(array: np.ndarray) -> np.ndarray:
    return array[..., None] if array.ndim == 3 else array


def _labels(sample: Sample) -> np.ndarray:
    if sample.labels is None:
        raise DataError(
            "this case has no label map", file=sample.scan.path, expected="a reference to train on", found="none"
        )
    return sample.labels


def _some_voxels(array: np.ndarray, labels: np.ndarray, values: list[int], seed: int) -> np.ndarray:
    """(n, C) float64 of voxels within the targets, drawn reproducibly."""
    found = array[np.isin(labels, values)]
    if len(found) > VOXELS_PER_CASE:
        found = found[np.random.default_rng(seed).integers(len(found), size=VOXELS_PER_CASE)]
    return found.astype(np.float64)


def _statistics(inside: list[np.ndarray], dataset: Dataset, targets: Mapping) -> tuple[ChannelStatistics, ...]:
    if not inside:
        raise DataError(
            "no case shows any target", file=dataset.root, expected=", ".join(targets), found="empty label maps",
            hint="look at the masks with `msa data check`",
        )  # fmt: skip
    voxels = np.concatenate(inside)
    low, high = np.percentile(voxels, PERCENTILES, axis=0)
    rows = zip(low, high, voxels.mean(0), voxels.std(0), strict=True)
    return tuple(ChannelStatistics(*(float(v) for v in row)) for row in rows)


def _common_channels(channels: set[int], dataset: Dataset) -> int:
    """Grey pictures among coloured ones count as coloured."""
    if len(channels) == 1 or channels == {1, 3}:
        return max(channels)
    raise DataError(
        "the cases have different channels", file=dataset.root, expected="the same number in all",
        found=", ".join(map(str, sorted(channels))), hint="choose one with data.channel",
    )  # fmt: skip


def _refuse_nothing_to_learn(dataset: Dataset, cases: Sequence[Case], targets: Mapping) -> None:
    if not cases:
        raise DataError("there are no cases to plan for", file=dataset.root, expected="training cases", found="none")
    if not targets:
        raise DataError(
            "the labels have no names, so there is no class to learn without prompts", file=dataset.root,
            expected="named labels", found="numbered objects" if dataset.instances else "none",
            hint="name them in labels.json, or use a prompted method",
        )  # fmt: skip
