"""A data set as Parquet files for `datasets.load_dataset`, streaming too, with the files' bytes inside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import yaml
from datasets import Features, Image, Nifti, Value
from pyarrow.parquet import ParquetWriter

from medsam_adapter.data.io import is_nifti
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.sample import Case
from medsam_adapter.data.splits import save_split
from medsam_adapter.errors import DataError

MAX_SHARD_BYTES = 500_000_000  # what the Hub advises for one Parquet file
MAX_ROW_GROUP_BYTES = 32_000_000  # what a streaming reader must hold at a time
MAX_FILE_BYTES = 2**31 - 1  # what a cell of an Arrow binary column can hold


def refuse_used_folder(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(
            "is in use already",
            file=output,
            expected="a new or an empty folder",
            found="a folder with files" if output.is_dir() else "a file",
            hint="give another folder, or remove this one first",
        )


def write_parquet(dataset: Dataset, cases: list[Case], split: dict[str, list[str]], output: Path, progress) -> None:
    """The whole of `output`, or nothing of it."""
    features = _features(dataset, cases)
    target = output.resolve()
    partial = target.with_name(f".{os.getpid()}-partial-{target.name}")
    by_id = {case.case_id: case for case in cases}
    done = 0
    try:
        (partial / "data").mkdir(parents=True)
        save_split(partial / "split.json", split)
        for part, ids in split.items():
            shards = _runs([by_id[case_id] for case_id in ids], MAX_SHARD_BYTES)
            for number, shard in enumerate(shards):
                file = partial / "data" / f"{part}-{number:05d}-of-{len(shards):05d}.parquet"
                done = _write_shard(file, shard, part, features, progress, done)
        (partial / "README.md").write_text(_card(dataset, split), encoding="utf-8")
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


def _features(dataset: Dataset, cases: list[Case]):
    """`datasets` features for the kind of files there are; one column cannot hold two kinds."""
    kinds = {}
    for column in ("image", "label"):
        files = [getattr(case, column) for case in cases]
        niftis = [file for file in files if is_nifti(file)]
        if niftis and len(niftis) < len(files):
            raise DataError(
                f"has {column}s of two kinds",
                file=dataset.root,
                expected="NIfTI files only, or pictures only",
                found=f"{len(niftis)} NIfTI files and {len(files) - len(niftis)} pictures",
                hint="make a data set of each kind",
            )
        too_large = next((file for file in files if file.stat().st_size > MAX_FILE_BYTES), None)
        if too_large:
            raise DataError(
                "is too large for one cell of a table",
                file=too_large,
                expected="at most 2 GiB",
                found=f"{too_large.stat().st_size / 2**30:.1f} GiB",
                hint="compress it to .nii.gz",
            )
        kinds[column] = Nifti() if niftis else Image()
    return Features({"case_id": Value("string"), **kinds, "split": Value("string")})


def _runs(cases: list[Case], limit: int) -> list[list[Case]]:
    """The cases in order, cut where their files would pass so many bytes."""
    runs: list[list[Case]] = []
    held = 0
    for case in cases:
        size = case.image.stat().st_size + case.label.stat().st_size
        if not runs or held + size > limit:
            runs.append([])
            held = 0
        runs[-1].append(case)
        held += size
    return runs


def _write_shard(file: Path, cases: list[Case], part: str, features, progress, done: int) -> int:
    """One Parquet file; returns how many cases are written in all.

    Arrow tables are written and not a `datasets.Dataset`: its `to_parquet` keeps the paths of local files and not their
    bytes, and its features drop bytes given beside a name that happens to exist in the current folder.
    """
    schema = features.arrow_schema
    with ParquetWriter(file, schema) as writer:
        for group in _runs(cases, MAX_ROW_GROUP_BYTES):
            rows = [
                {
                    "case_id": case.case_id,
                    "image": {"bytes": case.image.read_bytes(), "path": case.image.name},
                    "label": {"bytes": case.label.read_bytes(), "path": case.label.name},
                    "split": part,
                }
                for case in group
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            done += len(group)
            progress(done)
    return done


def _card(dataset: Dataset, split: dict[str, list[str]]) -> str:
    """README.md: which file is which part, and what the label values in the files mean."""
    # Files hold their own values; `Dataset.read` would have turned them to 1..K.
    if dataset.colours is not None:
        meanings = {str(colour): dataset.label_names[label] for colour, label in dataset.colours.items()}
    elif dataset.mask_values is not None:
        meanings = {str(value): dataset.label_names[label] for value, label in dataset.mask_values.items()}
    else:
        meanings = {str(value): name for value, name in dataset.label_names.items()}
    files = [{"split": part, "path": f"data/{part}-*.parquet"} for part, ids in split.items() if ids]
    metadata = {
        "pretty_name": dataset.name,
        "task_categories": ["image-segmentation"],
        "tags": ["medical"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    counts = ", ".join(f"{part} {len(ids)}" for part, ids in split.items())
    lines = [
        f"# {dataset.name}",
        "",
        f"- cases: {counts}, split by patient (`split.json`)",
        f"- modality: {dataset.modality or 'not said'}",
        f"- licence: {dataset.licence or 'not said; find out before sharing'}",
        *(f"- {note}" for note in dataset.notes),
        "",
        "Columns: `case_id`, `image`, `label`, `split`. Images and labels are the source files byte for byte, headers",
        "included: make sure that they name no patient before sharing.",
        "",
        "| value in the label files | meaning |",
        "|---|---|",
        "| 0 | background |",
        *(f"| {value} | {name} |" for value, name in meanings.items()),
        *(["| 1, 2, ... | the objects of one image |"] if dataset.instances else []),
        "",
        f"Made with `msa data prepare` of medsam-adapter from `{dataset.root.resolve().name}`.",
        "",
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(lines)
