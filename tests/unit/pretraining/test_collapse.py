"""Figures that say whether an encoder still tells pictures apart."""

from __future__ import annotations

import math

import pytest
import torch

from medsam_adapter.pretraining.collapse import (
    HeldPictures,
    effective_rank,
    measure,
    neighbour_accuracy,
    probe_accuracy,
    spread,
    warning_of,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(each: int = 10, classes: int = 4, channels: int = 16):
    """Features round `classes` far points, and their classes, interleaved."""
    numbers = torch.arange(each * classes) % classes
    return 5 * torch.eye(channels)[numbers] + 0.1 * noise(each * classes, channels), numbers


def test_rank_by_hand():
    assert effective_rank(torch.ones(20, 8)) == 1
    assert effective_rank(torch.full((20, 8), 0.1) + 1e-8 * noise(20, 8)) == 1
    assert effective_rank(torch.eye(8)) == pytest.approx(7)  # corners of a simplex
    cross = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # singular values in proportion 3 : 1
    rank = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(cross) == pytest.approx(rank) == effective_rank(cross + 100)


def test_spread():
    assert spread(torch.ones(20, 8)) == pytest.approx(0, abs=1e-6)
    assert spread(noise(4000, 64)) == pytest.approx(1, abs=0.02)
    assert spread(noise(500, 64)) == pytest.approx(spread(7 * noise(500, 64)))  # of directions, not lengths


def test_separated_clusters_are_told_apart():
    found = measure(*(lambda features, numbers: (features, [f"class {n}" for n in numbers.tolist()]))(*clusters()))
    assert found["knn"] == found["probe"] == 1.0 and found["chance"] == 0.25
    assert found["effective_rank"] > 3


def test_constant_features_are_at_chance():
    _, numbers = clusters()
    features = torch.ones(len(numbers), 16)
    assert effective_rank(features) == 1
    assert neighbour_accuracy(features, numbers) <= 0.25 + 1e-9
    assert probe_accuracy(features, numbers) <= 0.25 + 1e-9


def test_noise_is_near_chance_so_nothing_is_fitted_and_scored_at_once():
    numbers = torch.arange(400) % 2
    features = noise(400, 300)
    assert abs(neighbour_accuracy(features, numbers) - 0.5) < 0.1  # 4 standard deviations
    assert abs(probe_accuracy(features, numbers) - 0.5) < 0.1


def test_neighbours_by_hand():
    """On a circle at 0, 10, 20 and 100, 110, 120 degrees with one wrong class: it and nobody else is misjudged."""
    angles = torch.tensor([0.0, 10, 20, 30, 100, 110, 120, 130]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], 1)
    classes = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    assert neighbour_accuracy(features, classes, neighbours=3) == pytest.approx(7 / 8)


def test_classes_of_one_picture_do_not_count():
    features, numbers = clusters(classes=2)
    names = [str(n) for n in numbers.tolist()]
    odd = measure(torch.cat([features, 5 * torch.eye(16)[5:6]]), [*names, "odd"])
    assert odd["knn"] == odd["probe"] == 1.0 and odd["chance"] == 0.5
    assert "knn" not in measure(features, ["one"] * len(features))


def test_the_warning_says_what_fell():
    start = {"effective_rank": 10.0, "spread": 1.0}
    assert warning_of({"effective_rank": 5.1, "spread": 0.6}, start, 0.5) is None
    rank = warning_of({"effective_rank": 4.9, "spread": 0.6}, start, 0.5)
    assert "effective rank 4.9, was 10 at the start" in rank and "spread" not in rank and "next:" in rank
    assert "spread 0.1, was 1 at the start" in warning_of({"effective_rank": 9.0, "spread": 0.1}, start, 0.5)


def test_held_pictures_are_distinct_and_named_by_source_and_label():
    def batches():
        for step in range(100):
            names = ["a", f"b{step}" if step < 3 else "a"]
            yield {
                "pixel_values": torch.full((2, 3, 4, 4), float(step)), "source": torch.tensor([0, 1]), "names": names,
                "labels": [None, "tumour"], "step": step,
            }  # fmt: skip

    held = HeldPictures().fill(batches(), 3)
    assert held.classes == ["0", "1/tumour", "1/tumour"]
    assert [float(p[0, 0, 0]) for p in held.pixel_values] == [0, 0, 1]
    assert len(HeldPictures().fill(batches(), 50).classes) == 5  # "a" of source 1 is another picture; then it gives up


def test_features_are_the_encoders_pooled_output(tiny_sam):
    encoder, pixels = tiny_sam().vision_encoder.train(), noise(5, 3, 64, 64)
    held = HeldPictures(list(pixels.half()), ["x"] * 5)
    found = held.features(encoder, 2)
    with torch.no_grad():
        torch.testing.assert_close(found, encoder(pixels.half().float())[0].mean((-2, -1)), atol=1e-6, rtol=1e-5)
    assert encoder.training and not found.requires_grad
