"""Losses on mask logits. Shapes: logits and targets (N, h, w); targets are soft (area-averaged) masks in [0, 1].

Every function returns one loss for each mask, (N,), so that the caller decides how masks are weighted; only
`best_mask_loss`, the loss that `MSAModel` itself gives, is a scalar.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dice_loss(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice; `smooth` (in pixels) lets an empty target reward an empty prediction."""
    probabilities = logits.sigmoid()
    overlap = (probabilities * targets).sum((-2, -1))
    total = probabilities.sum((-2, -1)) + targets.sum((-2, -1))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def emptiness_loss(logits: Tensor) -> Tensor:
    """log(1 + S) / log(1 + h w) of a mask that should be empty; S is the sum of its probabilities.

    Dice is flat there: between a false mask of 50 pixels and one of 200 it sees next to no difference.
    """
    mass = logits.sigmoid().sum((-2, -1))
    return torch.log1p(mass) / math.log1p(logits.shape[-2] * logits.shape[-1])


def bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, averaged over pixels."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean((-2, -1))


def balanced_bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy in which object and ground weigh the same however small the object is."""
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    inside = (loss * targets).sum((-2, -1)) / (targets.sum((-2, -1)) + 1e-3)
    outside = (loss * (1 - targets)).sum((-2, -1)) / ((1 - targets).sum((-2, -1)) + 1e-3)
    return 0.5 * (inside + outside)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss (https://arxiv.org/abs/1708.02002) for soft targets, averaged over pixels."""
    probabilities = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = probabilities * (1 - targets) + (1 - probabilities) * targets
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return (weight * miss**gamma * loss).mean((-2, -1))


def hard_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice of the mask at logit 0 against the target at one half, (N,); two empty masks give 1. For progress only."""
    prediction, reference = logits > 0, targets > 0.5
    overlap = (prediction & reference).sum((-2, -1))
    total = prediction.sum((-2, -1)) + reference.sum((-2, -1))
    return (2 * overlap + 1e-6) / (total + 1e-6)


def hard_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of the mask at logit 0 with the target at one half, (N,); 0 where nothing is to be found."""
    prediction, reference = logits > 0, targets > 0.5
    overlap = (prediction & reference).sum((-2, -1))
    return overlap / (prediction | reference).sum((-2, -1)).clamp_min(1)


def best_mask_loss(logits: Tensor, labels: Tensor, slice_mask: Tensor | None = None) -> Tensor:
    """Dice + BCE of the best of each object's masks, averaged over all objects: a scalar.

    Args:
        logits: (B, P, M, h, w), or (B, D, P, M, h, w) for volumes of D slices; P objects with M masks each.
        labels: (B, P, H, W) or (B, D, P, H, W), the targets; area-averaged to (h, w) here.
        slice_mask: (B, D) bool, False for slices that do not count.
    """
    shrunk = F.adaptive_avg_pool2d(labels.flatten(0, -4).float(), logits.shape[-2:])
    targets = shrunk.unflatten(0, labels.shape[:-3])[..., None, :, :].expand_as(logits)
    each = (dice_loss(logits.float(), targets) + bce_loss(logits.float(), targets)).amin(-1)  # best of M
    if slice_mask is None:
        return each.mean()
    weights = slice_mask[..., None].expand_as(each).to(each.dtype)
    return (each * weights).sum() / weights.sum().clamp_min(1)
