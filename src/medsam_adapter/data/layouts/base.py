"""A data set on disk: where its cases lie, what its label values mean, and how one case is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..grids import GRID_TOLERANCE_MM, grid_offset_mm
from ..io import content_digest, read_label, read_scan
from ..sample import Case, Sample, Scan
from .raters import majority


@dataclass
class Dataset:
    """What a layout found in a folder. Nothing is read before `read`.

    Attributes:
        name: the data set's own name, or its folder's.
        root: its folder.
        layout: the name under which it was opened; of a converted one, that of the original.
        cases: in a fixed order (by case id, or as the data set lists them).
        label_names: {label value as `read` gives it: name}, background left out. Empty for instance labels.
        regions: {name: label values} where what is asked for is a union of labels (the tumour core); all targets then.
        modality: as the data set says it ("CT", "MRI"); None if it does not.
        colours: {(r, g, b): label value} where masks are coloured.
        mask_values: {value in the file: label value} where the files use others than 1..K, such as 255; 0 stays 0.
        licence: as the data set says it.
        channel: which volume of 4-D images is read.
        instances: label values number the objects of one image and mean nothing across images.
        nested: a higher label value lies within the lower ones.
        official_split: {"train" | "val" | "test": case ids} where the data set comes with one.
        intensity, orientation: what suits its scans, for recipes that say nothing; see `MSAProcessor`.
        notes: what had to be concluded and was not written down, one sentence each; worth showing to the user.
    """

    name: str
    root: Path
    cases: list[Case]
    label_names: dict[int, str] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    modality: str | None = None
    colours: dict[tuple[int, int, int], int] | None = None
    mask_values: dict[int, int] | None = None
    licence: str | None = None
    channel: int | None = None
    instances: bool = False
    nested: bool = False
    official_split: dict[str, list[str]] | None = None
    intensity: str | None = None
    orientation: str | None = None
    notes: list[str] = field(default_factory=list)
    layout: str = ""

    @property
    def targets(self) -> dict[str, tuple[int, ...]]:
        """{name of what can be asked for: the label values that make it up}; empty for instance labels."""
        return dict(self.regions) or {name: (value,) for value, name in self.label_names.items()}

    @property
    def labelled(self) -> list[Case]:
        """The cases with a reference."""
        return [case for case in self.cases if case.has_reference]

    def case(self, case_id: str) -> Case:
        """The case of that id. Raises DataError if there is none."""
        for case in self.cases:
            if case.case_id == case_id:
                return case
        raise DataError(
            f"has no case '{case_id}'",
            file=self.root,
            expected=f"one of {len(self.cases)} case ids",
            found=case_id,
            hint="the ids are the image file names without suffix, such as "
            + ", ".join(case.case_id for case in self.cases[:3]),
        )

    def read(self, case: Case) -> Sample:
        """The scan and its label map on one grid, with label values 0..K as in `label_names`.

        Of a case that several people marked, the label map is what the majority says.

        Raises:
            DataError: what `read_scan` and `read_label` refuse, or a label value without a name.
        """
        scan = self.read_scan(case)
        labels = self.read_labels(case, scan)
        names, targets = dict(self.label_names), self.targets
        if labels is not None:
            values = [int(value) for value in np.unique(labels) if value]
            if self.instances:
                names = {value: f"object {value}" for value in values}
                targets = {name: (value,) for value, name in names.items()}
            self._refuse_unnamed([value for value in values if value not in names], labels, case.label)
        return Sample(case.case_id, scan, labels, names, targets)

    def digest(self, case: Case) -> str:
        """A hash of what the image holds, equal for equal files; other channels do not count."""
        return content_digest(case.image)

    def read_scan(self, case: Case) -> Scan:
        """The image of a case, its channels last where they are several files.

        Raises:
            DataError: as `io.read_scan`, or channels on different grids.
        """
        scan = read_scan(case.image, channel=self.channel)
        if not case.channels:
            return scan
        arrays = [scan.array]
        for file in case.channels:
            other = read_scan(file)
            self._refuse_other_grid(other, scan)
            arrays.append(other.array)
        return Scan(np.stack(arrays, axis=-1), scan.spacing_mm, scan.affine, scan.path)

    def read_labels(self, case: Case, like: Scan | None = None, rater: str | None = None) -> np.ndarray | None:
        """The label map of a case with label values 0..K, None without one; values are not compared with the names.

        Args:
            rater: whose marks of a case that several people marked; the majority's if None.

        Raises:
            DataError: as `io.read_label`, a rater that the case does not have, or a value that `mask_values` does not
                have.
        """
        if rater is not None:
            if rater not in case.raters:
                raise DataError(
                    f"was not marked by '{rater}'", file=case.image, expected=", ".join(case.raters) or "one reference",
                    found=rater,
                )  # fmt: skip
            return self.read_label_file(case.raters[rater], like)
        if case.label is not None:
            return self.read_label_file(case.label, like)
        if case.raters:
            return majority(list(self.read_raters(case, like).values()), self.nested)
        return None

    def read_raters(self, case: Case, like: Scan | None = None) -> dict[str, np.ndarray]:
        """{name of a person who marked the case: the label map}; errors as `read_labels`."""
        marked = {name: self.read_labels(case, like, name) for name in case.raters}
        return {name: labels for name, labels in marked.items() if labels is not None}

    def read_label_file(self, file: Path, like: Scan | None) -> np.ndarray:
        """One file of labels, values 0..K; what a layout overrides whose labels are no label maps."""
        raw = read_label(file, like=like, colours=self.colours)
        if self.mask_values is None:
            return raw
        labels = np.zeros(raw.shape, np.min_scalar_type(max(self.mask_values.values(), default=0)))
        is_known = raw == 0
        for value, label in self.mask_values.items():
            is_value = raw == value
            labels[is_value] = label
            is_known |= is_value
        self._refuse_unnamed([int(value) for value in np.unique(raw[~is_known])], raw, file)
        return labels

    def _refuse_unnamed(self, values: list[int], labels: np.ndarray, file: Path | None) -> None:
        if not values:
            return
        counts = [f"{value} on {int((labels == value).sum())} voxels" for value in values[:8]]
        known = self.mask_values or self.label_names
        raise DataError(
            "holds label values that have no name",
            file=file,
            expected="0 and " + (", ".join(map(str, known)) or "no other value"),
            found=", ".join(counts) + (f" and {len(values) - 8} more" if len(values) > 8 else ""),
            hint="name these values in labels.json or dataset.json, or mend the mask",
        )

    @staticmethod
    def _refuse_other_grid(scan: Scan, like: Scan) -> None:
        is_same = scan.array.shape == like.array.shape and (
            scan.affine is None
            or like.affine is None
            or grid_offset_mm(scan.affine, like.affine, like.shape_zyx) <= GRID_TOLERANCE_MM
        )
        if not is_same:
            raise DataError(
                "a channel does not lie on the grid of the others",
                file=scan.path,
                expected=f"shape {like.array.shape} and the affine of {like.path}",
                found=f"shape {scan.array.shape}",
                hint="resample the channels of a case to one grid",
            )
