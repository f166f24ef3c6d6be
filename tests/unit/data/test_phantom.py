"""The made-up CT: its promises to whoever trains on it."""

from __future__ import annotations

import errno
import json
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.phantom import make_phantom, write_phantom_dataset
from medsam_adapter.errors import DataError, OutputError

LABELS = {1: "liver", 2: "spleen", 3: "left kidney", 4: "right kidney", 5: "aorta", 6: "pancreas"}


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(seed) for seed in range(8)]


def test_every_organ_is_there_in_one_piece_on_at_least_four_slices(phantoms):
    for phantom in phantoms:
        assert phantom.label_names == LABELS
        assert set(np.unique(phantom.labels)) == {0, *LABELS}
        for value in LABELS:
            mask = phantom.labels == value
            assert ndimage.label(mask)[1] == 1, (phantom.case_id, LABELS[value])
            assert mask.any(axis=(1, 2)).sum() >= 4, (phantom.case_id, LABELS[value])


def test_it_is_hu_in_a_body(phantoms):
    for phantom in phantoms:
        array = phantom.scan.array
        assert array.dtype == np.int16 and array.shape == (24, 96, 96)
        assert array.min() >= -1024 and array.max() <= 1500
        assert (array < -900).mean() > 0.15 and array[:, :5, :5].mean() == pytest.approx(-1000, abs=25)  # air outside
        assert ((array > -140) & (array < -50)).mean() > 0.05  # fat
        assert (array > 250).mean() > 0.002 and array.max() > 300  # bone
        for value in LABELS:
            organ = array[phantom.labels == value]
            assert 0 < organ.mean() < 200 and organ.std() > 8, (phantom.case_id, LABELS[value])


def test_right_and_left_are_where_the_affine_says(phantoms):
    for phantom in phantoms:
        assert nib.aff2axcodes(phantom.scan.affine) == ("L", "P", "S")
        np.testing.assert_allclose(phantom.scan.affine @ [47.5, 47.5, 11.5, 1], [0, 0, 0, 1])  # the grid's middle
        centre_mm = {
            value: (phantom.scan.affine @ [*ndimage.center_of_mass(phantom.labels == value)[::-1], 1])[:3]
            for value in LABELS
        }
        assert centre_mm[1][0] > 0 > centre_mm[2][0]  # RAS: the liver on the patient's right
        assert centre_mm[4][0] > 0 > centre_mm[3][0]
        assert centre_mm[6][1] > centre_mm[3][1]  # the pancreas in front of the kidneys
        assert centre_mm[2][2] > centre_mm[3][2]  # the spleen above the kidney


def test_the_seed_decides_everything():
    first, again, other = make_phantom(3), make_phantom(3), make_phantom(4)
    np.testing.assert_array_equal(first.scan.array, again.scan.array)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).mean() > 0.02


def test_cases_vary_in_size_place_and_contrast(phantoms):
    volumes = np.array([[(phantom.labels == value).sum() for value in LABELS] for phantom in phantoms])
    assert (volumes.std(0) / volumes.mean(0) > 0.1).all()
    means = np.array([[p.scan.array[p.labels == value].mean() for value in LABELS] for p in phantoms])
    assert (np.ptp(means, axis=0) > 15).all()
    centres = np.array([[ndimage.center_of_mass(p.labels == value) for value in LABELS] for p in phantoms])
    assert (np.ptp(centres, axis=0).max(1) > 4).all()  # voxels


def test_borders_are_hard():
    """Liver and its neighbours without a label overlap in HU, so that no threshold finds an organ."""
    gaps = []
    for seed in range(8):
        phantom = make_phantom(seed)
        liver = phantom.labels == 1
        rim = ndimage.binary_dilation(liver, iterations=2) & (phantom.labels == 0)
        soft = phantom.scan.array[rim & (phantom.scan.array > 0) & (phantom.scan.array < 200)]
        gaps.append(abs(np.median(soft) - np.median(phantom.scan.array[liver])) / phantom.scan.array[liver].std())
    assert np.median(gaps) < 1.5


def test_a_volume_takes_well_under_a_second():
    make_phantom(0)
    durations = []
    for seed in range(3):
        start = time.process_time()
        make_phantom(seed)
        durations.append(time.process_time() - start)
    assert min(durations) < 0.8


@pytest.mark.parametrize(("shape", "spacing"), [((12, 48, 48), (10, 7, 7)), ((16, 64, 96), (8, 5, 5))])
def test_other_grids_hold_all_organs_too(shape, spacing):
    for seed in range(3):
        phantom = make_phantom(seed, shape, spacing)
        assert phantom.scan.array.shape == phantom.labels.shape == shape and phantom.scan.spacing_mm == spacing
        assert all((phantom.labels == value).any(axis=(1, 2)).sum() >= 4 for value in LABELS)


@pytest.mark.parametrize(("shape", "spacing"), [((4, 96, 96), (5, 3, 3)), ((24, 96, 96), (5, 0, 3))])
def test_impossible_grids_are_refused(shape, spacing):
    with pytest.raises(DataError, match="too small"):
        make_phantom(0, shape, spacing)


def test_data_set_opens_clean_and_is_written_once(tmp_path):
    steps = []
    options = {"shape_zyx": (12, 48, 48), "spacing_mm": (10.0, 7.0, 7.0)}
    root = write_phantom_dataset(tmp_path / "set", 3, seed=5, progress=lambda *at: steps.append(at), **options)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    dataset = open_dataset(root)
    assert dataset.label_names == LABELS and dataset.modality == "CT" and dataset.notes == []
    assert {finding.level for finding in check_dataset(dataset)} == {"ok"}
    sample = dataset.read(dataset.cases[1])
    expected = make_phantom(5 * 100_003 + 1, **options)
    np.testing.assert_array_equal(sample.scan.array, expected.scan.array)
    np.testing.assert_array_equal(sample.labels, expected.labels)
    assert sample.scan.spacing_mm == pytest.approx((10, 7, 7)) and sample.scan.array.dtype == np.int16
    before = (root / "imagesTr/phantom_000.nii.gz").stat().st_mtime_ns
    assert write_phantom_dataset(root, 3, seed=5, **options) == root
    assert (root / "imagesTr/phantom_000.nii.gz").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="already there"):
        write_phantom_dataset(root, 4, seed=5, **options)


def test_a_foreign_data_set_is_not_touched(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "mine"}))
    with pytest.raises(DataError, match="already there"):
        write_phantom_dataset(tmp_path, 1)
    assert json.loads((tmp_path / "dataset.json").read_text()) == {"name": "mine"}


def test_a_full_disk_is_named_and_leaves_no_half_volume(tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OutputError, match=r"phantom_000.nii.gz: cannot be written: the disk is full"):
        write_phantom_dataset(tmp_path / "set", 1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
