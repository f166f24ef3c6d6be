"""Masks carried from slice to slice, with a decoder that answers from a known truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsam_adapter.inference import volume
from medsam_adapter.inference.slices import encode_volume
from medsam_adapter.inference.volume import NOTHING, CarryRules, carry_masks, keep_prompted

SIDE, STRIDE = 16, 4
MODEL = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=SIDE * STRIDE), num_slices=4))


@pytest.fixture
def decoder(monkeypatch):
    """decoder(truth): the decoder answers slice z with truth[z] (bool), as sure as its mask prompt; calls are kept."""
    calls = []

    def install(truth: np.ndarray):
        def decode(model, embeddings, input_points, input_labels, input_boxes, input_masks, input_texts):
            zs = embeddings[:, 0, 0, 0].long().tolist()
            assert input_points.shape == (len(zs), 1, 1, 2) and input_masks.shape == (len(zs), 1, SIDE, SIDE)
            calls.append(
                SimpleNamespace(zs=zs, points=input_points, labels=input_labels, masks=input_masks, texts=input_texts)
            )
            sure = input_masks.amax((2, 3), keepdim=True)
            answer = torch.where(torch.from_numpy(truth[zs])[:, None], sure, -sure)
            return answer[:, :, None], torch.ones(len(zs), 1, 1)

        monkeypatch.setattr(volume, "decode_masks", decode)
        embeddings = torch.arange(len(truth)).float()[:, None, None, None].expand(-1, 2, SIDE // 4, SIDE // 4)
        return embeddings, calls

    return install


def block(depth: int, slices, rows=slice(4, 10), columns=slice(5, 12)) -> np.ndarray:
    truth = np.zeros((depth, SIDE, SIDE), bool)
    truth[slices, rows, columns] = True
    return truth


def anchor(truth: np.ndarray, z: int, sure: float = 5.0) -> np.ndarray:
    return np.where(truth[z], sure, -sure).astype(np.float32)


def test_goes_both_ways_and_stops_where_the_object_ends(decoder):
    truth = block(12, slice(3, 9))
    embeddings, calls = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{5: anchor(truth, 5)}])
    np.testing.assert_array_equal(got[0] > 0, truth)
    assert (got[0, [0, 1, 2, 9, 10, 11]] == NOTHING).all()
    decoded = sorted(z for call in calls for z in call.zs)
    assert decoded == [2, 3, 4, 6, 7, 8, 9]  # each once, one past each end
    np.testing.assert_array_equal(got[0, 5], anchor(truth, 5))


def test_each_step_gets_the_slice_before_as_mask_and_click(decoder):
    truth = block(6, slice(0, 6))
    for z in range(6):
        truth[z] = np.roll(truth[z], z - 2, 1)  # moves along x
    embeddings, calls = decoder(truth)
    carry_masks(MODEL, embeddings, [{2: anchor(truth, 2)}])
    for call in calls:
        for n, z in enumerate(call.zs):
            before = z - 1 if z > 2 else z + 1
            np.testing.assert_array_equal(call.masks[n, 0].numpy() > 0, truth[before])
            x, y = ((call.points[n, 0, 0].numpy() + 0.5) / STRIDE - 0.5).round().astype(int)
            assert truth[before][y, x] and call.labels[n, 0, 0] == 1


def test_a_slice_takes_its_mask_from_the_nearest_anchor(decoder):
    truth = block(10, slice(0, 10))
    embeddings, calls = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{1: anchor(truth, 1, 3.0), 6: anchor(truth, 6, 7.0)}])
    assert got[0].max((1, 2)).tolist() == [3, 3, 3, 3, 7, 7, 7, 7, 7, 7]
    assert sum(len(c.zs) for c in calls) == 8  # no slice twice
    got = carry_masks(MODEL, embeddings, [{1: anchor(truth, 1, 3.0), 5: anchor(truth, 5, 7.0)}])
    assert got[0].max((1, 2)).tolist() == [3, 3, 3, 3, 7, 7, 7, 7, 7, 7]  # the tie, slice 3, goes to the lower


def test_anchors_in_a_row_and_at_the_ends(decoder):
    truth = block(4, slice(0, 4))
    embeddings, calls = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{z: anchor(truth, z, z + 1.0) for z in range(4)}])
    assert got[0].max((1, 2)).tolist() == [1, 2, 3, 4] and not calls
    one = carry_masks(MODEL, embeddings[:1], [{0: anchor(truth, 0)}])
    assert one.shape == (1, 1, SIDE, SIDE) and (one[0] > 0).any()


def test_objects_do_not_mix(decoder):
    truth = block(8, slice(0, 8))
    embeddings, _ = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{2: anchor(truth, 2, 3.0)}, {7: anchor(truth, 7, 6.0)}, {}])
    assert got[0].max((1, 2)).tolist() == [3] * 8 and got[1].max((1, 2)).tolist() == [6] * 8
    assert (got[2] == NOTHING).all()


def test_an_empty_anchor_goes_nowhere(decoder):
    truth = block(5, slice(0, 5))
    embeddings, calls = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{2: np.full((SIDE, SIDE), -4, np.float32)}])
    assert not calls and (got[0, 2] == -4).all() and (got[0, [0, 1, 3, 4]] == NOTHING).all()


def test_growth_ends_the_walk(decoder):
    truth = block(6, slice(0, 6), slice(4, 7), slice(4, 7))  # 9 pixels
    truth[3] = block(1, 0, slice(2, 10), slice(2, 10))[0]  # 64 <= 3 * 9 + 40
    embeddings, _ = decoder(truth)
    assert (carry_masks(MODEL, embeddings, [{1: anchor(truth, 1)}])[0] > 0).any((1, 2)).all()
    truth[3] = block(1, 0, slice(2, 10), slice(2, 11))[0]  # 72 > 67
    embeddings, _ = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{1: anchor(truth, 1)}])[0]
    assert (got > 0).any((1, 2)).tolist() == [True, True, True, False, False, False]
    wide = carry_masks(MODEL, embeddings, [{1: anchor(truth, 1)}], CarryRules(max_growth=10))[0]
    assert (wide > 0).any((1, 2)).all()


def test_a_mask_that_jumps_away_ends_the_walk(decoder):
    truth = block(6, slice(0, 3)) | block(6, slice(3, 6), slice(11, 15), slice(0, 4))
    embeddings, _ = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{0: anchor(truth, 0)}])[0]
    assert (got > 0).any((1, 2)).tolist() == [True] * 3 + [False] * 3


def test_fewest_pixels(decoder):
    truth = block(4, slice(0, 4))
    truth[2] = block(1, 0, slice(5, 6), slice(6, 8))[0]  # 2 pixels
    embeddings, _ = decoder(truth)
    for fewest, want in ((2, [True] * 4), (3, [True, True, False, False])):
        got = carry_masks(MODEL, embeddings, [{0: anchor(truth, 0)}], CarryRules(min_pixels=fewest, min_overlap=0))[0]
        assert (got > 0).any((1, 2)).tolist() == want


def test_stopped_it_returns_what_is_done(decoder):
    truth = block(9, slice(0, 9))
    embeddings, calls = decoder(truth)
    got = carry_masks(MODEL, embeddings, [{4: anchor(truth, 4)}], should_stop=lambda: len(calls) >= 2)[0]
    assert (got > 0).any((1, 2)).tolist() == [False, False] + [True] * 5 + [False, False]


def test_progress_counts_slices(decoder):
    truth, seen = block(6, slice(0, 6)), []
    embeddings, _ = decoder(truth)
    carry_masks(MODEL, embeddings, [{2: anchor(truth, 2)}], progress=seen.append)
    assert seen == [2, 4, 5]


# -- encode_volume -----------------------------------------------------------------------------------------------------


class Encoder:
    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace(num_slices=4)

    def __init__(self):
        self.shapes = []

    def encode(self, pixel_values):
        self.shapes.append(tuple(pixel_values.shape[:-3]))
        return pixel_values.mean((-3, -2, -1), keepdim=True)


@pytest.mark.parametrize(
    ("slices", "chunk", "shapes"),
    [
        (9, None, [(1, 4), (1, 4), (1, 1)]),
        (3, None, [(1, 3)]),
        (5, 2, [(1, 2), (1, 2), (1, 1)]),
        (10, 1, [(8,), (2,)]),
    ],
)
def test_volumes_are_encoded_in_chunks(slices, chunk, shapes):
    encoder, seen = Encoder(), []
    pixels = torch.randn(slices, 3, 8, 8)
    got = encode_volume(encoder, pixels, chunk, lambda done, all_: seen.append((done, all_)))
    assert encoder.shapes == shapes
    torch.testing.assert_close(got, pixels.mean((1, 2, 3), keepdim=True))
    assert seen[-1] == (slices, slices) and len(seen) == len(shapes)


def test_islands_without_a_click_are_dropped():
    logits = np.full((4, 8, 8), -5.0, np.float32)
    logits[0:2, 0:3, 0:3] = 5  # 18 voxels
    logits[3, 6:8, 6:8] = 5  # 4 voxels
    big = keep_prompted(logits, []) > 0
    small = keep_prompted(logits, [(3, 7, 7)]) > 0
    both = keep_prompted(logits, [(3, 7, 7), (0, 1, 1)]) > 0
    missed = keep_prompted(logits, [(2, 4, 4)])
    assert (big.sum(), small.sum(), both.sum(), (missed > 0).sum()) == (18, 4, 22, 18)
    assert (missed[3, 6:8, 6:8] == NOTHING).all() and (missed[2] == -5).all()


def test_what_a_box_encloses_on_its_slice_is_kept():
    logits = np.full((4, 8, 8), -5.0, np.float32)
    logits[0:2, 0:3, 0:3] = 5  # 18 voxels
    logits[3, 6:8, 6:8] = 5  # 4 voxels, in the box
    logits[3, 3, 6] = 5  # 1 voxel, in the box
    logits[3, 0, 7] = 5  # outside, on the same slice
    box = (3, slice(3, 8), slice(5, 8))
    kept = keep_prompted(logits, [box]) > 0
    assert kept.sum() == 5 and kept[box].sum() == 5
    assert (keep_prompted(logits, [box, (0, 1, 1)]) > 0).sum() == 23
    assert (keep_prompted(logits, [(2, slice(0, 8), slice(0, 8))]) > 0).sum() == 18  # nothing there: the largest


def test_a_text_is_said_of_each_slice_for_its_own_object(decoder):
    truth = np.zeros((5, SIDE, SIDE), bool)
    truth[:, 2:6, 2:6] = True
    embeddings, calls = decoder(truth)
    texts = torch.tensor([[1.0], [2.0]])
    carry_masks(MODEL, embeddings, [{0: anchor(truth, 0)}, {4: anchor(truth, 4)}], texts=texts)
    assert calls[0].zs == [1, 3] and calls[0].texts.flatten().tolist() == [1, 2]
    carry_masks(MODEL, embeddings, [{0: anchor(truth, 0)}])
    assert calls[-1].texts is None
