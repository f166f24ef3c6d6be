"""Made-up scans for tests of networks: a bright ball with a brighter core in noise, on grids of any orientation.

A network learns them in a few steps; label 1 is the ball's shell, 2 its core.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from medsam_adapter.data.layouts import Dataset, open_dataset
from medsam_adapter.data.sample import Sample, Scan

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
RAS = np.eye(4)
PERMUTED = np.array([[0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])  # i to P, j to S, k to R
REGIONS = {"whole": (1, 2), "core": (2,)}


def tilted(affine: np.ndarray, degrees: float = 20) -> np.ndarray:
    """The same axes, tilted about x and moved: oblique."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1, 0, 0, 11.0], [0, c, -s, -7.0], [0, s, c, 5.0], [0, 0, 0, 1.0]])
    return turn @ affine


def blob(
    seed: int = 0,
    shape_zyx: tuple[int, int, int] = (14, 22, 18),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    axes: np.ndarray = LPS,
    channels: int = 0,
) -> Sample:
    """One scan; `axes` is its affine for voxels of 1 mm. A single slice without axes is a picture."""
    rng = np.random.default_rng(seed)
    shape, spacing = np.array(shape_zyx), np.array(spacing_mm)
    centre = (shape - 1) * spacing * rng.uniform(0.4, 0.6, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * spacing
    flat = (shape > 1).astype(float)
    distance = np.sqrt((((grid - centre) * flat) ** 2).sum(-1))
    radius = 0.35 * (shape * spacing)[shape > 1].min()
    labels = (distance < radius).astype(np.uint8) + (distance < radius / 2)
    array = (100 + 60.0 * labels + rng.normal(0, 8, shape)).astype(np.float32)
    if channels:
        array = np.stack([array + 5 * number for number in range(channels)], -1)
    affine = None if axes is None else axes @ np.diag([*spacing[::-1], 1.0])
    return Sample(f"blob_{seed}", Scan(array, tuple(spacing.tolist()), affine), labels, {1: "shell", 2: "core"})


def write_blobs(root: Path, samples: list[Sample], modality: str = "MRI") -> Dataset:
    """The samples as a data set in MSD form, opened; its targets overlap: the whole ball and its core."""
    training = []
    for number, sample in enumerate(samples):
        entry = {"image": f"imagesTr/{number}.nii.gz", "label": f"labelsTr/{number}.nii.gz"}
        for key, array in (("image", sample.scan.array), ("label", sample.labels)):
            file = root / entry[key]
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), sample.scan.affine), file)
        training.append(entry)
    content = {
        "name": "Blobs", "modality": {"0": modality}, "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": training,
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(content))
    dataset = open_dataset(root)
    dataset.regions = dict(REGIONS)
    return dataset
