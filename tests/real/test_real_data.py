"""The scans of ../shared/data, where that folder is there: every set opens, and its README's traps do not catch us.

Nothing here is needed to build or use the library; without the folder the whole file is skipped.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset, summarise
from medsam_adapter.data.io import read_label, read_scan, write_mask
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.splits import make_split
from medsam_adapter.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there"),
]

SETS = {
    "hippocampus": ({1: "anterior", 2: "posterior"}, 100),
    "isic2017": ({1: "lesion"}, 5),
    "idrid_optic_disc": ({1: "optic disc"}, 12),
    "hc18_ultrasound": ({1: "target"}, 16),
    "breast_usg": ({1: "benign lesion", 2: "malignant lesion"}, 10),
    "brisc_brain_tumor": ({1: "meningioma", 2: "glioma", 3: "pituitary tumor"}, 14),
    "dsb2018_nuclei": ({}, 20),
}
VOLUMES = {"ct_multiorgan/ct_full": "RAS", "ct_multiorgan/ct_sm": "RAS", "ct_multiorgan/mr_sm": "LPS"}


@pytest.mark.parametrize("name", SETS)
def test_every_set_opens_and_its_first_case_reads(name):
    label_names, num_cases = SETS[name]
    dataset = open_dataset(DATA / name)
    assert dataset.label_names == label_names and len(dataset.cases) == num_cases
    sample = dataset.read(dataset.cases[0])
    assert sample.labels.shape == sample.scan.shape_zyx
    values = {int(value) for value in np.unique(sample.labels)} - {0}
    assert values and values <= set(sample.label_names)
    assert make_split(dataset.cases, seed=1)["test"]


@pytest.mark.parametrize(
    "name", ["hippocampus", "hc18_ultrasound", "breast_usg", "brisc_brain_tumor", "dsb2018_nuclei"]
)
def test_no_case_has_an_error(name):
    dataset = open_dataset(DATA / name)
    findings = check_dataset(dataset)
    assert [finding for finding in findings if finding.level == "error"] == []
    json.dumps(summarise(dataset, findings))


def test_hippocampus_mixed_types_and_scales_are_noticed():
    problems = {finding.problem for finding in check_dataset(open_dataset(DATA / "hippocampus"))}
    assert {"cases are of mixed data types", "cases are of mixed intensity scales"} <= problems


def test_colours_of_masks_become_the_right_labels():
    dataset = open_dataset(DATA / "breast_usg")
    voxels = {case.case_id: np.bincount(dataset.read(case).labels.ravel(), minlength=3) for case in dataset.cases}
    assert voxels["10013"][1:].tolist() == [41865, 0]  # green, benign
    assert voxels["10099"][1:].tolist() == [0, 5873]  # red, malignant


def test_rgba_images_lose_their_alpha_and_nuclei_keep_their_numbers():
    dataset = open_dataset(DATA / "dsb2018_nuclei")
    assert dataset.instances and dataset.notes
    sample = dataset.read(dataset.cases[0])
    assert sample.scan.array.shape[-1] == 3
    assert sorted(sample.label_names) == list(range(1, sample.labels.max() + 1))


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_keep_their_orientation_through_a_written_mask(name, tmp_path):
    scan = read_scan(DATA / name / "image.nii.gz")
    labels = read_label(DATA / name / "label.nii.gz", like=scan)
    assert "".join(nib.aff2axcodes(scan.affine)) == VOLUMES[name]
    assert scan.spacing_mm == pytest.approx((3, 3, 3))
    written = nib.load(write_mask(tmp_path / "mask.nii.gz", labels, scan))
    source = nib.load(DATA / name / "image.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    reference = nib.load(DATA / name / "label.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(reference.dataobj))
    for code in ("sform_code", "qform_code"):
        assert int(written.header[code]) == int(source.header[code])


def test_ct_is_in_hu_and_the_liver_is_where_its_label_says():
    names = json.loads((DATA / "ct_multiorgan" / "labels_total.json").read_text())
    liver = next(int(key) if key.isdigit() else value for key, value in names.items() if "liver" in (key, value))
    scan = read_scan(DATA / "ct_multiorgan/ct_full/image.nii.gz")
    labels = read_label(DATA / "ct_multiorgan/ct_full/label.nii.gz", like=scan)
    assert 30 < np.median(scan.array[labels == liver]) < 180 and scan.array.min() <= -900
    x_mm = (scan.affine @ [*np.argwhere(labels == liver).mean(0)[::-1], 1])[0]
    assert x_mm > np.mean((scan.affine @ [*np.argwhere(labels > 0).mean(0)[::-1], 1])[0])  # right of the middle


def test_a_label_of_another_scan_is_refused():
    scan = read_scan(DATA / "ct_multiorgan/ct_sm/image.nii.gz")
    with pytest.raises(DataError, match="not on the grid"):
        read_label(DATA / "ct_multiorgan/mr_sm/label.nii.gz", like=scan)
