"""Several people's marks of one image made into one label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def majority(label_maps: Sequence[np.ndarray], nested: bool = False) -> np.ndarray:
    """What more than half of the raters say of each voxel; background where no label has so many.

    Args:
        label_maps: integers of one shape.
        nested: a higher label lies within the lower ones (the cup within the disc), so that who says 2 also says 1:
            the highest label that more than half reach.

    Returns:
        an array of the same shape and dtype.
    """
    votes = np.stack(label_maps)
    agreed = np.zeros_like(votes[0])
    for value in range(1, int(votes.max(initial=0)) + 1):  # not np.unique, which sorts millions of pixels
        says = votes >= value if nested else votes == value
        agreed[np.count_nonzero(says, axis=0) * 2 > len(votes)] = value
    return agreed
