"""What the tests of the demo share: a SAM whose adapter listens to its input, small scans, and clients of a server.

The base is sam-tiny, which was trained: random weights would answer a click with noise, and a test that compares two
such answers could not tell a good mask from another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blobs import LPS, blob
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.models import Models
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from miniatures.volumes import save_nifti

SHAPE_ZYX, SPACING_MM = (7, 40, 34), (3.0, 1.0, 1.25)
_STD = 0.05
"""Of the adapter's random weights: enough to change masks, too little to spoil them."""


def adapted(randomise: Callable, seed: int = 1, **config: Any) -> MSAModel:
    """sam-tiny with an adapter of random weights."""
    model = MSAModel.from_base("sam-tiny", MSAAdapterConfig(**{"bottleneck_ratio": 0.25, **config}))
    return randomise(model, seed=seed, std=_STD).requires_grad_(False)


def write_run(
    folder: Path, model: MSAModel, intensity: str | None = None, labels: dict[int, str] | None = None
) -> Path:
    """A folder that `MSAPredictor.from_pretrained` and `load_adapter` open."""
    if labels:
        model.config.id2label = labels
    model.save_pretrained(folder)
    MSAProcessor.from_model(model, intensity=intensity).save_pretrained(folder)
    return folder


def workspace(predictor: MSAPredictor, *adapters: str, **settings: Any) -> Workspace:
    return Workspace(Models(predictor, "sam-tiny", adapters), **settings)


def organ(axes: np.ndarray = LPS, seed: int = 0, shape_zyx: tuple[int, int, int] = SHAPE_ZYX) -> Scan:
    """A bright ball in noise; no two of its slices are alike."""
    return blob(seed, shape_zyx, SPACING_MM, axes).scan


def write_organ(path: Path, axes: np.ndarray = LPS, seed: int = 0, shape_zyx=SHAPE_ZYX) -> Path:
    scan = organ(axes, seed, shape_zyx)
    save_nifti(path, scan.array.round().astype(np.int16), scan.affine)
    return path


def centre_of(seed: int = 0, shape_zyx: tuple[int, int, int] = SHAPE_ZYX) -> tuple[int, int, int]:
    """The voxel (i, j, k) in the middle of `organ`."""
    labels = blob(seed, shape_zyx, SPACING_MM).labels
    return tuple(int(v) for v in np.argwhere(labels == 2).mean(0).round()[::-1])
