"""The simulated person: prompts in the model frame that lie on their targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam_adapter.prompts.boxes import box_iou, tight_box
from medsam_adapter.prompts.carry import carried_prompts
from medsam_adapter.prompts.simulate import (
    PromptMix,
    PromptSet,
    correct,
    neighbour_mask,
    opening_prompts,
    to_model_frame,
)

STRIDE = 4
KINDS = list(vars(PromptMix()))
BOXES_ALONE = ("box", "box_75", "box_50")


@pytest.fixture
def targets() -> np.ndarray:
    """Two objects and an empty slice."""
    out = np.zeros((3, 32, 32), bool)
    out[0, 4:12, 6:20] = True
    out[1, 20:24, 25:31] = True
    return out


def pixel_of(point) -> tuple[int, int]:
    x, y = np.floor((np.asarray(point) + 0.5) / STRIDE).astype(int)
    return y, x


def test_centres_stay_centres():
    np.testing.assert_allclose(to_model_frame([0, 31], 4), [1.5, 125.5])
    assert pixel_of(to_model_frame((7, 3), STRIDE)) == (3, 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_every_opening_lies_on_its_target(targets, kind, seed):
    got = opening_prompts(targets, STRIDE, np.random.default_rng(seed), kind)
    assert got.points.shape == (*got.labels.shape, 2) and len(got.points) == 3
    count = got.points.shape[1]
    assert 2 <= count <= 10 if kind == "clicks" else count == (kind != "text")
    for i in (0, 1):
        if kind in BOXES_ALONE:
            assert (got.labels[i] == -1).all()
        else:
            assert (got.labels[i] == 1).all()
        if kind in ("click", "clicks", "box_and_click"):
            assert all(targets[i][pixel_of(p)] for p in got.points[i])
        if kind == "neighbour":
            assert got.masks[i][pixel_of(got.points[i, 0])] > 0
    assert (got.boxes is not None) == kind.startswith("box")
    if kind in ("box", "box_and_click"):
        for i in (0, 1):
            x0, y0, x1, y1 = (got.boxes[i] + 0.5) / STRIDE - 0.5
            rows, columns = np.flatnonzero(targets[i].any(1)), np.flatnonzero(targets[i].any(0))
            assert np.abs([x0 - columns[0], x1 - columns[-1]]).max() < 0.5 * len(columns)
            assert np.abs([y0 - rows[0], y1 - rows[-1]]).max() < 0.5 * len(rows)
    assert (got.masks is not None) == (kind == "neighbour")


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_target_gets_no_foreground_click(targets, kind):
    got = opening_prompts(targets, STRIDE, np.random.default_rng(0), kind)
    assert not (got.labels[2] == 1).any()
    if kind not in (*BOXES_ALONE, "text"):
        assert got.labels[2, 0] == 0 and (got.labels[2, 1:] == -1).all()


def test_the_same_seed_gives_the_same_prompts_and_the_mix_is_followed(targets):
    first, second = (opening_prompts(targets, STRIDE, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.points, second.points)
    rng, boxes = np.random.default_rng(0), 0
    mix = PromptMix(click=3, clicks=0, box=1, box_and_click=0, neighbour=0)
    for _ in range(300):
        boxes += opening_prompts(targets[1:], STRIDE, rng, mix.draw(rng)).boxes is not None
    assert 50 < boxes < 100


def test_a_neighbour_is_like_its_target(targets):
    for seed in range(20):
        logits, shape = neighbour_mask(targets[0], np.random.default_rng(seed))
        np.testing.assert_array_equal(logits > 0, shape)
        assert shape.any() and np.abs(logits).max() <= 10
        assert (shape & targets[0]).any()
    tiny = np.zeros((8, 8), bool)
    tiny[4, 4] = True
    assert all(neighbour_mask(tiny, np.random.default_rng(s))[1].any() for s in range(20))


def test_corrections_are_added_to_what_was_there(targets):
    start = opening_prompts(targets, STRIDE, np.random.default_rng(0), "box_and_click")
    logits = np.full((3, 32, 32), -30.0)
    logits[1] = np.where(targets[1], 30, -30)  # right already
    logits[2, 8:12, 8:12] = 30  # wrongly included
    masks = 0
    for seed in range(60):
        got = correct(start, logits, targets, STRIDE, np.random.default_rng(seed))
        np.testing.assert_array_equal(got.points[:, :-1], start.points)
        assert got.labels[:, -1].tolist() == [1, -1, 0] and got.boxes is start.boxes
        assert targets[0][pixel_of(got.points[0, -1])] and (logits[2] > 0)[pixel_of(got.points[2, -1])]
        masks += got.masks is not None
        assert got.masks is None or np.abs(got.masks).max() == 10
    assert 36 <= masks <= 58  # four times in five


def test_carried_prompts_are_the_mask_and_its_middle():
    logits = np.full((2, 32, 32), -30.0, np.float32)
    logits[0, 4:9, 10:15] = 25
    got = carried_prompts(logits, STRIDE)
    assert got.labels.tolist() == [[1], [-1]] and pixel_of(got.points[0, 0]) == (6, 12)
    assert got.masks.min() == -10 and got.masks.max() == 10 and got.masks.dtype == np.float32


def test_tensors_have_the_decoders_form():
    prompts = PromptSet(np.zeros((6, 2, 2)), np.ones((6, 2), int), np.zeros((6, 4)), None)
    got = prompts.tensors(torch.device("cpu"), (2, -1))
    assert got["input_points"].shape == (2, 3, 2, 2) and got["input_labels"].dtype == torch.long
    assert got["input_boxes"].shape == (2, 3, 4) and got["input_masks"] is None


@pytest.mark.parametrize(("kind", "iou"), [("box_75", 0.75), ("box_50", 0.5)])
def test_boxes_overlap_their_target_as_asked(targets, kind, iou):
    for seed in range(5):
        got = opening_prompts(targets[:2], STRIDE, np.random.default_rng(seed), kind)
        for box, target in zip(got.boxes, targets[:2], strict=True):
            assert abs(box_iou((box + 0.5) / STRIDE - 0.5, tight_box(target)) - iou) < 0.02


def test_a_text_stays_through_corrections_and_carrying(targets):
    texts = torch.randn(3, 5)
    start = opening_prompts(targets, STRIDE, np.random.default_rng(0), "text", texts)
    assert start.tensors(torch.device("cpu"), (3, 1))["input_points"] is None
    assert start.tensors(torch.device("cpu"), (3, 1))["input_texts"].shape == (3, 1, 5)
    further = correct(start, np.full(targets.shape, -1.0), targets, STRIDE, np.random.default_rng(0))
    assert further.points.shape == (3, 1, 2) and further.texts is texts
    assert carried_prompts(np.ones((3, 8, 8)), STRIDE, texts).texts is texts
    assert opening_prompts(targets, STRIDE, np.random.default_rng(0), "click", texts).texts is None
