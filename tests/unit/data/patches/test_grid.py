"""A case goes to the plan's grid and comes back: exactly where only axes turn, nearly where voxels are resampled."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from blobs import LPS, PERMUTED, RAS, blob, tilted
from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint
from medsam_adapter.data.patches.grid import CaseGrid, normalise, resample
from medsam_adapter.data.patches.plan import make_plan
from medsam_adapter.errors import DataError

AXES = {"LPS": LPS, "RAS": RAS, "permuted": PERMUTED, "oblique": tilted(LPS), "oblique permuted": tilted(PERMUTED)}


def plan_for(spacing_mm=(1.0, 1.0, 1.0), channels=1, is_picture=False, is_ct=False, slicewise=False):
    statistics = (ChannelStatistics(90.0, 200.0, 150.0, 25.0),) * channels
    shape = (1, 30, 40) if is_picture else (14, 22, 18)
    fingerprint = Fingerprint((shape,), (spacing_mm,), channels, {"a": (1, 2)}, "LPS", is_picture, is_ct, statistics)
    return make_plan(fingerprint, side=32, slicewise=slicewise)


@pytest.mark.parametrize("name", AXES)
def test_turned_voxels_come_back_exactly(name):
    sample, plan = blob(3, axes=AXES[name]), plan_for()
    grid = CaseGrid.of(sample.scan, plan)
    labels = grid.labels(sample.labels)
    back = grid.masks_to_file(torch.stack([(labels == value).float() - 0.5 for value in (1, 2)]))
    assert (
        back.dtype == bool
        and np.array_equal(back[0], sample.labels == 1)
        and np.array_equal(back[1], sample.labels == 2)
    )
    image = grid.image(sample.scan, plan)[0]
    inside, outside = image[labels > 0], image[labels == 0]
    assert inside.min() > outside.max() - 1 and inside.mean() > outside.mean() + 1  # image and labels lie on each other


def test_source_axes_point_left_back_and_up():
    """One bright voxel near the patient's left, back and feet is last in x and y and first in z."""
    array = np.zeros((6, 7, 8), np.float32)
    array[5, 0, 0] = 1  # RAS: z up, y back, x left
    scan = dataclasses.replace(blob(0).scan, array=array, affine=RAS)
    image = CaseGrid.of(scan, plan_for()).image(scan, plan_for())[0]
    assert np.unravel_index(int(image.argmax()), image.shape) == (5, 6, 7)


@pytest.mark.parametrize("name", AXES)
def test_resampled_masks_come_back_on_their_own_grid(name):
    sample = blob(4, (20, 30, 26), (1.6, 0.8, 1.2), AXES[name])
    grid = CaseGrid.of(sample.scan, plan_for())
    labels = grid.labels(sample.labels)
    extent = np.sort(np.array(sample.scan.spacing_mm) * sample.labels.shape)
    assert np.sort(grid.plan_shape) == pytest.approx(np.round(extent), abs=1)
    back = grid.masks_to_file((labels > 0).float()[None] - 0.5)[0]
    overlap = 2 * (back & (sample.labels > 0)).sum() / (back.sum() + (sample.labels > 0).sum())
    assert back.shape == sample.labels.shape and overlap > 0.93


def test_slices_are_scaled_and_never_mixed():
    sample, plan = blob(5, (6, 40, 60), (4.0, 0.5, 0.5)), plan_for(slicewise=True)
    grid = CaseGrid.of(sample.scan, plan)
    assert grid.plan_shape == (6, 17, 26)[:1] + grid.plan_shape[1:] and grid.plan_shape[0] == 6
    height, width = grid.plan_shape[1:]
    assert (height, width) == pytest.approx((width * 40 / 60, width), abs=1)
    assert height <= plan.patch_size[1] and width <= plan.patch_size[2]
    assert height == plan.patch_size[1] or width == plan.patch_size[2]


def test_a_picture_fits_the_patch():
    sample, plan = blob(6, (1, 90, 60), axes=None, channels=3), plan_for(channels=3, is_picture=True)
    grid = CaseGrid.of(sample.scan, plan)
    assert grid.plan_shape[0] == 1 and grid.image(sample.scan, plan).shape == (3, *grid.plan_shape)
    assert max(s / p for s, p in zip(grid.plan_shape[1:], plan.patch_size[1:], strict=True)) == 1


def test_a_grey_picture_becomes_coloured():
    sample, plan = blob(6, (1, 90, 60), axes=None), plan_for(channels=3, is_picture=True)
    image = CaseGrid.of(sample.scan, plan).image(sample.scan, plan)
    assert image.shape[0] == 3 and torch.equal(image[0], image[2])


def test_what_was_not_planned_for_is_refused():
    plan, scan = plan_for(), blob(0, channels=2).scan
    with pytest.raises(DataError, match="other channels"):
        CaseGrid.of(scan, plan).image(scan, plan)
    with pytest.raises(DataError, match="not what the network was planned for"):
        CaseGrid.of(blob(0, (1, 20, 20), axes=None).scan, plan)
    with pytest.raises(DataError, match="not what the network was planned for"):
        CaseGrid.of(scan, plan_for(is_picture=True))
    broken = blob(0).scan
    broken.array[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not numbers"):
        CaseGrid.of(broken, plan).image(broken, plan)


def test_ct_keeps_its_scale_and_other_scans_lose_it():
    image = np.array([50.0, 150.0, 175.0, 1000.0], np.float32).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(normalise(image, plan_for(is_ct=True)).ravel(), [-2.4, 0, 1, 2])
    plain = normalise(image, plan_for())
    assert plain.mean() == pytest.approx(0, abs=1e-6) and plain.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(normalise(3 * image + 7, plan_for()), plain, rtol=1e-4, atol=1e-4)


def test_zeros_outside_do_not_count_if_the_plan_says_so():
    image = np.array([0.0, 0.0, 0.0, 10.0, 20.0], np.float32).reshape(1, 1, 1, 5)
    plan = dataclasses.replace(plan_for(), ignores_zeros=True)
    np.testing.assert_allclose(normalise(image, plan).ravel(), [0, 0, 0, -1, 1], atol=1e-6)
    assert not normalise(np.zeros_like(image), plan).any()


def test_resampling_keeps_a_ramp_and_the_grid_s_corners():
    ramp = torch.arange(8.0)[None, :, None, None] + 10 * torch.arange(6.0)[:, None]
    finer = resample(ramp, (16, 12, 1))[0, :, :, 0]
    expected = ((torch.arange(16.0) + 0.5) / 2 - 0.5)[:, None] + 10 * ((torch.arange(12.0) + 0.5) / 2 - 0.5)
    torch.testing.assert_close(finer[1:-1, 1:-1], expected[1:-1, 1:-1])
    coarse = resample(torch.ones(1, 9, 9, 9), (4, 5, 3))
    torch.testing.assert_close(coarse, torch.ones(1, 4, 5, 3))
    spike = torch.zeros(1, 1, 1, 40)
    spike[..., 20] = 1
    assert resample(spike, (1, 1, 10)).sum() == pytest.approx(0.25, abs=0.02)  # nothing falls between the samples
