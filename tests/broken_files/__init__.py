"""Some thousands of broken files of every kind that is read anywhere, made by a script and the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .damage import FAIL, SAME, VALID, WHOLE, BrokenFile

__all__ = ["FAIL", "GROUPS", "SAME", "VALID", "WHOLE", "BrokenFile", "write"]
GROUPS = ("volumes", "pictures", "dicom", "texts", "models")
"""`texts` and `models` import torch, the others do not."""


def write(root: Path, seed: int, group: str) -> list[BrokenFile]:
    """Makes the broken files of a group below `root`."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    if group == "volumes":
        from .volumes import arrays, meta, nifti

        return nifti(root, rng) + meta(root, rng) + arrays(root, rng)
    if group == "pictures":
        from .pictures import pictures

        return pictures(root, rng)
    if group == "dicom":
        from .dicom import dicom

        return dicom(root, rng)
    if group == "texts":
        from .texts import data_sets, jsons, tables, yamls

        return yamls(root, rng) + jsons(root, rng) + tables(root, rng) + data_sets(root, rng)
    from .models import models

    return models(root, rng)
