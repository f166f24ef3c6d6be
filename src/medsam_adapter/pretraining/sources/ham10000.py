"""`kind: ham10000`: HAM10000, 10 015 dermatoscopic images of pigmented skin lesions in seven classes.

Layout: `HAM10000_metadata.csv` (also without suffix) with the columns `lesion_id, image_id, dx, dx_type, age, sex,
localization`, and 600 x 450 JPEGs in `HAM10000_images_part_1/` and `_part_2/`; 3 GB. One lesion may have several
images. Classes: akiec, bcc, bkl, df, mel, nv, vasc.

Where: https://doi.org/10.7910/DVN/DBW86T, CC BY-NC 4.0. Tschandl, Rosendahl and Kittler, The HAM10000 dataset, a large
collection of multi-source dermatoscopic images of common pigmented skin lesions, Scientific Data 5:180161, 2018,
https://doi.org/10.1038/sdata.2018.161
"""

from __future__ import annotations

from medsam_adapter.pretraining.sources.listed import (
    PictureList,
    files_by_stem,
    folder_of,
    read_table,
    require_columns,
)


def open_ham10000(
    path: str, csv: str = "HAM10000_metadata.csv", max_images: int | None = None, name: str = "HAM10000"
) -> PictureList:
    """HAM10000 as distributed; labels are the column `dx`.

    Args:
        path: the folder with the table and the two folders of images.
        csv: the table.
        max_images: take so many, evenly spread.

    Raises:
        DataError: no such folder or table, other columns, or images that are not there.
    """
    root = folder_of(path)
    table, columns, rows = read_table(root, csv)
    require_columns(table, columns, "image_id", "dx")
    files = files_by_stem(root, "ham10000_images")
    entries = (
        (files.get(row["image_id"], f"HAM10000_images_part_1/{row['image_id']}.jpg"), row["dx"] or None) for row in rows
    )
    return PictureList(name, root, entries, table, max_images)
