"""Someone's own data: images/ beside masks/ as pictures or volumes of many kinds, or arrays with both in one file."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import SimpleITK

from .dicom import series
from .sketches import leave_litter, lesion, save
from .volumes import SHAPE_ZYX, blocks, save_nifti, scan_of

VARIANTS = ({}, {"form": "volumes"}, {"form": "arrays"})
SPACING_MM = (2.5, 0.8, 0.7)
NAMES = {1: "liver", 2: "cancer"}


def write(root: Path, seed: int = 0, form: str = "pictures") -> dict[str, np.ndarray]:
    """{case id: labels, (H, W) of pictures and (D, H, W) of volumes}; form is "pictures", "volumes" or "arrays"."""
    if form == "pictures":
        return _write_pictures(root, seed)
    truth = {name: blocks(tuple(NAMES), seed + n) for n, name in enumerate("abcdef" if form == "volumes" else "abcd")}
    scans = {
        name: scan_of(labels, seed + n, -100, 90, 15).astype(np.int16) for n, (name, labels) in enumerate(truth.items())
    }
    (root / "images").mkdir(parents=True)
    (root / "labels.json").write_text(json.dumps({str(value): name for value, name in NAMES.items()}))
    if form == "arrays":
        for name in "ab":
            np.savez(root / f"images/{name}.npz", image=scans[name], label=truth[name], spacing_mm=SPACING_MM)
        for name in "cd":
            with h5py.File(root / f"images/{name}.h5", "w") as file:
                file["image"], file["label"] = scans[name], truth[name]
                file.attrs["spacing_mm"] = SPACING_MM
        return truth
    affine = {name: np.diag([*SPACING_MM[::-1], 1.0]) for name in truth}
    save_nifti(root / "images/a.nii.gz", scans["a"], affine["a"])
    for name, suffix in (("b", "mha"), ("c", "nrrd")):
        image = SimpleITK.GetImageFromArray(scans[name])
        image.SetSpacing(SPACING_MM[::-1])
        SimpleITK.WriteImage(image, str(root / f"images/{name}.{suffix}"))
        affine[name] = np.diag([-SPACING_MM[2], -SPACING_MM[1], SPACING_MM[0], 1.0])  # LPS as RAS
    np.savez(root / "images/d.npz", image=scans["d"], affine=affine["d"])
    for n, name in enumerate("ef"):  # a folder is a case
        affine[name] = series(root / f"images/{name}", scans[name], spacing_mm=SPACING_MM, series=f"{seed}-{n}")
    for name, labels in truth.items():
        save_nifti(root / f"masks/{name}_seg.nii.gz", labels, affine[name])
    assert all(labels.shape == SHAPE_ZYX for labels in truth.values())
    return truth


def _write_pictures(root: Path, seed: int) -> dict[str, np.ndarray]:
    truth: dict[str, np.ndarray] = {}
    for number in range(4):
        name = f"eye_{number}"
        picture, truth[name] = lesion(seed + number)
        save(root / f"images/{name}.png", picture)
        save(root / f"masks/{name}_mask.png", truth[name] * np.uint8(255))
    (root / "labels.json").write_text(json.dumps({"255": "lesion", "patients": {"eye_0": "p", "eye_1": "p"}}))
    leave_litter(root / "images", "eye_0.png")
    return truth
