"""A data set as Parquet files for `datasets.load_dataset`, streaming too, with the files' bytes inside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from datasets import Features, Image, Nifti, Value
from pyarrow.parquet import ParquetWriter

from medsam_adapter.data.io import is_nifti
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.layouts.parquet import METADATA_FILE
from medsam_adapter.data.parquet.card import card, metadata_of
from medsam_adapter.data.parquet.cells import Cells, can_stay, converted_cells, rater_column, stored_cells
from medsam_adapter.data.sample import Case
from medsam_adapter.data.splits import Split, save_split
from medsam_adapter.errors import DataError
from medsam_adapter.writing import partial_name

MAX_SHARD_BYTES = 500_000_000  # what the Hub advises for one Parquet file
MAX_ROW_GROUP_BYTES = 32_000_000  # what a streaming reader must hold at a time


def refuse_used_folder(output: Path) -> None:
    """Raises DataError unless `output` is a new or an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(
            "is in use already",
            file=output,
            expected="a new or an empty folder",
            found="a folder with files" if output.is_dir() else "a file",
            hint="give another folder, or remove this one first",
        )


def write_parquet(
    dataset: Dataset,
    cases: list[Case],
    split: Split,
    output: Path,
    progress: Callable[[int], None],
    licence: str | None = None,
) -> None:
    """The whole of `output`, or nothing of it: data/*.parquet, split.json, msa_dataset.json and README.md.

    Args:
        licence: for the card; the data set's own if None.
        progress: called with the number of cases that are written.

    Raises:
        DataError: files of two kinds, a file too large for a cell, a place that cannot be written, or what reading a
            case refuses where it has to be converted.
    """
    target = output.resolve()
    partial = partial_name(target)
    is_converted = not can_stay(dataset, cases)
    raters = sorted({rater for case in cases for rater in case.raters})
    by_id = {case.case_id: case for case in cases}
    try:
        (partial / "data").mkdir(parents=True)
        save_split(partial / "split.json", split)
        metadata = metadata_of(dataset, is_converted=is_converted, raters=raters)
        (partial / METADATA_FILE).write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
        text = card(dataset, split, is_converted=is_converted, licence=licence or dataset.licence)
        (partial / "README.md").write_text(text, encoding="utf-8")
        done, features = 0, None
        for part, ids in split.items():
            shards = _Shards(partial / "data", part)
            for case in (by_id[case_id] for case_id in ids):
                cells = converted_cells(dataset, case, raters) if is_converted else stored_cells(case)
                features = features or _features(cells, raters if is_converted else [])
                _refuse_another_kind(cells, features, dataset)
                shards.add({"case_id": case.case_id, "patient_id": case.patient_id, **cells, "split": part}, features)
                done += 1
                progress(done)
            shards.close()
        if target.is_dir():
            target.rmdir()  # empty, see refuse_used_folder; renaming onto a folder fails on some systems
        partial.rename(target)
    except OSError as error:
        raise DataError(
            "cannot be written", file=output, expected="a place with room that you may write to", found=str(error),
            hint="give another folder with -o",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _features(cells: Cells, raters: list[str]) -> Features:
    """`datasets` features for the kind of files of the first case."""
    kinds = {column: _kind(cells[column]["path"]) for column in ("image", "label")}
    more = {rater_column(rater): type(kinds["label"])() for rater in raters}
    return Features(
        {"case_id": Value("string"), "patient_id": Value("string"), **kinds, **more, "split": Value("string")}
    )


def _kind(name: str) -> Nifti | Image:
    return Nifti() if is_nifti(name) else Image()


def _refuse_another_kind(cells: Cells, features: Features, dataset: Dataset) -> None:
    """One column cannot hold two kinds of files."""
    for column in ("image", "label"):
        if type(_kind(cells[column]["path"])) is not type(features[column]):
            raise DataError(
                f"has {column}s of two kinds",
                file=dataset.root,
                expected="NIfTI files only, or pictures only",
                found=f"{cells[column]['path']} beside files of the other kind",
                hint="make a data set of each kind",
            )


class _Shards:
    """The Parquet files of one part: full ones are closed, and all get their names when the number is known.

    Arrow tables are written and not a `datasets.Dataset`: its `to_parquet` keeps the paths of local files and not their
    bytes, and its features drop bytes given beside a name that happens to exist in the current folder.
    """

    def __init__(self, folder: Path, part: str):
        self.folder, self.part = folder, part
        self.files: list[Path] = []
        self.writer: ParquetWriter | None = None
        self.rows: list[dict] = []
        self.row_bytes = self.shard_bytes = 0
        self.schema: pa.Schema | None = None

    def add(self, row: dict, features: Features) -> None:
        size = sum(len(cell["bytes"]) for cell in row.values() if isinstance(cell, dict))
        if self.writer and self.shard_bytes + size > MAX_SHARD_BYTES:
            self._close_shard()
        elif self.rows and self.row_bytes + size > MAX_ROW_GROUP_BYTES:
            self._write_rows()
        if self.writer is None:
            self.schema = features.arrow_schema
            self.files.append(self.folder / f"{self.part}-{len(self.files):05d}.partial")
            self.writer, self.shard_bytes = ParquetWriter(self.files[-1], self.schema), 0
        self.rows.append(row)
        self.row_bytes += size
        self.shard_bytes += size

    def close(self) -> None:
        self._close_shard()
        for number, file in enumerate(self.files):
            file.rename(self.folder / f"{self.part}-{number:05d}-of-{len(self.files):05d}.parquet")

    def _write_rows(self) -> None:
        assert self.writer is not None
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows, self.row_bytes = [], 0

    def _close_shard(self) -> None:
        if self.writer:
            self._write_rows()
            self.writer.close()
            self.writer = None
