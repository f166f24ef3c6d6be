"""Training samples with sentences: masks of what they mean, chunks cut anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medsam_adapter.data.loader import PreparedCase, PromptedDataset
from medsam_adapter.processing_msa import MSAProcessor


class Sampler:
    """Says row 2 of every sample, which means label 1."""

    embeddings = torch.eye(4)

    def __init__(self):
        self.shown = []

    def draw(self, shown, rng):
        self.shown.append(tuple(shown))
        return {1}, 2

    def mask(self, labels, meant):
        return labels == next(iter(meant))


@pytest.fixture
def case():
    labels = torch.zeros(10, 16, 16, dtype=torch.int32)
    labels[4:6, 4:12, 4:12], labels[5, :2] = 1, 2
    image = torch.zeros(10, 1, 16, 16, dtype=torch.uint8)
    return PreparedCase("c", image, labels, (16, 16), [(1,), (2,)], {(1,): np.array([4, 5]), (2,): np.array([5])})


def dataset(case, **more):
    sampler = Sampler()
    made = PromptedDataset([case], MSAProcessor(image_size=16, intensity="unit"), 4, 8, 2, 60, texts=sampler, **more)
    return made, sampler


def test_a_sentences_mask_is_that_of_what_it_means(case):
    made, sampler = dataset(case)
    for index in range(20):
        item = made[index]
        assert item["texts"].shape == (2, 4) and torch.equal(item["texts"][0], torch.eye(4)[2])
        assert item["text_targets"].shape == (4, 2, 8, 8) and item["targets"].shape == (4, 2, 8, 8)
        shown = item["text_targets"][:, 0].sum((1, 2)) > 0
        assert shown.any() and torch.equal(item["text_targets"][:, 0], item["text_targets"][:, 1])
        first = item["text_targets"][shown][0, 0]
        assert first[2:6, 2:6].eq(1).all() and first.sum() == 16
    assert set(sampler.shown) <= {((1,),), ((1,), (2,))}


def test_chunks_cut_anywhere_meet_slices_without_a_target(case):
    always, _ = dataset(case, anywhere=0.0)
    often, _ = dataset(case, anywhere=0.5)
    empty = {name: sum(made[i]["targets"].sum() == 0 for i in range(60)) for name, made in
             (("always", always), ("often", often))}  # fmt: skip
    assert empty["always"] == 0 and 3 <= empty["often"] <= 25
    silent = PromptedDataset([case], MSAProcessor(image_size=16, intensity="unit"), 4, 8, 2, 60, anywhere=1.0)
    assert all(silent[i]["targets"].sum() > 0 for i in range(20)) and "texts" not in silent[0]
