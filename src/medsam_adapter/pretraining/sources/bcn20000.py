"""`kind: bcn20000`: BCN20000, dermatoscopic images of the Hospital Clinic in Barcelona.

Three ways in which it comes:
- its own archive: `bcn_20k_train.csv` with `bcn_filename` (`BCN_0000000001.jpg`) and `diagnosis`; 18 946 images with
  the test part;
- the ISIC archive: `metadata.csv` with `isic_id` and `diagnosis`, or `diagnosis_1` .. `diagnosis_5` from coarse to fine
  (the finest that is filled in is the label), images called `<isic_id>.jpg`;
- ISIC 2019: `ISIC_2019_Training_GroundTruth.csv` with one column a class (`image, MEL, NV, BCC, AK, BKL, DF, VASC, SCC,
  UNK`). It also holds HAM10000 and MSK, so `metadata: ISIC_2019_Training_Metadata.csv` has to be given: the images of
  BCN20000 are those whose `lesion_id` starts with BCN.
JPEG, mostly 1024 x 1024 pixels, about 9 GB.

Where: the article's data availability section, https://www.isic-archive.com, and
https://challenge.isic-archive.com/data/#2019, there under CC BY-NC 4.0; see each place for its terms. Hernandez-Perez
et al., BCN20000: Dermoscopic Lesions in the Wild, Scientific Data 11:641, 2024,
https://doi.org/10.1038/s41597-024-03387-w
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medsam_adapter.data.io import stem
from medsam_adapter.errors import DataError
from medsam_adapter.pretraining.sources.listed import (
    PictureList,
    files_by_stem,
    folder_of,
    read_table,
    require_columns,
)

ONE_HOT = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
LEVELS = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1")


def open_bcn20000(
    path: str, csv: str, metadata: str | None = None, max_images: int | None = None, name: str = "BCN20000"
) -> PictureList:
    """BCN20000 in one of its three forms; an image without diagnosis has no label.

    Args:
        path: the folder of table and images; images may lie in any folder below.
        csv: the table, see above.
        metadata: ISIC 2019's metadata, which tells BCN20000's images from the others of that form.
        max_images: take so many, evenly spread.

    Raises:
        DataError: no such folder or table, columns of none of the three forms, ISIC 2019's without metadata, or images
            that are not there.
    """
    root = folder_of(path)
    table, columns, rows = read_table(root, csv)
    key = next((column for column in ("isic_id", "bcn_filename", "image") if column in columns), "")
    is_one_hot = key == "image" and all(column in columns for column in ONE_HOT[:-1])
    if not is_one_hot and (key in ("", "image") or not any(c in columns for c in ("diagnosis", *LEVELS))):
        raise DataError(
            "does not have the columns of this data set", file=table,
            expected=f"isic_id or bcn_filename and diagnosis; or image, {', '.join(ONE_HOT)}",
            found=", ".join(columns) or "an empty file", hint="give the table as it was distributed, header included",
        )  # fmt: skip
    if is_one_hot and metadata is None:
        raise DataError(
            "holds other data sets, too (HAM10000, MSK)", file=table, expected="metadata: which images are BCN20000's",
            found="none", hint="add metadata: ISIC_2019_Training_Metadata.csv",
        )  # fmt: skip
    wanted = None if metadata is None else _bcn_images(root, metadata)
    return PictureList(name, root, _entries(root, key, rows, wanted, is_one_hot, table), table, max_images)


def _entries(
    root: Path, key: str, rows: Iterator[dict[str, str]], wanted: set[str] | None, is_one_hot: bool, table: Path
) -> Iterator[tuple[str, str | None]]:
    files = files_by_stem(root)
    for row in rows:
        image = stem(row[key]) or row[key]
        if wanted is not None and image not in wanted:
            continue
        if is_one_hot:
            label = next((column for column in ONE_HOT if _is_one(row.get(column), column, table)), None)
        else:
            label = next((row[column] for column in ("diagnosis", *LEVELS) if row.get(column)), None)
        yield files.get(image, f"{image}.jpg"), label


def _is_one(cell: str | None, column: str, table: Path) -> bool:
    try:
        return float(cell or 0) > 0
    except ValueError:
        raise DataError(
            f"holds no number in the column {column}", file=table, expected="0 or 1", found=repr(cell)[:40],
            hint="give the table as it was distributed",
        ) from None  # fmt: skip


def _bcn_images(root: Path, metadata: str) -> set[str]:
    table, columns, rows = read_table(root, metadata)
    require_columns(table, columns, "image", "lesion_id")
    return {row["image"] for row in rows if row["lesion_id"].startswith("BCN")}
