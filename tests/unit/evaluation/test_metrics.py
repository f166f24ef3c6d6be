"""Metrics against counts done by hand and against a brute-force HD95."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medsam_adapter.errors import MSAInputError
from medsam_adapter.evaluation.metrics import _cropped_to_union, _hd95_mm, mask_metrics


def brute_force_hd95(prediction, reference, spacing):
    """Every surface voxel to every other. Surface: a face neighbour is outside the mask; so is all beyond the image."""

    def surface_mm(mask):
        inside = ndimage.binary_erosion(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]
        return np.argwhere(mask & ~inside) * np.asarray(spacing)

    distances = cdist(surface_mm(prediction), surface_mm(reference))
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


def blobs(seed, shape, share=0.25):
    """Two overlapping smooth random masks, neither of them empty."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, *(1.5,) * len(shape)))
    fields[1] = 0.6 * fields[0] + 0.4 * fields[1]
    return [field > np.quantile(field, 1 - share) for field in fields]


def test_squares_counted_by_hand():
    prediction, reference = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    prediction[2:6, 2:6] = True
    reference[2:6, 4:8] = True
    metrics = mask_metrics(prediction, reference, (1, 1))
    assert (metrics.prediction_voxels, metrics.reference_voxels, metrics.status) == (16, 16, "scored")
    assert metrics.dice == 2 * 8 / 32
    assert metrics.iou == 8 / 24
    # Of 12 outline pixels, 4 lie in the far column and 2 px from the other outline: more than 5 % of them.
    assert metrics.hd95_mm == 2.0


@pytest.mark.parametrize(("axis", "millimetres"), [(0, 5.0), (1, 2.0), (2, 0.5)])
def test_spacing_is_in_array_order(axis, millimetres):
    reference = np.zeros((9, 9, 9), bool)
    reference[4, 4, 4] = True
    metrics = mask_metrics(np.roll(reference, 1, axis), reference, (5.0, 2.0, 0.5))
    assert metrics.hd95_mm == pytest.approx(millimetres)
    assert metrics.dice == metrics.iou == 0


def test_equal_masks():
    mask, _ = blobs(0, (6, 12, 10))
    metrics = mask_metrics(mask, mask, (3, 1, 1))
    assert (metrics.dice, metrics.iou, metrics.hd95_mm) == (1, 1, 0)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_noise_and_single_voxels_against_sets_and_brute_force(seed, share):
    rng, shape, spacing = np.random.default_rng(seed), (6, 7, 9), (3.0, 0.7, 1.3)
    noise, one = rng.random((2, *shape)) < share, np.zeros(shape, bool)
    noise[:, 0, 0, 0], one[tuple(rng.integers(shape))] = True, True
    for prediction, reference in ((noise[0], noise[1]), (one, noise[1]), (noise[0], one), (one, np.roll(one, 2, 1))):
        found = mask_metrics(prediction, reference, spacing)
        p, r = ({tuple(voxel) for voxel in np.argwhere(mask)} for mask in (prediction, reference))
        assert found.dice == pytest.approx(2 * len(p & r) / (len(p) + len(r)))
        assert found.iou == pytest.approx(len(p & r) / len(p | r))
        assert found.hd95_mm == pytest.approx(brute_force_hd95(prediction, reference, spacing), rel=1e-5)


