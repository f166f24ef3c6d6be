"""ACDC: database/training and testing with Info.cfg, two frames a patient; or the HDF5 files of SSL4MIS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .volumes import blocks, save_nifti, scan_of

VARIANTS = ({}, {"form": "h5"})
SPACING_MM = (10.0, 1.56, 1.56)  # (z, y, x)
AFFINE = np.diag([-1.56, -1.56, 10.0, 1.0])
END_SYSTOLE = {1: 12, 2: 9, 3: 15, 4: 11, 101: 14, 102: 8}
PATIENTS_H5 = {"train": (99, 38), "val": (28,), "test": (11,)}


def write(root: Path, seed: int = 0, form: str = "nifti") -> dict[str, np.ndarray]:
    """{case id: label map (z, y, x)}; the form is "nifti" or "h5"."""
    return _nifti(root, seed) if form == "nifti" else _h5(root, seed)


def _nifti(root: Path, seed: int) -> dict[str, np.ndarray]:
    truth: dict[str, np.ndarray] = {}
    base = root / "database"
    for number, systole in END_SYSTOLE.items():
        patient = f"patient{number:03d}"
        folder = base / ("training" if number <= 100 else "testing") / patient
        frames = []
        for frame in (1, systole):
            labels = blocks((1, 2, 3), seed + 100 * number + frame)
            scan = scan_of(labels, seed + 100 * number + frame, 50, 40, 6).clip(0).astype(np.int16)
            save_nifti(folder / f"{patient}_frame{frame:02d}.nii.gz", scan, AFFINE)
            save_nifti(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", labels, AFFINE)
            truth[f"{patient}_frame{frame:02d}"] = labels
            frames.append(scan.T)
        save_4d(folder / f"{patient}_4d.nii.gz", np.stack(frames, axis=-1))
        (folder / "Info.cfg").write_text(
            f"ED: 1\nES: {systole}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        )
        (folder / "MANDATORY_CITATION.md").write_text("O. Bernard et al.\n")
    return truth


def save_4d(path: Path, array_ijkt: np.ndarray) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(array_ijkt, AFFINE), path)


def _h5(root: Path, seed: int) -> dict[str, np.ndarray]:
    import h5py

    truth: dict[str, np.ndarray] = {}
    base = root / "ACDC"
    (base / "data/slices").mkdir(parents=True)
    lists: dict[str, list[str]] = {}
    for part, patients in PATIENTS_H5.items():
        for patient in patients:
            for frame in (1, 2):
                name = f"patient{patient:03d}_frame{frame:02d}"
                labels = blocks((1, 2, 3), seed + 100 * patient + frame)
                scan = scan_of(labels, seed + 100 * patient + frame, 50, 40, 6).astype(np.float32)
                scan = (scan - scan.min()) / (scan.max() - scan.min())
                with h5py.File(base / f"data/{name}.h5", "w") as file:
                    file["image"], file["label"] = scan, labels
                truth[name] = labels
                if part != "train":
                    lists.setdefault(part, []).append(name)
                    continue
                for number in range(len(labels)):
                    with h5py.File(base / f"data/slices/{name}_slice_{number + 1}.h5", "w") as file:
                        file["image"], file["label"] = scan[number], labels[number]
                    lists.setdefault(part, []).append(f"{name}_slice_{number + 1}")
    (base / "train_slices.list").write_text("\n".join(reversed(lists["train"])) + "\n")
    (base / "train.list").write_text("".join(f"patient{p:03d}_frame0{f}\n" for p in (99, 38) for f in (1, 2)))
    for part in ("val", "test"):
        (base / f"{part}.list").write_text("\n".join(lists[part]) + "\n")
    return truth
