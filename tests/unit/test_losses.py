"""Losses on known masks."""

from __future__ import annotations

import math

import pytest
import torch

from medsam_adapter.losses import dice_loss, emptiness_loss, hard_iou


def false_mask(pixels: int) -> torch.Tensor:
    logits = torch.full((1, 16, 16), -30.0)
    logits.view(-1)[:pixels] = 30.0
    return logits


def test_emptiness_is_the_logarithm_of_the_mass():
    for pixels in (0, 1, 50, 256):
        assert emptiness_loss(false_mask(pixels)).item() == pytest.approx(
            math.log1p(pixels) / math.log1p(256), abs=1e-4
        )


def test_emptiness_still_pulls_where_dice_is_flat():
    gradients = {}
    for name, loss in (("empty", emptiness_loss), ("dice", lambda x: dice_loss(x, torch.zeros_like(x)))):
        logits = torch.zeros(1, 16, 16, requires_grad=True)
        loss(logits).sum().backward()
        gradients[name] = logits.grad.abs().max()
    assert gradients["empty"] > 10 * gradients["dice"]


def test_hard_iou():
    logits, target = false_mask(32), torch.zeros(1, 16, 16)
    assert hard_iou(logits, target).item() == 0 and hard_iou(-logits.abs(), target).item() == 0
    target.view(-1)[16:64] = 1
    assert hard_iou(logits, target).item() == pytest.approx(16 / 64)
    assert hard_iou(torch.cat([logits, logits]), torch.cat([target, 0 * target])).tolist() == pytest.approx([0.25, 0])
