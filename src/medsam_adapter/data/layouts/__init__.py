"""Opening a data set folder, whatever its layout.

A layout is a module with `INFO` (a `LayoutInfo`), `detect(root) -> bool` and `load(root, *, require_labels, channel) ->
Dataset`; a new one is a file here and a line in `LAYOUTS`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ...errors import DataError
from ..safe_names import refuse_unsafe_name
from ..sample import Case
from ..splits import verify_split
from . import (
    acdc,
    amos22,
    brats,
    btcv,
    ddti,
    folder,
    isic2016,
    isic2017,
    isic2018,
    kits,
    lidc,
    msd,
    parquet,
    refuge,
    riga,
    tnscui,
)
from .base import Dataset
from .info import LayoutInfo

# In the order in which "auto" asks them.
LAYOUTS = {
    "parquet": parquet,
    "btcv": btcv,
    "amos22": amos22,
    "brats": brats,
    "kits": kits,
    "acdc": acdc,
    "lidc": lidc,
    "refuge": refuge,
    "riga": riga,
    "tnscui": tnscui,
    "ddti": ddti,
    "isic2016": isic2016,
    "isic2017": isic2017,
    "isic2018": isic2018,
    "msd": msd,
    "folder": folder,
}


def open_dataset(
    path: str | Path, layout: str = "auto", *, require_labels: bool = True, channel: str | int = ""
) -> Dataset:
    """Finds the cases and label names of a data set; no image is read.

    Args:
        path: its folder, or hf://datasets/ORG/NAME for one that `msa data prepare --push` has put there.
        layout: a name in `LAYOUTS`, such as "btcv", "msd" (dataset.json of the Medical Segmentation Decathlon or
            nnU-Net) or "folder" (images/ beside masks/ or labels/); "auto" for the first that fits.
        require_labels: an image without mask is an error; if False it is a case without label.
        channel: which channel of multi-channel images to take, by name or number; the layout's default if empty.

    Raises:
        DataError: no such folder, unknown layout, a folder that is not in the layout, or a case id that cannot be part
            of a file name.
    """
    address = re.match(r"hf:/+(.+)", str(path))
    if address:  # a Path has made one slash of two
        return _checked(parquet.load(f"hf://{address[1]}", require_labels=require_labels, channel=str(channel)))
    root = Path(path)
    if not root.is_dir():
        raise DataError(
            "is no data set folder",
            file=root,
            expected="a folder",
            found="a file" if root.exists() else "no such folder",
            hint="give the folder that holds the images or their folders, such as dataset.json or images/",
        )
    if layout == "auto":
        layout = next((name for name, module in LAYOUTS.items() if module.detect(root)), "")
        if not layout:
            entries = sorted(entry.name for entry in root.iterdir())[:8]
            raise DataError(
                "is in no known layout",
                file=root,
                expected="dataset.json (msd), images/ beside masks/ or labels/ (folder), or a public data set as it is "
                "distributed (msa data list)",
                found=", ".join(entries) or "an empty folder",
                hint="give the folder one level up or down, or move the files into images/ and masks/, names matching",
            )
    if layout not in LAYOUTS:
        nearest = difflib.get_close_matches(layout, LAYOUTS, n=1, cutoff=0.0)
        raise DataError(
            f"there is no layout '{layout}'",
            file=root,
            expected=", ".join(["auto", *LAYOUTS]),
            found=layout,
            hint=f"did you mean '{nearest[0]}'?",
        )
    dataset = LAYOUTS[layout].load(root, require_labels=require_labels, channel=str(channel))
    dataset.layout = dataset.layout or layout
    return _checked(dataset)


def _checked(dataset: Dataset) -> Dataset:
    """A data set may have been written by anybody: ids that cannot leave a folder, and no patient on two sides."""
    seen: dict[str, Case] = {}
    for case in dataset.cases:
        refuse_unsafe_name(case.case_id, "case id", dataset.root)
        other = seen.setdefault(case.case_id, case)
        if other is not case:
            raise DataError(
                "has two cases of one id", file=dataset.root, expected="names that differ",
                found=f"{case.case_id} for {other.image} and {case.image}", hint="rename one of the files",
            )  # fmt: skip
    if dataset.official_split:
        verify_split(dataset.official_split, dataset.cases, dataset.root)
    return dataset


__all__ = ["LAYOUTS", "Dataset", "LayoutInfo", "open_dataset"]