@pytest.mark.parametrize("shape", [(14, 11), (7, 12, 9), (1, 16, 12), (2, 9, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_equals_brute_force(shape, seed):
    spacing = (3.0, 0.7, 1.3)[-len(shape) :]
    prediction, reference = blobs(seed, shape)
    found = mask_metrics(prediction, reference, spacing).hd95_mm
    if shape[0] == 1:
        prediction, reference, spacing = prediction[0], reference[0], spacing[1:]
    assert found == pytest.approx(brute_force_hd95(prediction, reference, spacing), rel=1e-3)


def test_one_slice_is_scored_as_a_picture():
    """As a volume each voxel of one slice is surface, and the far larger set of distances gives another HD95."""
    prediction, reference = np.zeros((1, 40, 40), bool), np.zeros((1, 40, 40), bool)
    reference[0, 5:35, 5:35] = True
    prediction[0, 5:35, 5:30] = True
    as_volume, as_picture = (
        mask_metrics(prediction, reference, (5, 1, 1)),
        mask_metrics(prediction[0], reference[0], (1, 1)),
    )
    assert as_volume == as_picture
    # The prediction's own rim lies among the reference's voxels, so in 3-D it would count as 0 mm away.
    wrong = _hd95_mm(prediction, reference, (5.0, 1.0, 1.0))
    assert wrong < as_volume.hd95_mm


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(12, 13), (8, 9, 10), (2, 9, 9)]), st.floats(0.02, 0.9))
def test_cropping_changes_nothing(seed, shape, share):
    prediction, reference = blobs(seed, shape, share)
    padded = [np.pad(mask, 5) for mask in (prediction, reference)]
    spacing = (4.0, 1.5, 0.6)[-len(shape) :]
    expected = brute_force_hd95(prediction, reference, spacing)
    for pair in ((prediction, reference), padded):
        cropped = _cropped_to_union(*pair)
        assert cropped[0].sum() == prediction.sum() and cropped[1].sum() == reference.sum()
        assert _hd95_mm(*cropped, spacing) == pytest.approx(_hd95_mm(*pair, spacing), rel=1e-3)
        assert _hd95_mm(*cropped, spacing) == pytest.approx(expected, rel=1e-3)
    assert all(side <= old for side, old in zip(_cropped_to_union(*padded)[0].shape, np.add(shape, 2), strict=True))


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8), (1, 6, 8)])
def test_empty_masks(shape):
    spacing = (4.0, 2.0, 3.0)[-len(shape) :]
    empty, some = np.zeros(shape, bool), np.zeros(shape, bool)
    some[..., 2, 3] = True

    both = mask_metrics(empty, empty, spacing)
    assert both.status == "both_empty"
    assert all(math.isnan(value) for value in (both.dice, both.iou, both.hd95_mm))

    false_positive = mask_metrics(some, empty, spacing)
    assert (false_positive.status, false_positive.dice, false_positive.iou) == ("false_positive", 0, 0)
    assert math.isnan(false_positive.hd95_mm)

    missed = mask_metrics(empty, some, spacing)
    assert (missed.status, missed.dice, missed.iou) == ("missed", 0, 0)
    assert missed.hd95_mm == pytest.approx(math.dist((0,) * len(shape), np.multiply(shape, spacing)))


def test_missing_a_target_is_never_better_than_any_mask_of_it():
    reference = np.zeros((12, 12), bool)
    reference[0, 0] = True
    farthest = np.zeros((12, 12), bool)
    farthest[-1, -1] = True
    missed = mask_metrics(np.zeros((12, 12), bool), reference, (2, 1))
    assert missed.hd95_mm > mask_metrics(farthest, reference, (2, 1)).hd95_mm


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "words"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4), bool), (1, 1), "bool"),
        (np.zeros((4, 4), bool), np.zeros((4, 4), np.uint8), (1, 1), "labels == value"),
        (np.zeros((4, 4), bool), np.zeros((4, 5), bool), (1, 1), "grid"),
        (np.zeros((4, 4), bool), np.zeros((4, 4), bool), (1, 1, 1), "spacing"),
        (np.zeros((4, 4), bool), np.zeros((4, 4), bool), (1, 0), "spacing"),
        (np.zeros((4, 4), bool), np.zeros((4, 4), bool), (1, math.nan), "spacing"),
        (np.zeros(4, bool), np.zeros(4, bool), (1,), "grid"),
    ],
)
def test_what_does_not_fit_is_refused(prediction, reference, spacing, words):
    with pytest.raises(MSAInputError, match=words):
        mask_metrics(prediction, reference, spacing)
