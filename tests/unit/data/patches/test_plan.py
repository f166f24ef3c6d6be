"""Plans follow nnU-Net's rules: what its authors published for public data sets comes out, or nearly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint
from medsam_adapter.data.patches.plan import Plan, make_plan, target_spacing_mm, topology


def fingerprint(shape, spacing_mm=(1, 1, 1), num_cases=20, is_picture=False) -> Fingerprint:
    spacings = spacing_mm if isinstance(spacing_mm, list) else [spacing_mm] * num_cases
    statistics = (ChannelStatistics(0, 1, 0.5, 0.2),)
    shapes = (tuple(shape),) * len(spacings)
    return Fingerprint(shapes, tuple(spacings), 1, {"a": (1,)}, "LPS", is_picture, False, statistics)


# Median shape, spacing, cases -> patch, halvings of each axis: https://doi.org/10.1038/s41592-020-01008-z, supplement.
PUBLISHED = {
    "hippocampus": ((36, 50, 35), (1, 1, 1), 260, (40, 56, 40), (3, 3, 3)),
    "brain tumour": ((138, 170, 138), (1, 1, 1), 484, (128, 128, 128), (5, 5, 5)),
    "liver": ((482, 512, 512), (1, 0.7676, 0.7676), 131, (128, 128, 128), (5, 5, 5)),
    "pancreas": ((96, 512, 512), (2.5, 0.8027, 0.8027), 281, (40, 224, 224), (3, 5, 5)),
    "heart (ACDC)": ((18, 237, 208), (5, 1.5625, 1.5625), 200, (20, 256, 224), (2, 5, 5)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_plans_come_out(name):
    shape, spacing, num_cases, patch, halvings = PUBLISHED[name]
    plan = make_plan(fingerprint(shape, spacing, num_cases), side=128)
    assert plan.patch_size == patch
    assert tuple(np.prod(plan.strides, axis=0)) == tuple(2**n for n in halvings)
    if name == "hippocampus":
        assert plan.batch_size == 9
    if name == "liver":
        assert plan.batch_size == 2


def test_kernels_are_flat_until_axes_are_alike():
    strides, kernels = topology((5, 1.25, 1.25), (20, 256, 224))
    assert strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert kernels[:2] == ((1, 3, 3), (1, 3, 3)) and set(kernels[2:]) == {(3, 3, 3)}
    assert len(strides) == len(kernels)


def test_a_coarse_axis_takes_its_tenth_percentile():
    spacings = [(10.0, 1.0, 1.0)] * 15 + [(5.0, 1.0, 1.0)] * 5
    assert target_spacing_mm(fingerprint((12, 200, 200), spacings)) == (5.0, 1.0, 1.0)
    assert target_spacing_mm(fingerprint((150, 200, 200), spacings)) == (10.0, 1.0, 1.0)  # as many slices as pixels
    mild = [(2.5, 1.0, 1.0)] * 15 + [(1.5, 1.0, 1.0)] * 5
    assert target_spacing_mm(fingerprint((12, 200, 200), mild)) == (2.5, 1.0, 1.0)
    finer = [(10.0, 1.0, 1.0)] * 15 + [(0.2, 1.0, 1.0)] * 5
    assert target_spacing_mm(fingerprint((12, 200, 200), finer)) == (1.0, 1.0, 1.0)  # never finer than the others


def test_pictures_and_slices_are_scaled_to_fit():
    pictures = make_plan(fingerprint((1, 2848, 4288), is_picture=True), side=512)
    assert pictures.spatial_dims == 2 and pictures.patch_size == (1, 384, 512) and pictures.network_patch == (384, 512)
    slices = make_plan(fingerprint((80, 512, 512), (3, 0.8, 0.8)), side=224, slicewise=True, divisor=16)
    assert slices.spatial_dims == 2 and slices.patch_size == (1, 224, 224) and not slices.is_picture
    assert make_plan(fingerprint((36, 50, 35), num_cases=260), side=512, slicewise=True).batch_size == 366  # published


def test_every_plan_fits_its_network_and_its_memory():
    rng = np.random.default_rng(0)
    for _ in range(150):
        shape = tuple(int(v) for v in np.exp(rng.uniform(np.log(3), np.log(600), 3)))
        spacing = tuple(float(v) for v in np.exp(rng.uniform(np.log(0.4), np.log(8), 3)))
        side = int(rng.choice([32, 64, 128]))
        for divisor in (None, 8, 32):
            plan = make_plan(fingerprint(shape, spacing), side=side, divisor=divisor, max_batch=4)
            step = (divisor,) * 3 if divisor else np.prod(plan.strides, axis=0)
            assert not (np.array(plan.patch_size) % step).any(), (shape, spacing, plan)
            smallest = 2 * divisor**3 if divisor else 0
            assert math.prod(plan.patch_size) <= max(side**3, smallest), (shape, spacing, plan)
            assert 2 <= plan.batch_size <= 4
            if divisor:  # two voxels or more are left in the deepest feature map
                assert math.prod(plan.patch_size) >= 2 * divisor**3


def test_the_trip_through_json_loses_nothing():
    plan = make_plan(fingerprint((36, 50, 35)), side=64)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
