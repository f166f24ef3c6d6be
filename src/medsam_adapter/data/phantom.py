"""Made-up abdominal CT in HU with organ labels: a data set for demos and tests that needs no download and no patient.

Every case differs in body size, position and shape of the organs, contrast phase, texture and noise. The geometry is in
`phantom_anatomy.py`; here it is painted with HU values, blurred and made noisy as by a scanner, and written as a data
set in MSD form. It is no substitute for real scans: a score on it says that the software works.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import DataError
from ..writing import naming_write_errors, replacing, write_text
from .nifti import save_nifti
from .phantom_anatomy import LABEL_NAMES, Anatomy, Grid, build_anatomy
from .sample import Sample, Scan

DEFAULT_SHAPE_ZYX = (24, 96, 96)
DEFAULT_SPACING_MM = (5.0, 3.5, 3.5)
MIN_SHAPE_ZYX = (12, 48, 48)
HU_RANGE = (-1024, 1500)

# Mean HU without contrast, in the arterial and in the portal venous phase. Cases lie between two of them.
_PHASES_HU = {
    "liver": (56, 72, 108),
    "spleen": (48, 112, 118),
    "cortex": (36, 165, 150),
    "medulla": (30, 62, 118),
    "pelvis": (2, 0, 12),
    "aorta": (42, 190, 138),
    "cava": (40, 70, 120),
    "portal vein": (40, 88, 148),
    "hepatic veins": (40, 62, 138),
    "pancreas": (40, 96, 84),
    "stomach": (38, 66, 62),
    "muscle": (50, 54, 60),
}


def make_phantom(
    seed: int,
    shape_zyx: tuple[int, int, int] = DEFAULT_SHAPE_ZYX,
    spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM,
) -> Sample:
    """One made-up abdomen; the same seed and grid give the same voxels.

    Returns:
        Sample with a scan (D, H, W) int16 in HU within [-1024, 1500], oriented LPS (x to the patient's left, y to the
        back, z to the head), and labels (D, H, W) uint8: 1 liver, 2 spleen, 3 left kidney, 4 right kidney, 5 aorta,
        6 pancreas, each in one piece. The body fills the grid, so its size in mm follows shape and spacing.

    Raises:
        DataError: a grid below (12, 48, 48), on which the small organs would vanish, or a spacing not above 0.
    """
    if any(size < least for size, least in zip(shape_zyx, MIN_SHAPE_ZYX, strict=True)) or min(spacing_mm) <= 0:
        raise DataError(
            "the phantom's grid is too small",
            expected=f"a shape of at least {MIN_SHAPE_ZYX} and spacings above 0 mm",
            found=f"shape {tuple(shape_zyx)}, spacing {tuple(spacing_mm)}",
        )
    rng = np.random.default_rng(seed)
    grid = Grid(rng, tuple(shape_zyx), tuple(spacing_mm))
    anatomy = build_anatomy(grid)
    hu = _scan(rng, _paint(grid, anatomy), anatomy)
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
    affine[:3, 3] = [(size - 1) / 2 * step for size, step in zip(shape_zyx[::-1], spacing_mm[::-1], strict=True)]
    affine[2, 3] *= -1
    z_mm, y_mm, x_mm = (float(step) for step in spacing_mm)
    scan = Scan(hu, (z_mm, y_mm, x_mm), affine)
    return Sample(f"phantom_{seed}", scan, anatomy.labels, dict(LABEL_NAMES))


def _paint(grid: Grid, anatomy: Anatomy) -> np.ndarray:
    """Mean HU of every voxel, with texture, before the scanner."""
    rng, shapes = grid.rng, anatomy.shapes
    width = np.float32(anatomy.voxel_mm)
    tissue = _tissue_hu(rng)
    hu: np.ndarray = np.full(grid.shape, -1000, np.float32)

    def fill(shape: np.ndarray, value: float | np.ndarray, strength: float = 1.0) -> None:
        nonlocal hu
        share = np.clip(0.5 + shape / width, 0, 1) * strength  # the part of the voxel that lies inside
        hu = hu + share * (value - hu)

    def textured(name: str, cell_mm: float, amount: float) -> np.ndarray:
        return tissue[name] + amount * grid.noise(cell_mm)

    fill(shapes["table"], 20)
    fill(shapes["body"], 5)  # skin
    fill(shapes["body"] - 2.5, -102 + 6 * grid.noise(25))
    muscle = textured("muscle", 14, 7)
    fill(shapes["wall"], muscle)
    fill(shapes["behind"], -85 + 20 * grid.noise(14))  # fat between the muscles of the back
    fill(shapes["cavity"], rng.uniform(-100, -70) + 16 * grid.noise(14))  # fat crossed by small vessels
    for loop in anatomy.bowel:
        _fill_bowel(grid, fill, loop, tissue)
    fill(shapes["muscle"], muscle)
    _fill_bones(grid, fill, shapes)
    fill(shapes["lung"], -840 + 45 * grid.noise(12))
    _fill_stomach(grid, fill, shapes["stomach"], tissue)
    fill(shapes["gallbladder"], rng.uniform(2, 18))
    fill(shapes["cava"], textured("cava", 20, 8))
    fill(shapes["portal vein"], tissue["portal vein"], 0.95)
    liver = textured("liver", 16, 5) + 4 * grid.noise(45)
    fill(shapes["liver"], liver)
    for name in ("portal vein", "hepatic veins"):
        fill(np.minimum(shapes[name], shapes["liver"] - 1), tissue[name])
    for _ in range(rng.integers(0, 4)):  # cysts and the like, part of the liver
        size = rng.uniform(5, 13)
        lesion = grid.ellipsoid((rng.uniform(-20, 45), rng.uniform(-45, 30), rng.uniform(-95, -10)), (size, size, size))
        fill(np.minimum(lesion, shapes["liver"] - 2), rng.uniform(5, tissue["liver"] - 15), 0.9)
    fill(shapes["spleen"], textured("spleen", 14, 5 + 9 * tissue["arterial"]))
    lobules = np.clip(grid.noise(7), 0, 2) * rng.uniform(15, 38)  # fat between the lobules
    fill(shapes["pancreas"], textured("pancreas", 14, 6) - lobules)
    for name in ("left kidney", "right kidney"):
        kidney = shapes[name]
        fill(kidney, textured("cortex", 20, 5))
        fill(kidney - 6.5 - 2.2 * grid.noise(11), textured("medulla", 12, 5))
        fill(np.minimum(shapes[name + " pelvis"], kidney - 3), tissue["pelvis"] + 18 * grid.noise(10) - 20)
    fill(shapes["aorta"], textured("aorta", 25, 4))
    if rng.random() < 0.4:  # a calcified wall
        fill(np.minimum(2 - np.abs(shapes["aorta"] - 1), (grid.noise(12) - 1.3) * 8), 500)
    return hu


def _tissue_hu(rng: np.random.Generator) -> dict[str, float]:
    weights = rng.dirichlet((0.35, 0.35, 0.5))
    tissue = {name: float(np.dot(weights, values)) + rng.uniform(-12, 12) for name, values in _PHASES_HU.items()}
    if rng.random() < 0.2:  # fatty liver, darker than its vessels
        tissue["liver"] -= rng.uniform(15, 40)
    return tissue | {"arterial": float(weights[1])}


def _fill_bowel(grid: Grid, fill: Callable[..., None], loop: np.ndarray, tissue: dict[str, float]) -> None:
    rng = grid.rng
    fill(loop, tissue["stomach"])
    inside = loop - rng.uniform(2.5, 4.5)
    kind = rng.random()
    if kind < 0.4:
        fill(inside, rng.uniform(5, 45))
    elif kind < 0.6:
        fill(inside, rng.uniform(-150, 10) + 90 * grid.noise(9))  # stool: crumbs of gas
    else:
        fill(inside, rng.uniform(10, 45))
    if kind > 0.45:  # gas rises to the front, with a level
        level = rng.uniform(-45, 0)
        fill(np.minimum(inside, level - grid.y), -880)


def _fill_stomach(grid: Grid, fill: Callable[..., None], stomach: np.ndarray, tissue: dict[str, float]) -> None:
    rng = grid.rng
    fill(stomach, tissue["stomach"])
    inside = stomach - rng.uniform(4, 7)
    fill(inside, rng.uniform(5, tissue["liver"]) + rng.uniform(3, 18) * grid.noise(10))
    fill(np.minimum(inside, rng.uniform(-62, -38) - grid.y), -920)


def _fill_bones(grid: Grid, fill: Callable[..., None], shapes: dict[str, np.ndarray]) -> None:
    rng = grid.rng
    cortex, marrow = rng.uniform(420, 700), rng.uniform(110, 210)
    for name, shell in (("rib", 2.2), ("arch", 2.5), ("vertebra", 2.0)):
        fill(shapes[name], cortex)
        fill(shapes[name] - shell, marrow + 35 * grid.noise(8))
    fill(shapes["disc"], rng.uniform(70, 110))
    fill(shapes["canal"], rng.uniform(15, 35))


def _scan(rng: np.random.Generator, hu: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """What a scanner adds: blur, correlated noise that grows towards the middle of the body, integer HU."""
    pixels = DEFAULT_SPACING_MM[1] / anatomy.voxel_mm  # a finer grid is blurred over more voxels
    blur = rng.uniform(0.45, 0.65) * max(pixels, 0.6)
    hu = ndimage.gaussian_filter(hu, (0.35, blur, blur))
    grain = rng.uniform(0.6, 0.9) * max(pixels, 0.6)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0.2, grain, grain))
    depth = np.clip(anatomy.shapes["body"] / 90, 0, 1)
    hu = hu + noise / noise.std() * rng.uniform(8, 17) * (0.55 + 0.75 * depth)
    return np.clip(np.rint(hu), *HU_RANGE).astype(np.int16)


def write_phantom_dataset(
    root: str | Path,
    num_cases: int,
    seed: int = 0,
    shape_zyx: tuple[int, int, int] = DEFAULT_SHAPE_ZYX,
    spacing_mm: tuple[float, float, float] = DEFAULT_SPACING_MM,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a data set in MSD form: imagesTr/, labelsTr/ (NIfTI) and dataset.json, the last one at the very end.

    A folder that already holds just this data set is left as it is. Case number i is the same in a larger data set of
    the same seed.

    Args:
        progress: called with (cases written, cases in all).

    Returns:
        root, ready for `open_dataset`.

    Raises:
        DataError: num_cases below 1, another data set in the folder, or as `make_phantom`.
        OutputError: a full disk, or a folder that cannot be written to.
    """
    root = Path(root)
    if num_cases < 1:
        raise DataError("a data set needs cases", expected="num_cases of 1 or more", found=str(num_cases))
    recipe = {"num_cases": num_cases, "seed": seed, "shape_zyx": list(shape_zyx), "spacing_mm": list(spacing_mm)}
    file = root / "dataset.json"
    if file.exists():
        if _is_written(file, recipe):
            return root
        raise DataError(
            "another data set is already there",
            file=file,
            expected="an empty or new folder",
            found="a dataset.json with other settings",
            hint="choose another folder, or remove this one",
        )
    training = []
    for number in range(num_cases):
        name = f"phantom_{number:03d}.nii.gz"
        sample = make_phantom(seed * 100_003 + number, shape_zyx, spacing_mm)
        assert sample.labels is not None and sample.scan.affine is not None
        for folder, array in (("imagesTr", sample.scan.array), ("labelsTr", sample.labels)):
            with naming_write_errors(root / folder):
                (root / folder).mkdir(parents=True, exist_ok=True)
            with replacing(root / folder / name) as partial:
                save_nifti(partial, array, sample.scan.affine)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        if progress:
            progress(number + 1, num_cases)
    content = {
        "name": "Phantom",
        "description": "Made-up abdominal CT in HU; no patient data",
        "licence": "CC0-1.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(value): name for value, name in LABEL_NAMES.items()},
        "numTraining": num_cases,
        "training": training,
        "phantom": recipe,
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
    return root


def _is_written(file: Path, recipe: dict) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        paths = [file.parent / entry[key] for entry in content["training"] for key in ("image", "label")]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return content.get("phantom") == recipe and all(path.is_file() for path in paths)
