"""Looking a data set over before training: everything that is wrong with it, in one list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from ..errors import DataError
from .layouts.base import Dataset
from .sample import Case, Scan

SPACING_RANGE_MM = (0.05, 20.0)
# Cases of one scanner scale differ by far less; float MRI against 8-bit exports by far more.
MAX_SCALE_RATIO = 8.0
Level = Literal["error", "warning", "ok"]


@dataclass
class Finding:
    """One thing that is wrong, or one case that is right.

    Attributes:
        case_id: "" for what concerns the whole data set.
        level: "error" (cannot be used as it is), "warning" (look at it), "ok".
        facts: the first finding of every readable case carries what `summarise` needs: shape, spacing, dtype, label
            counts.
    """

    case_id: str
    level: Level
    file: str | Path | None = None
    problem: str = ""
    expected: str = ""
    found: str = ""
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict, repr=False)


def check_dataset(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Reads every case and reports; never raises for a broken one.

    Args:
        progress: called with (cases done, cases in all) after each case.

    Returns:
        Per case its problems or one "ok", then what only shows across cases.
    """
    findings: list[Finding] = []
    for number, case in enumerate(dataset.cases, start=1):
        findings += _check_case(dataset, case)
        if progress:
            progress(number, len(dataset.cases))
    return findings + _across_cases(dataset, findings)


def _check_case(dataset: Dataset, case: Case) -> list[Finding]:
    findings: list[Finding] = []
    facts: dict[str, Any] = {}

    def add(level: Level, problem: str, file: str | Path | None = case.image, **details: Any) -> None:
        findings.append(Finding(case.case_id, level, file, problem, **details))

    def attempt(read: Callable[[], Any], file: Path | None) -> Any:
        try:
            return read()
        except DataError as error:
            details = {"expected": error.expected or "", "found": error.found or "", "hint": error.hint or ""}
            add("error", error.problem, error.file or file, **details)
        except Exception as error:  # a broken case must not end the check of the others
            add("error", "cannot be read", file, found=f"{type(error).__name__}: {error}")
        return None

    scan = attempt(lambda: dataset.read_scan(case), case.image)
    if scan is not None:
        facts |= {**_scan_facts(scan), "digest": dataset.digest(case)}
        _check_scan(scan, add)
    if not case.has_reference:
        add("warning", "has no label map", hint="it cannot be trained on or evaluated")
    else:
        labels = attempt(lambda: dataset.read_labels(case, scan), case.label)
        if labels is not None:
            facts["voxels"] = _label_counts(labels)
            _check_labels(dataset, case, facts["voxels"], add)
    findings = findings or [Finding(case.case_id, "ok", case.image)]
    if scan is not None:
        findings[0].facts = facts
    return findings


