"""What a prediction of many may write into its folder: no mask over a scan, and no label under two names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from medsam_adapter.errors import DataError, OutputError
from medsam_adapter.inference.batch_cases import BatchCase, object_names

LABELS_JSON = "labels.json"


def refuse_overwriting(cases: Iterable[BatchCase], output: Path, images: Iterable[Path] = ()) -> None:
    """Raises OutputError if a mask would take the place of a scan or lie among the files of a DICOM series.

    Args:
        images: scans that nothing is asked of, which are as dear as the others.
    """
    cases = list(cases)
    scans = {os.path.realpath(image) for image in (*images, *(case.image for case in cases))}
    for case in cases:
        mask = output / case.output
        if os.path.realpath(mask) in scans or os.path.realpath(mask.parent) in scans:
            raise OutputError(
                "a scan would be lost to a mask", file=mask, expected="another output folder than that of the scans"
            )


def names_of_labels(cases: Iterable[BatchCase], output: Path) -> dict[str, str]:
    """{label: name} of what labels.json is to hold: of these cases, and of the masks that are in the folder already.

    Raises:
        DataError: a label that has another name there, or a labels.json of something else.
    """
    file = output / LABELS_JSON
    before = _stored(file)
    names = {str(label): name for label, name in object_names(cases).items()}
    other = next((label for label, name in names.items() if before.get(label, name) != name), None)
    if other:
        raise DataError(
            f"label {other} is another object in the masks that are there", file=file, expected=before[other],
            found=names[other], hint="write these masks into a folder of their own",
        )  # fmt: skip
    return dict(sorted((before | names).items(), key=lambda item: int(item[0])))


def _stored(file: Path) -> dict[str, str]:
    try:
        names = json.loads(file.read_bytes())
        if all(label.isascii() and label.isdigit() and isinstance(name, str) for label, name in names.items()):
            return names
        found = str(names)[:100]
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError) as error:
        found = repr(error)[:100]
    raise DataError(
        "is not what a prediction of many cases writes", file=file, expected='such as {"1": "liver"}', found=found,
        hint="write the masks into a folder of their own",
    )  # fmt: skip
