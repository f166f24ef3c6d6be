"""From the decoder's resolution back onto the source grid, a few slices at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from medsam_adapter.inference.prompted_slices import Encoded

CHUNK_BYTES = 16 * 2**20
"""Logits that are held at full resolution at a time."""


def on_source_grid(
    encoded: Encoded, logits: Sequence[np.ndarray], only_objects: bool = False
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(first, last, logits (n, last - first, H, W)) of all slices in turn, or only of those that show an object.

    A slice without a logit above 0 has none after bilinear interpolation either.
    """
    to_source = encoded.letterbox.logits_to_source
    height, width = encoded.letterbox.size_hw
    bytes_a_slice = 4 * len(logits) * (height * width + encoded.letterbox.image_size**2)
    step = max(1, CHUNK_BYTES // bytes_a_slice)
    for first in range(0, len(logits[0]), step):
        some = [volume[first : first + step] for volume in logits]
        if only_objects and not any((slices > 0).any() for slices in some):
            continue
        yield (
            first,
            first + len(some[0]),
            np.stack([to_source(torch.from_numpy(s)[:, None])[:, 0].numpy() for s in some]),
        )