def _scan_facts(scan: Scan) -> dict[str, Any]:
    low, high = np.percentile(scan.array.ravel()[:: max(1, scan.array.size // 100_000)], (1, 99))
    return {
        "shape_zyx": list(scan.shape_zyx),
        "spacing_mm": [round(float(size), 4) for size in scan.spacing_mm],
        "dtype": str(scan.array.dtype),
        "orientation": "".join(nib.aff2axcodes(scan.affine)) if scan.affine is not None else None,
        "intensity_p1_p99": [float(low), float(high)],
    }


def _check_scan(scan: Scan, add: Callable[..., None]) -> None:
    if scan.array.size and scan.array.min() == scan.array.max():
        add("error", "is one constant value", expected="an image", found=f"{scan.array.flat[0]} everywhere")
    low, high = SPACING_RANGE_MM
    if scan.affine is not None and not all(low <= size <= high for size in scan.spacing_mm):
        add(
            "warning",
            "has an implausible voxel size",
            expected=f"{low:g} to {high:g} mm",
            found="x".join(f"{size:g}" for size in scan.spacing_mm) + " mm (z, y, x)",
            hint="the header may be in other units than it says, or lost its geometry in a conversion",
        )


def _label_counts(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}


def _check_labels(dataset: Dataset, case: Case, voxels: dict[int, int], add: Callable[..., None]) -> None:
    if not voxels:
        add("warning", "the mask is empty", case.label, expected="a label somewhere", found="background only")
    unnamed = [] if dataset.instances else [value for value in voxels if value not in dataset.label_names]
    if unnamed:
        add(
            "error",
            "holds label values that have no name",
            case.label,
            expected="0, " + ", ".join(f"{value} ({name})" for value, name in dataset.label_names.items()),
            found=", ".join(f"{value} on {voxels[value]} voxels" for value in unnamed[:8]),
            hint="name these values in labels.json or dataset.json, or mend the mask",
        )


def _across_cases(dataset: Dataset, findings: list[Finding]) -> list[Finding]:
    facts = {finding.case_id: finding.facts for finding in findings if finding.facts}
    result: list[Finding] = []

    def add(level: Level, problem: str, file: Path | None = dataset.root, **details: Any) -> None:
        result.append(Finding("", level, file, problem, **details))

    for case_id, count in Counter(case.case_id for case in dataset.cases).items():
        if count > 1:
            add(
                "error",
                f"the case id '{case_id}' is given {count} times",
                expected="one id for each case",
                found=case_id,
            )
    patients = {case.case_id: case.patient_id for case in dataset.cases}
    same: dict[str, list[str]] = {}
    for case_id, fact in facts.items():
        same.setdefault(fact["digest"], []).append(case_id)
    for ids in (ids for ids in same.values() if len(ids) > 1):
        add(
            "error" if len({patients[case_id] for case_id in ids}) > 1 else "warning",
            "the same image file stands under several ids",
            expected="each image once",
            found=", ".join(ids[:8]),
            hint="remove the doubles: in a split they would stand on both sides",
        )
    for key, what, hint in (
        ("orientation", "orientations", "reading keeps each file's own axes; reorient the set if that is not meant"),
        ("dtype", "data types", "their intensity scales probably differ: normalise each case by itself"),
    ):
        kinds = Counter(fact[key] for fact in facts.values())
        if len(kinds) > 1:
            found = ", ".join(f"{count} x {kind or 'picture'}" for kind, count in kinds.most_common())
            add("warning", f"cases are of mixed {what}", expected="one", found=found, hint=hint)
    widths = {case_id: fact["intensity_p1_p99"][1] - fact["intensity_p1_p99"][0] for case_id, fact in facts.items()}
    widths = {case_id: width for case_id, width in widths.items() if width > 0}
    if widths and max(widths.values()) > MAX_SCALE_RATIO * min(widths.values()):
        narrow, wide = min(widths, key=widths.__getitem__), max(widths, key=widths.__getitem__)
        add(
            "warning",
            "cases are of mixed intensity scales",
            expected=f"1st to 99th percentile within a factor of {MAX_SCALE_RATIO:g}",
            found=f"{widths[narrow]:g} wide in {narrow}, {widths[wide]:g} wide in {wide}",
            hint="normalise each case by itself (percentiles), not with one window for all",
        )
    seen = {value for fact in facts.values() for value in fact.get("voxels", {})}
    unseen = [f"{value} ({name})" for value, name in dataset.label_names.items() if value not in seen]
    if unseen and any("voxels" in fact for fact in facts.values()):
        add("warning", "labels occur in no mask", expected="every named label somewhere", found=", ".join(unseen[:8]))
    return result


def summarise(dataset: Dataset, findings: list[Finding]) -> dict[str, Any]:
    """What a report shows of a checked data set, as plain JSON values.

    Returns:
        name, counts of cases and of findings by level, shape and spacing ranges (z, y, x), orientations, dtypes,
        intensity range, and per label: in how many cases, voxels and volume in ml (smallest, median, largest over the
        cases that have it; no volume for pictures).
    """
    facts = [finding.facts for finding in findings if finding.facts]
    summary: dict[str, Any] = {
        "name": dataset.name,
        "root": str(dataset.root),
        "modality": dataset.modality,
        "licence": dataset.licence,
        "notes": list(dataset.notes),
        "num_cases": len(dataset.cases),
        "num_labelled": len(dataset.labelled),
        "num_patients": len({case.patient_id for case in dataset.cases}),
        "findings": {level: sum(f.level == level for f in findings) for level in ("error", "warning", "ok")},
        "cases_with_errors": sorted({f.case_id for f in findings if f.level == "error" and f.case_id}),
        "instances": dataset.instances,
    }
    if facts:
        for key in ("shape_zyx", "spacing_mm"):
            table = np.array([fact[key] for fact in facts])
            summary[key] = {
                "min": table.min(0).tolist(),
                "median": np.median(table, axis=0).tolist(),
                "max": table.max(0).tolist(),
            }
        summary["intensity_p1_p99"] = [
            min(fact["intensity_p1_p99"][0] for fact in facts),
            max(fact["intensity_p1_p99"][1] for fact in facts),
        ]
        for key, plural in (("orientation", "orientations"), ("dtype", "dtypes")):
            summary[plural] = dict(Counter(fact[key] or "picture" for fact in facts).most_common())
    if dataset.instances:
        numbers = [len(fact["voxels"]) for fact in facts if "voxels" in fact]
        summary["objects_per_case"] = _range(numbers)
    summary["labels"] = {str(value): _label_summary(value, name, facts) for value, name in dataset.label_names.items()}
    return summary


def _label_summary(value: int, name: str, facts: list[dict[str, Any]]) -> dict[str, Any]:
    having = [fact for fact in facts if value in fact.get("voxels", {})]
    result: dict[str, Any] = {"name": name, "num_cases": len(having)}
    if having:
        result["voxels"] = _range([fact["voxels"][value] for fact in having])
        volumes = [
            fact["voxels"][value] * float(np.prod(fact["spacing_mm"])) / 1000
            for fact in having
            if fact["orientation"] is not None
        ]
        if volumes:
            result["volume_ml"] = _range([round(volume, 3) for volume in volumes])
    return result


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
