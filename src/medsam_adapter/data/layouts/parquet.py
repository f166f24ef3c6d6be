"""What `msa data prepare` made: Parquet tables with the files inside, in a folder or on the Hub.

`--data.path hf://datasets/ORG/NAME` reads a case when it is wanted, without downloading the rest.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...errors import DataError
from ..io import is_nifti, read_scan
from ..sample import Case, Scan
from ..splits import is_split
from .base import Dataset
from .completeness import refuse_channel
from .info import LayoutInfo

METADATA_FILE = "msa_dataset.json"
NO_AFFINE = b"the source has no affine"
"""In the description of a NIfTI file: its affine is one that a file must have, and says nothing of the scan."""

INFO = LayoutInfo(
    title="Parquet tables made by `msa data prepare`, in a folder or on the Hub (hf://datasets/ORG/NAME)",
    recognised_by="a file msa_dataset.json",
    example="""\
SET/
  msa_dataset.json    names of labels and targets, modality, licence
  split.json          {"train": [case ids], "val": [...], "test": [...]}
  data/train-00000-of-00001.parquet""",
    licence="of the data set it was made from",
    split="the one that `msa data prepare` made",
)


def detect(root: Path) -> bool:
    return (root / METADATA_FILE).is_file()


def load(root: Path | str, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`; `root` may also be an address that fsspec knows, such as hf://datasets/ORG/NAME.

    Raises:
        DataError: a channel, an address that cannot be reached, or a folder that `msa data prepare` has not made.
    """
    import fsspec

    place = str(root)
    refuse_channel(channel, Path(place))  # it was chosen when the tables were made
    try:
        files, folder = fsspec.core.url_to_fs(place)
        metadata = json.loads(files.cat_file(f"{folder}/{METADATA_FILE}"))
        split = json.loads(files.cat_file(f"{folder}/split.json"))
        if not is_split(split):
            raise ValueError("split.json is not {part: [case id, ...]}")
        tables = sorted(files.glob(f"{folder}/data/*.parquet"))
        facts = {
            "label_names": {int(value): name for value, name in metadata["label_names"].items()},
            "regions": {name: tuple(values) for name, values in metadata["regions"].items()},
            "mask_values": metadata["mask_values"] and {value: label for value, label in metadata["mask_values"]},
            "colours": metadata["colours"] and {tuple(colour): label for colour, label in metadata["colours"]},
            **{
                key: metadata[key]
                for key in ("layout", "nested", "instances", "modality", "licence", "intensity", "orientation", "notes")
            },
        }
        given: Any = Path(place) if isinstance(root, Path) else PurePosixPath(place)  # an address has its own slashes
        dataset = ParquetDataset(metadata["name"], given, [], **facts, official_split=split, files=files)
        for table in tables:
            dataset.enter(table, metadata["raters"])
    except Exception as error:  # each file system has its own errors for a place that is not there
        raise DataError(
            "cannot be read as Parquet tables of `msa data prepare`", file=place,
            expected=f"{METADATA_FILE}, split.json and data/*.parquet",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            hint="check the address and the network, or make the folder again with `msa data prepare`",
        ) from error  # fmt: skip
    if not dataset.cases:
        raise DataError("holds no cases", file=place, expected="rows in data/*.parquet", found=f"{len(tables)} tables")
    return dataset


@dataclass
class ParquetDataset(Dataset):
    """Cases in the rows of tables.

    Attributes:
        files: the fsspec file system that holds the tables.
        places: {case id: (table, row group, row)}.
    """

    files: Any = None
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _last: tuple[tuple[str, int], Any] | None = None

    def enter(self, table: str, raters: list[str]) -> None:
        """The cases of one table; reads no more of it than names."""
        import pyarrow.parquet as pq

        with self.files.open(table) as stream:
            opened = pq.ParquetFile(stream)
            columns = ["case_id", "patient_id", "image.path", "label.path", *(f"label {r}.path" for r in raters)]
            for group in range(opened.num_row_groups):
                for number, row in enumerate(opened.read_row_group(group, columns=columns).to_pylist()):
                    place = Path(PurePosixPath(table).name)
                    marks = {r: place / row[f"label {r}"]["path"] for r in raters if row[f"label {r}"]}
                    self.cases.append(
                        Case(
                            row["case_id"],
                            place / row["image"]["path"],
                            place / row["label"]["path"],
                            row["patient_id"],
                            raters=marks,
                        )
                    )
                    self.places[row["case_id"]] = table, group, number

    def digest(self, case: Case) -> str:
        return hashlib.sha256(self._cell(case, "image")["bytes"]).hexdigest()

    def read_scan(self, case: Case) -> Scan:
        cell = self._cell(case, "image")
        with _as_file(cell) as file:
            if not is_nifti(file):
                scan = read_scan(file)
            else:
                scan = _all_channels(file)
        scan.path = case.image
        return scan

    def read_labels(self, case: Case, like: Scan | None = None, rater: str | None = None) -> np.ndarray | None:
        column = "label" if rater is None else f"label {rater}"
        cell = self._cell(case, column)
        if cell is None:
            raise DataError(
                f"was not marked by '{rater}'", file=case.image, expected=", ".join(case.raters) or "one reference",
                found=str(rater),
            )  # fmt: skip
        with _as_file(cell) as file:
            return self.read_label_file(file, like)

    def _cell(self, case: Case, column: str) -> Any:
        """{"path": name, "bytes": content}, or None where a rater did not mark the case.

        The row group is kept (32 MB, see `parquet.tables`), since the case's other files and the next case lie in it.
        """
        import pyarrow.parquet as pq

        table, group, number = self.places[case.case_id]
        last = self._last
        if last is None or last[0] != (table, group):
            with self.files.open(table) as stream:
                last = self._last = (table, group), pq.ParquetFile(stream).read_row_group(group)
        rows = last[1]
        return rows.column(column)[number].as_py() if column in rows.column_names else None


class _as_file:
    """A cell as a file with its own name, for readers that want one."""

    def __init__(self, cell: dict):
        self.cell = cell

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / PurePosixPath(self.cell["path"]).name
        file.write_bytes(self.cell["bytes"])
        return file

    def __exit__(self, *error) -> None:
        self.folder.cleanup()


def _all_channels(file: Path) -> Scan:
    """A NIfTI volume, its fourth axis as channels."""
    import nibabel as nib

    image = nib.load(file)
    if len(image.shape) < 4 or image.shape[3] == 1:
        scan = read_scan(file)
    else:
        scans = [read_scan(file, channel=number) for number in range(image.shape[3])]
        scan = Scan(np.stack([each.array for each in scans], axis=-1), scans[0].spacing_mm, scans[0].affine)
    if image.header["descrip"].tobytes().rstrip(b"\0") == NO_AFFINE:
        scan.affine = None
    return scan
