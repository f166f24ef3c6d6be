"""A data set on disk: where its cases lie, what its label values mean, and how one case is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..io import read_label, read_scan
from ..sample import Case, Sample, Scan


@dataclass
class Dataset:
    """What a layout found in a folder. Nothing is read before `read`.

    Attributes:
        name: the data set's own name, or its folder's.
        root: its folder.
        cases: in a fixed order (by case id, or as the data set lists them).
        label_names: {label value as `read` gives it: name}, background left out. Empty for instance labels.
        modality: as the data set says it ("CT", "MRI"); None if it does not.
        colours: {(r, g, b): label value} where masks are coloured.
        mask_values: {value in the file: label value} where the files use others than 1..K, such as 255; 0 stays 0.
        licence: as the data set says it.
        channel: which volume of 4-D images is read.
        instances: label values number the objects of one image and mean nothing across images.
        notes: what had to be concluded and was not written down, one sentence each; worth showing to the user.
    """

    name: str
    root: Path
    cases: list[Case]
    label_names: dict[int, str] = field(default_factory=dict)
    modality: str | None = None
    colours: dict[tuple[int, int, int], int] | None = None
    mask_values: dict[int, int] | None = None
    licence: str | None = None
    channel: int | None = None
    instances: bool = False
    notes: list[str] = field(default_factory=list)

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

        Raises:
            DataError: what `read_scan` and `read_label` refuse, or a label value without a name.
        """
        scan = self.read_scan(case)
        labels = self.read_labels(case, scan)
        names = dict(self.label_names)
        if labels is not None:
            values = [int(value) for value in np.unique(labels) if value]
            if self.instances:
                names = {value: f"object {value}" for value in values}
            self._refuse_unnamed([value for value in values if value not in names], labels, case)
        return Sample(case.case_id, scan, labels, names)

    def read_scan(self, case: Case) -> Scan:
        """The image of a case. Raises DataError as `io.read_scan`."""
        return read_scan(case.image, channel=self.channel)

    def read_labels(self, case: Case, like: Scan | None = None) -> np.ndarray | None:
        """The label map of a case with label values 0..K, None without one; values are not compared with the names.

        Raises:
            DataError: as `io.read_label`, or a value that `mask_values` does not have.
        """
        if case.label is None:
            return None
        raw = read_label(case.label, like=like, colours=self.colours)
        if self.mask_values is None:
            return raw
        labels = np.zeros(raw.shape, np.min_scalar_type(max(self.mask_values.values(), default=0)))
        is_known = raw == 0
        for value, label in self.mask_values.items():
            is_value = raw == value
            labels[is_value] = label
            is_known |= is_value
        self._refuse_unnamed([int(value) for value in np.unique(raw[~is_known])], raw, case)
        return labels

    def _refuse_unnamed(self, values: list[int], labels: np.ndarray, case: Case) -> None:
        if not values:
            return
        counts = [f"{value} on {int((labels == value).sum())} voxels" for value in values[:8]]
        known = self.mask_values or self.label_names
        raise DataError(
            "holds label values that have no name",
            file=case.label,
            expected="0 and " + (", ".join(map(str, known)) or "no other value"),
            found=", ".join(counts) + (f" and {len(values) - 8} more" if len(values) > 8 else ""),
            hint="name these values in labels.json or dataset.json, or mend the mask",
        )
