"""`kind: eyepacs`: the photographs of the eye's fundus of Kaggle's Diabetic Retinopathy Detection, 2015.

Layout: `trainLabels.csv` with the columns `image` (`10_left`) and `level` (0 none, 1 mild, 2 moderate, 3 severe,
4 proliferative), and `train/10_left.jpeg`; for the test part `retinopathy_solution.csv` or `testLabels.csv` and
`test/`. 35 126 and 53 576 colour JPEGs of up to 5184 x 3456 pixels, 35 and 53 GB. Left and right eye of a patient share
the number.

Where: https://www.kaggle.com/c/diabetic-retinopathy-detection, under the competition's rules (no redistribution); the
images are from EyePACS. Cuadros and Bresnick, EyePACS: An Adaptable Telemedicine System for Diabetic Retinopathy
Screening, Journal of Diabetes Science and Technology 3(3), 2009, https://doi.org/10.1177/193229680900300315
"""

from __future__ import annotations

from medsam_adapter.pretraining.sources.listed import (
    PictureList,
    files_by_stem,
    folder_of,
    read_table,
    require_columns,
)


def open_eyepacs(
    path: str, csv: str = "trainLabels.csv", max_images: int | None = None, name: str = "EyePACS"
) -> PictureList:
    """One part of EyePACS; labels are "grade 0" to "grade 4".

    Args:
        path: the folder with the table and `train/` or `test/`.
        csv: the part's table.
        max_images: take so many, evenly spread.

    Raises:
        DataError: no such folder or table, other columns, or images that are not there.
    """
    root = folder_of(path)
    table, columns, rows = read_table(root, csv)
    require_columns(table, columns, "image", "level")
    folder = "train" if "train" in table.name.lower() else "test"
    files = files_by_stem(root, folder)
    entries = ((files.get(row["image"], f"{folder}/{row['image']}.jpeg"), f"grade {row['level']}") for row in rows)
    return PictureList(name, root, entries, table, max_images)
