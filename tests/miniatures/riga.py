"""RIGA: pictures into which six people have drawn, as Deep Blue has them, or the masks of RIGA+."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from .sketches import ellipse, eye, leave_litter, save

VARIANTS = ({}, {"form": "plus"})
RATERS = tuple(f"rater {number}" for number in range(1, 7))
LINE = (20, 60, 255)
# {folder: (suffix of the clean picture, suffix of the drawings, first word of the name of the first drawing)}
FOLDERS = {
    "BinRushedcorrected/BinRushed/BinRushed1-Corrected": (".jpg", ".jpg", "image"),
    "BinRushedcorrected/BinRushed/BinRushed2": (".tif", ".tif", "image"),
    "Magrabia/Magrabia/MagrabiaMale": (".tif", ".tif", "Image"),
    "Magrabia/Magrabia/MagrabiFemale": (".tif", ".tif", "image"),
    "MESSIDOR/MESSIDOR": (".tif", ".tif", "image"),
}
PLUS = {
    "BinRushed_BinRushed1_image1": "BinRushed/BinRushed1/image1",
    "Magrabia_MagrabiaMale_image1": "Magrabia/MagrabiaMale/image1",
    "MESSIDOR_Base1_Labeled_image4": "MESSIDOR_Base1/Labeled/image4",
    "MESSIDOR_Base2_Labeled_image5": "MESSIDOR_Base2/Labeled/image5",
}


def write(root: Path, seed: int = 0, form: str = "drawn") -> dict[str, dict[str, np.ndarray]]:
    """{case id: {rater: labels (H, W)}}; the form is "drawn" or "plus"."""
    return _write_drawn(root, seed) if form == "drawn" else _write_plus(root, seed)


def marks_of(labels: np.ndarray, rater: int) -> np.ndarray:
    """What a rater makes of a case: the cup smaller from rater to rater."""
    y, x = (int(np.mean(at)) for at in np.nonzero(labels))
    return np.where(labels > 0, 1, 0).astype(np.uint8) + ellipse((y, x), (9 - rater * 0.5, 8 - rater * 0.5))


def draw(picture: np.ndarray, labels: np.ndarray, colour=LINE) -> np.ndarray:
    """The picture with the outlines of disc and cup as lines of one pixel, inside what they enclose."""
    drawn = picture.copy()
    for region in (labels > 0, labels == 2):
        drawn[region & ~ndimage.binary_erosion(region)] = colour
    return drawn


def _write_drawn(root: Path, seed: int) -> dict[str, dict[str, np.ndarray]]:
    truth: dict[str, dict[str, np.ndarray]] = {}
    for number, (folder, (clean, drawing, first)) in enumerate(FOLDERS.items()):
        picture, labels = eye(seed + number)
        save(root / folder / f"image1prime{clean}", picture)
        marks = {rater: marks_of(labels, n) for n, rater in enumerate(RATERS)}
        for n, rater in enumerate(RATERS, start=1):
            word = first if n == 1 else "image"
            save(root / folder / f"{word}1-{n}{drawing}", draw(picture, marks[rater]))
        truth[f"{Path(folder).name}_image1"] = marks
        leave_litter(root / folder, "image1prime.tif")
    picture, labels = eye(seed + 50)  # drawings without a clean picture, as they are distributed
    save(root / "BinRushedcorrected/BinRushed/BinRushed1/image1-1.jpg", draw(picture, labels))
    save(root / "Magrabia/Magrabia/MagrabiFemale/image48-1.tif", draw(picture, labels))
    return truth


def _write_plus(root: Path, seed: int) -> dict[str, dict[str, np.ndarray]]:
    greys = np.array([0, 255, 128], np.uint8)  # of background, rim and cup
    truth: dict[str, dict[str, np.ndarray]] = {}
    for number, (name, place) in enumerate(PLUS.items()):
        picture, labels = eye(seed + number)
        save(root / f"RIGA/{place}.tif", picture)
        truth[name] = {rater: marks_of(labels, n) for n, rater in enumerate(RATERS)}
        for n, rater in enumerate(RATERS, start=1):
            save(root / f"RIGA-mask/{place}-{n}.tif", greys[truth[name][rater]])
    save(root / "RIGA/MESSIDOR_Base1/Unlabeled/image9.tif", eye(seed + 60)[0])
    for source in ("BinRushed", "Magrabia", "MESSIDOR_Base1", "MESSIDOR_Base2"):
        rows = [f"RIGA/{place}.tif,RIGA-mask/{place}.tif\n" for place in PLUS.values() if place.startswith(source)]
        (root / f"{source}_train.csv").write_text("image,mask\n" + "".join(rows))
    return truth
