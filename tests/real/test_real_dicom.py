"""The CT series of ../shared/data as DICOM: against the NIfTI label on the same grid, and through `msa predict`.

Anonymising has emptied the UIDs of its files, and its SliceThickness (3 mm) is not its step (2 mm).
"""

from __future__ import annotations

import json
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.data.io import is_dicom_folder, read_label, read_scan, write_mask

DATA = Path(__file__).parents[3] / "shared" / "data" / "dicom_series"
SERIES, LABEL = DATA / "ct_abdomen_20", DATA / "label_total.nii.gz"
SPLEEN_XYZ = (350, 324, 12)
pytestmark = [pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there"), pytest.mark.real]


@pytest.fixture(scope="module")
def scan():
    return read_scan(SERIES)


@pytest.fixture(scope="module")
def labels(scan):
    return read_label(LABEL, like=scan)


@pytest.fixture(scope="module")
def names() -> dict[int, str]:
    return {int(value): name for value, name in json.loads((DATA / "labels_total.json").read_text()).items()}


def test_the_grid_is_that_of_the_nifti_file_turned(scan):
    assert is_dicom_folder(SERIES) and scan.array.dtype == np.int16 and scan.array.min() == -1024
    assert scan.spacing_mm == (2.0, 0.9765625, 0.9765625)
    ours = nib.as_closest_canonical(nib.Nifti1Image(scan.array.T, scan.affine))
    theirs = nib.as_closest_canonical(nib.load(LABEL))
    assert ours.shape == theirs.shape
    corners = np.array([(0, 0, 0, 1), (511, 511, 19, 1), (511, 0, 0, 1)]).T
    np.testing.assert_allclose(ours.affine @ corners, theirs.affine @ corners, atol=0.01)


def test_the_label_lies_on_its_organs(scan, labels, names):
    assert not np.allclose(nib.load(LABEL).affine, scan.affine)  # its rows run the other way
    values = {name: value for value, name in names.items()}
    for organ, low, high in (("liver", 60, 130), ("spleen", 60, 160), ("aorta", 100, 400)):
        assert low < np.median(scan.array[labels == values[organ]]) < high
    assert np.median(scan.array[labels == values["colon"]]) < -400  # full of air
    liver, spleen = (np.argwhere(labels == values[organ]).mean(0)[::-1] for organ in ("liver", "spleen"))
    assert (scan.affine @ (*liver, 1))[0] > 50 > -50 > (scan.affine @ (*spleen, 1))[0]  # right and left, RAS mm
    assert labels[SPLEEN_XYZ[::-1]] == values["spleen"]


def test_a_segmentation_of_all_its_organs_comes_back(scan, labels, names, tmp_path):
    path = write_mask(tmp_path / "seg.dcm", labels, scan, names)
    np.testing.assert_array_equal(read_label(path, like=scan), labels)
    nifti = read_scan(LABEL)
    np.testing.assert_array_equal(read_label(path, like=nifti), nifti.array)
    seg = highdicom.seg.segread(path)
    assert {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence} == {
        number: names.get(number, f"label {number}") for number in range(1, max(names) + 1)
    }
    files = {path.name.removeprefix("CT.") for path in SERIES.iterdir()}
    assert {ref.ReferencedSOPInstanceUID for ref in seg.SourceImageSequence} == files


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_masks_of_other_kinds_lie_on_the_series(scan, labels, tmp_path, suffix):
    path = write_mask(tmp_path / f"mask{suffix}", labels, scan)
    np.testing.assert_array_equal(read_label(path, like=scan), labels)
    np.testing.assert_array_equal(read_label(path, like=read_scan(LABEL)), read_scan(LABEL).array)


def test_predict_from_the_series_to_a_segmentation(scan, tmp_path):
    out, picture = tmp_path / "seg.dcm", tmp_path / "overlay.png"
    point = ",".join(map(str, SPLEEN_XYZ))
    command = ["predict", "sam-tiny", str(SERIES), "--point", point, "--intensity", "ct:soft-tissue", "--one-slice"]
    assert run([*command, "-o", str(out), "--overlay", str(picture)]) == 0
    mask = read_label(out, like=scan)
    assert mask[SPLEEN_XYZ[::-1]] == 1 and np.flatnonzero(mask.any((1, 2))).tolist() == [SPLEEN_XYZ[2]]
    assert highdicom.seg.segread(out).SegmentSequence[0].SegmentLabel == "object"
    assert Image.open(picture).size[0] > 100
    assert run([*command, "-o", str(tmp_path / "seg.nii.gz")]) == 0
    np.testing.assert_array_equal(read_label(tmp_path / "seg.nii.gz", like=scan), mask)
