"""The check: one broken thing at a time, and it must be found, in the right case, without an exception."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam_adapter.data.check import Finding, check_dataset, summarise
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.layouts.base import Dataset
from medsam_adapter.data.sample import Case

SHAPE_XYZ = (6, 5, 4)


def nifti(path: Path, data: np.ndarray, affine=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([1.5, 1.5, 3, 1]) if affine is None else affine), path)


def scan(seed: int, dtype=np.int16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, SHAPE_XYZ).astype(dtype)


def labels() -> np.ndarray:
    result = np.zeros(SHAPE_XYZ, np.uint8)
    result[0, :2], result[3] = 1, 2
    return result


@pytest.fixture
def root(tmp_path):
    for number in range(4):
        nifti(tmp_path / f"imagesTr/c{number}.nii.gz", scan(number))
        nifti(tmp_path / f"labelsTr/c{number}.nii.gz", labels())
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [{"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in range(4)],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def bad(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.case_id, finding.level, finding.problem) for finding in findings if finding.level != "ok"]


def test_a_clean_set_is_ok_and_progress_is_told(root):
    steps = []
    findings = check_dataset(open_dataset(root), progress=lambda *at: steps.append(at))
    assert [(finding.case_id, finding.level) for finding in findings] == [(f"c{n}", "ok") for n in range(4)]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def _shape(root):
    nifti(root / "labelsTr/c1.nii.gz", labels()[:5])


def _affine(root):
    nifti(root / "labelsTr/c1.nii.gz", labels(), np.diag([1.5, 1.5, 2, 1]))


def _wrong_label(root):
    nifti(root / "labelsTr/c1.nii.gz", labels() * 3)


def _not_whole(root):
    nifti(root / "labelsTr/c1.nii.gz", labels().astype(np.float32) * 0.7)


def _empty(root):
    nifti(root / "labelsTr/c1.nii.gz", labels() * 0)


def _nan(root):
    data = scan(1, np.float32)
    data[0] = np.nan
    nifti(root / "imagesTr/c1.nii.gz", data)


def _constant(root):
    nifti(root / "imagesTr/c1.nii.gz", scan(1) * 0 + 7)


def _four_d(root):
    nifti(root / "imagesTr/c1.nii.gz", np.stack([scan(1)] * 2, -1))


def _cut(root):
    path = root / "imagesTr/c1.nii.gz"
    path.write_bytes(path.read_bytes()[:150])


def _missing(root):
    (root / "labelsTr/c1.nii.gz").unlink()


def _spacing(root):
    for folder, data in (("imagesTr", scan(1)), ("labelsTr", labels())):
        nifti(root / folder / "c1.nii.gz", data, np.diag([1.5, 1.5, 25, 1]))


def _double(root):
    shutil.copy(root / "imagesTr/c0.nii.gz", root / "imagesTr/c1.nii.gz")


def _orientation(root):
    for folder, data in (("imagesTr", scan(1)), ("labelsTr", labels())):
        nifti(root / folder / "c1.nii.gz", data, np.diag([-1.5, 1.5, 3, 1]))


def _dtype(root):
    nifti(root / "imagesTr/c1.nii.gz", scan(1, np.float32))


def _scale(root):
    nifti(root / "imagesTr/c1.nii.gz", scan(1) * 100)


@pytest.mark.parametrize(
    ("break_it", "case_id", "level", "problem"),
    [
        (_shape, "c1", "error", "not on the grid"),
        (_affine, "c1", "error", "elsewhere in space"),
        (_wrong_label, "c1", "error", "have no name"),
        (_not_whole, "c1", "error", "not whole numbers"),
        (_empty, "c1", "warning", "mask is empty"),
        (_nan, "c1", "error", "not numbers"),
        (_constant, "c1", "error", "constant"),
        (_four_d, "c1", "error", "more than three axes"),
        (_cut, "c1", "error", "cannot be read"),
        (_missing, "c1", "error", "does not exist"),
        (_spacing, "c1", "warning", "implausible voxel size"),
        (_double, "", "error", "same image file"),
        (_orientation, "", "warning", "mixed orientations"),
        (_dtype, "", "warning", "mixed data types"),
        (_scale, "", "warning", "mixed intensity scales"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_is_found_in_its_case_and_nowhere_else(root, break_it, case_id, level, problem):
    break_it(root)
    dataset = open_dataset(root)
    findings = bad(check_dataset(dataset))
    assert [(found[0], found[1]) for found in findings if problem in found[2]] == [(case_id, level)]
    assert {found[0] for found in findings} <= {case_id, ""}
    faulty = next(finding for finding in check_dataset(dataset) if problem in finding.problem)
    assert faulty.file is not None and (faulty.found or faulty.hint)
    json.dumps(summarise(dataset, check_dataset(dataset)))


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("folder", ("images/c0.nii.gz", "masks/c0.nii.gz")),
        ("folder", ("images/c0.png", "masks/c0.png")),
        ("btcv", ("imagesTr/img0001.nii.gz", "labelsTr/label0001.nii.gz")),
    ],
)
def test_images_and_masks_that_are_broken_links_are_found(tmp_path, layout, names):
    for name in names:
        nifti(tmp_path / name.replace("c0.png", "c1.nii.gz").replace("0001", "0002").replace("c0", "c1"), labels())
        (tmp_path / name).symlink_to("../unmounted/" + name)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == layout and len(dataset.cases) == 2
    found = [
        finding for finding in check_dataset(dataset) if "is a link to a file that is not there" in finding.problem
    ]
    assert [(str(f.file), f.level) for f in found] == [(str(tmp_path / name), "error") for name in names]
    assert all("unmounted" in finding.found for finding in found)


def test_doubled_images_of_one_patient_are_a_warning(root):
    _double(root)
    dataset = open_dataset(root)
    for case in dataset.cases:
        case.patient_id = "one"
    assert [(level, problem[:14]) for _, level, problem in bad(check_dataset(dataset))] == [
        ("warning", "the same image")
    ]


def test_double_ids_unlabelled_and_never_seen_labels(root):
    dataset = open_dataset(root)
    dataset.cases.append(Case("c0", root / "imagesTr/c0.nii.gz"))
    dataset.label_names[3] = "pancreas"
    findings = bad(check_dataset(dataset))
    assert ("c0", "warning", "has no label map") in findings
    assert ("", "error", "the case id 'c0' is given 2 times") in findings
    assert ("", "warning", "labels occur in no mask") in findings


def test_an_unexpected_exception_is_a_finding(root, monkeypatch):
    def fail(self, case):
        raise RuntimeError("surprise")

    monkeypatch.setattr(Dataset, "read_scan", fail)
    findings = check_dataset(open_dataset(root))
    assert all(finding.level == "error" and "surprise" in finding.found for finding in findings)
    assert len(findings) == 4


def test_summary_counts_voxels_and_millilitres(root):
    _cut(root)
    dataset = open_dataset(root)
    summary = summarise(dataset, check_dataset(dataset))
    assert json.loads(json.dumps(summary)) == summary
    assert summary["findings"] == {"error": 1, "warning": 0, "ok": 3} and summary["cases_with_errors"] == ["c1"]
    assert summary["shape_zyx"]["min"] == [4, 5, 6] and summary["spacing_mm"]["median"] == [3.0, 1.5, 1.5]
    assert summary["orientations"] == {"RAS": 3} and summary["dtypes"] == {"int16": 3}
    liver = summary["labels"]["1"]
    assert liver["name"] == "liver" and liver["num_cases"] == 3
    assert liver["voxels"] == {"min": 8, "median": 8.0, "max": 8}
    assert liver["volume_ml"]["median"] == pytest.approx(8 * 1.5 * 1.5 * 3 / 1000)
