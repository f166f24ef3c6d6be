"""Sentences said of every slice: chunks, scores, progress, stopping."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsam_adapter.inference import prompted_slices
from medsam_adapter.inference.prompted_slices import TextRules, decode_every_slice
from medsam_adapter.inference.volume import NOTHING

DEPTH, SIDE = 5, 8


class Embeddings:
    """(D, C, g, g) whose values are the number of their slice, in chunks of two."""

    shape, chunk_slices = (DEPTH, 3, SIDE // 4, SIDE // 4), 2

    def __len__(self):
        return DEPTH

    def __getitem__(self, slices):
        return torch.arange(DEPTH).float()[slices, None, None, None].expand(-1, *self.shape[1:])


@pytest.fixture
def decoder(monkeypatch):
    """Logits are slice + 10 text; the score of text 1 is too low on slice 3, that of text 3 good enough on none."""
    calls = []

    def decode(model, embeddings, input_texts):
        zs, said = embeddings[:, 0, 0, 0], input_texts[..., 0]
        calls.append((zs.tolist(), tuple(said.shape)))
        logits = (zs[:, None] + 10 * said)[:, :, None, None, None].expand(-1, -1, 1, SIDE, SIDE)
        scores = torch.full_like(said, TextRules().min_best_score + 0.01)
        scores[(zs[:, None] == 3) & (said == 1)] = TextRules().min_score - 0.01
        scores[said == 3] = TextRules().min_best_score - 0.01
        return logits, scores[..., None]

    monkeypatch.setattr(prompted_slices, "decode_masks", decode)
    return calls


TEXTS = torch.tensor([[0.0], [1.0], [2.0], [3.0]])


def test_every_slice_of_every_text_lands_in_its_place(decoder):
    done = []
    got = decode_every_slice(SimpleNamespace(), Embeddings(), TEXTS, progress=done.append)
    assert got.shape == (4, DEPTH, SIDE, SIDE) and done == [2, 4, 5]
    for text in range(4):
        for z in range(DEPTH):
            want = NOTHING if (text, z) == (1, 3) or text == 3 else z + 10 * text
            assert (got[text, z] == want).all(), (text, z)
    assert decoder == [([0, 1], (2, 4)), ([2, 3], (2, 4)), ([4], (1, 4))]


def test_the_least_scores_are_arguments(decoder):
    got = decode_every_slice(SimpleNamespace(), Embeddings(), TEXTS, rules=TextRules(0.0, 0.0))
    assert (got > NOTHING).all()
    assert (decode_every_slice(SimpleNamespace(), Embeddings(), TEXTS, rules=TextRules(1.0, 0.0)) == NOTHING).all()
    low = decode_every_slice(SimpleNamespace(), Embeddings(), TEXTS, rules=TextRules(0.0, 1.0))
    assert (low == NOTHING).all()


def test_stopped_it_returns_what_is_done(decoder):
    got = decode_every_slice(SimpleNamespace(), Embeddings(), TEXTS, should_stop=lambda: len(decoder) == 1)
    np.testing.assert_array_equal(got[0, :, 0, 0], [0, 1, NOTHING, NOTHING, NOTHING])
