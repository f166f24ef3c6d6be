"""Patches: the same for the same seed, a third on targets, image and masks moved together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from blobs import RAS, blob, write_blobs
from medsam_adapter.data.fingerprint import take_fingerprint
from medsam_adapter.data.patches.augment import PatchAugmentation
from medsam_adapter.data.patches.dataset import PatchDataset, load_patch_cases, target_masks
from medsam_adapter.data.patches.plan import make_plan
from medsam_adapter.errors import DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Plan and cases of three small volumes, patches of 8^3."""
    samples = [blob(0, (20, 32, 28)), blob(1, (20, 32, 28), axes=RAS), blob(2, (6, 32, 28))]
    dataset = write_blobs(tmp_path_factory.mktemp("blobs"), samples)
    plan = make_plan(take_fingerprint(dataset, dataset.cases), side=32, divisor=8)
    plan = dataclasses.replace(plan, patch_size=(8, 8, 8))
    return plan, load_patch_cases(dataset, dataset.cases, plan)


def equal(one, other) -> bool:
    return torch.equal(one["image"], other["image"]) and torch.equal(one["targets"], other["targets"])


def test_items_depend_on_seed_epoch_and_index_only(prepared):
    plan, cases = prepared
    make = lambda seed: PatchDataset(cases, plan, 4, PatchAugmentation(plan, flip=True), seed)  # noqa: E731
    one, other = make(1), make(1)
    assert len(one) == 12
    wanted = [one[i] for i in range(12)]
    for i in reversed(range(12)):
        assert equal(other[i], wanted[i]) and other[i]["case_id"] == wanted[i]["case_id"]
    assert sum(equal(make(2)[i], wanted[i]) for i in range(12)) == 0
    one.set_epoch(1)
    assert sum(equal(one[i], wanted[i]) for i in range(12)) == 0
    one.set_epoch(0)
    assert equal(one[5], wanted[5])


def test_targets_overlap_as_regions_do(prepared):
    plan, cases = prepared
    data = PatchDataset(cases, plan, 30)
    seen = [data[i]["targets"] for i in range(90)]
    assert all(t.shape == (2, 8, 8, 8) and set(t.unique().tolist()) <= {0.0, 1.0} for t in seen)
    assert all((whole >= core).all() for whole, core in seen)
    assert any(core.any() for _, core in seen) and any((whole > core).any() for whole, core in seen)


def test_a_third_of_the_patches_lie_on_a_target(prepared):
    plan, cases = prepared
    plan = dataclasses.replace(plan, patch_size=(1, 1, 1))
    data = PatchDataset([cases[0]], plan, 2000)
    share = np.mean([bool(data[i]["targets"].any()) for i in range(2000)])
    by_chance = float((cases[0].labels > 0).float().mean())
    assert share == pytest.approx(1 / 3 + 2 / 3 * by_chance, abs=0.035)


def test_small_and_large_targets_are_shown_alike(prepared):
    plan, cases = prepared
    plan = dataclasses.replace(plan, patch_size=(1, 1, 1), targets={"shell": (1,), "core": (2,)})
    case = dataclasses.replace(cases[0], spots={"shell": cases[0].spots["whole"][:1], "core": cases[0].spots["core"]})
    data = PatchDataset([case], plan, 600)
    data._start = lambda c, rng, start=data._start: start(c, _Always(rng))
    shown = [data[i]["targets"].flatten().tolist() for i in range(600)]
    assert np.mean([core for _, core in shown]) == pytest.approx(0.5, abs=0.08)


class _Always:
    """A generator that always asks for a target."""

    def __init__(self, rng):
        self.rng = rng

    def random(self):
        return 0.0

    def integers(self, *arguments, **more):
        return self.rng.integers(*arguments, **more)


def test_every_place_is_reached_and_none_beyond(prepared):
    plan, cases = prepared
    case = dataclasses.replace(cases[0], spots={})
    data, rng = PatchDataset([case], plan), np.random.default_rng(0)
    starts = np.array([data._start(case, rng) for _ in range(2000)])
    assert starts.min(0).tolist() == [0, 0, 0] and starts.max(0).tolist() == [12, 24, 20]
    middle = dataclasses.replace(cases[0], spots={"whole": np.array([[10, 16, 14]])})
    assert tuple(data._start(middle, _Always(rng))) == (6, 12, 10)  # a target's voxel is the patch's middle
    edge = dataclasses.replace(cases[0], spots={"whole": np.array([[19, 31, 27]])})
    starts = {tuple(data._start(edge, _Always(rng))) for _ in range(5)}
    assert starts == {(12, 24, 20)}


