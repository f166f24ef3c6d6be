"""`kind: radimagenet`: RadImageNet, 1.35 million CT, MR and ultrasound images of 11 anatomies in 165 classes.

Layout: `radiology_ai/{CT,MR,US}/<anatomy>/<class>/*.png`, ultrasound without the class folder, and
`RadiologyAI_{train,val,test}.csv` with the columns `filename` (`radiology_ai/MR/knee/...`) and `label`. 8-bit PNG,
small ones, some tens of gigabytes. Some images are empty and some stand in it more than once
(https://github.com/BMEII-AI/RadImageNet/issues/17).

Where and licence: on request at https://www.radimagenet.com, under the agreement that is signed there. Mei et al.,
RadImageNet: An Open Radiologic Deep Learning Research Dataset for Effective Transfer Learning, Radiology: Artificial
Intelligence 4(5), 2022, https://doi.org/10.1148/ryai.210315
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from medsam_adapter.pretraining.sources.listed import CHECKED, PictureList, folder_of, read_table, require_columns
from medsam_adapter.pretraining.sources.listing import image_files_below

TOP = "radiology_ai/"


def open_radimagenet(
    path: str, csv: str | None = None, max_images: int | None = None, name: str = "RadImageNet"
) -> PictureList:
    """RadImageNet as distributed.

    Args:
        path: the folder that holds `radiology_ai`, or that folder itself.
        csv: the table of a part; all images below `path` if None, labelled by their folder.
        max_images: take so many, evenly spread.

    Raises:
        DataError: no such folder or table, other columns, or files that are not there.
    """
    root = folder_of(path)
    if csv is None:
        entries = ((file, Path(file).parent.name or None) for file in image_files_below(root))
        return PictureList(name, root, entries, max_images=max_images)
    table, columns, rows = read_table(root, csv)
    require_columns(table, columns, "filename", "label")
    return PictureList(name, root, _entries(root, rows), table, max_images)


def _entries(root: Path, rows: Iterator[dict[str, str]]) -> Iterator[tuple[str, str | None]]:
    """Table paths as they lie below root: with the leading folder or without, whichever the first files show."""
    first = list(islice(rows, CHECKED))
    bare = [row["filename"].replace("\\", "/").removeprefix("./").removeprefix(TOP) for row in first]
    has_top = any((root / TOP / file).is_file() for file in bare) or not any((root / file).is_file() for file in bare)
    for row in chain(first, rows):
        file = row["filename"].replace("\\", "/").removeprefix("./").removeprefix(TOP)
        yield (TOP + file if has_top else file), row["label"] or None
