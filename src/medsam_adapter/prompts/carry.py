"""From slice to slice: what one slice shows becomes the prompt of the next.

The mask goes along twice, as mask prompt and as a click at its most interior point. Training rolls volumes out with
just these prompts, so that prediction meets nothing new.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from medsam_adapter.prompts.clicks import FOREGROUND, PADDING, interior_point
from medsam_adapter.prompts.simulate import PromptSet, to_model_frame


def carried_prompts(logits: np.ndarray, stride: int, texts: Tensor | None = None) -> PromptSet:
    """Prompts for the next slice.

    Args:
        logits: (n, h, w) of this slice, one mask for each object; an empty one gives a mask prompt without a click.
        stride: model-frame pixels to a mask pixel.
        texts: (n, W), sentences' embeddings; a text goes along unchanged.
    """
    points, labels = np.zeros((len(logits), 1, 2), np.float32), np.full((len(logits), 1), PADDING)
    for i, mask in enumerate(logits > 0):
        if mask.any():
            points[i, 0], labels[i, 0] = to_model_frame(interior_point(mask), stride), FOREGROUND
    return PromptSet(points, labels, masks=np.clip(logits, -10, 10).astype(np.float32), texts=texts)