def test_a_case_smaller_than_the_patch_stands_in_its_middle(prepared):
    plan, cases = prepared
    item = PatchDataset([cases[2]], plan)[0]
    assert item["image"].shape == (1, 8, 8, 8) and item["image"].dtype == torch.float32
    assert not item["image"][:, 0].any() and not item["image"][:, 7].any()
    assert item["image"][:, 1].any() and item["image"][:, 6].any()


def test_a_slice_is_a_picture(prepared):
    plan, cases = prepared
    plan = dataclasses.replace(plan, spatial_dims=2, patch_size=(1, 8, 8))
    item = PatchDataset(cases, plan, 1, PatchAugmentation(plan, flip=True))[0]
    assert item["image"].shape == (1, 8, 8) and item["targets"].shape == (2, 8, 8)


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_labels_are_moved_together(prepared, dims):
    plan = dataclasses.replace(prepared[0], spatial_dims=dims)
    labels = torch.zeros((24,) * dims, dtype=torch.int16)
    labels[(slice(5, 14),) * dims] = 2
    image = labels[None].float()
    moved = 0
    augment = PatchAugmentation(plan, flip=True)
    for seed in range(40):
        shown, marked = augment(image, labels, seed)
        assert shown.shape == image.shape and marked.shape == labels.shape and marked.dtype == labels.dtype
        assert set(marked.unique().tolist()) <= {0, 2} and (marked > 0).any()
        assert shown[0][marked > 0].mean() > shown[0][marked == 0].mean() + 0.8, seed
        moved += not torch.equal(marked, labels)
    assert moved > 15


def test_left_and_right_are_mirrored_only_if_wanted(prepared):
    plan = prepared[0]
    labels = torch.zeros(24, 24, 24, dtype=torch.int16)
    labels[4:20, 8:20, 2:8] = 1  # left, and off the middle in y
    image = labels[None].float()

    def halves(flip):
        made = PatchAugmentation(plan, flip)
        marked = [made(image, labels, seed)[1] for seed in range(60)]
        return (
            np.mean([bool(m[:, :, 12:].sum() > m[:, :, :12].sum()) for m in marked]),
            np.mean([bool(m[:, :12].sum() > m[:, 12:].sum()) for m in marked]),
        )

    assert halves(False) == (0, 0)
    right, front = halves(True)
    assert 0.3 < right < 0.7 and front == 0


def test_voxels_that_are_deep_are_not_tilted(prepared):
    plan = dataclasses.replace(prepared[0], spacing_mm=(5.0, 1.0, 1.0))
    labels = torch.zeros(16, 16, 16, dtype=torch.int16)
    labels[8:] = 1
    augment, tilted = PatchAugmentation(plan), PatchAugmentation(prepared[0])
    augment._compose.transforms, tilted._compose.transforms = (
        tuple(a._compose.transforms[:1]) for a in (augment, tilted)
    )
    inner = (slice(None), slice(5, 11), slice(5, 11))
    flat = [augment(labels[None].float(), labels, seed)[1][inner] for seed in range(30)]
    assert all((m == m[:, :1, :1]).all() for m in flat)
    assert any(
        (m != m[:, :1, :1]).any() for m in (tilted(labels[None].float(), labels, s)[1][inner] for s in range(30))
    )


def test_masks_of_unions():
    labels = torch.tensor([0, 1, 2, 3], dtype=torch.int16)
    assert target_masks(labels, {"a": (1, 3), "b": (2,)}).tolist() == [
        [False, True, False, True],
        [False, False, True, False],
    ]


def test_a_case_without_labels_is_refused(tmp_path, prepared):
    dataset = write_blobs(tmp_path, [blob(0)])
    dataset.cases[0].label = None
    with pytest.raises(DataError, match="no label map"):
        load_patch_cases(dataset, dataset.cases, prepared[0])
