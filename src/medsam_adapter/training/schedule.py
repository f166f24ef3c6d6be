"""The learning rate over a training."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, total: int, warmup_fraction: float) -> float:
    """What the learning rate is multiplied by in a step, from 0: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
