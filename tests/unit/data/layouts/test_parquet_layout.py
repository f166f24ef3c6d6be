"""What `msa data prepare` writes reads back as the data set that it was made from, from a folder and from afar."""

from __future__ import annotations

import gzip
import json

import fsspec
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset, parquet
from medsam_adapter.data.layouts.base import Dataset
from medsam_adapter.data.parquet.cells import converted_cells
from medsam_adapter.data.parquet.tables import write_parquet
from medsam_adapter.data.sample import Case, Scan
from medsam_adapter.errors import CheckpointError, DataError
from medsam_adapter.hub import datasets as hub_datasets

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


def volume(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture
def brains(tmp_path) -> Dataset:
    """Four cases of two channels and two raters; the second rater leaves out the last case."""
    folder, rng, cases = tmp_path / "source", np.random.default_rng(0), []
    folder.mkdir()
    for number in range(4):
        files = [
            volume(folder / f"b{number}_{name}.nii.gz", rng.integers(0, 1000, (6, 5, 4), dtype=np.int16))
            for name in ("t1", "t2")
        ]
        marks = {
            name: volume(folder / f"b{number}_{name}.nii.gz", (rng.integers(0, 3, (6, 5, 4)) * 2).astype(np.uint8))
            for name in ("ann", "bob")[: 1 if number == 3 else 2]
        }
        cases.append(Case(f"b{number}", files[0], None, f"patient {number // 2}", tuple(files[1:]), marks))
    return Dataset(
        "brains", folder, cases, {1: "edema", 2: "core"}, {"whole": (1, 2), "core": (2,)}, modality="MRI",
        mask_values={2: 1, 4: 2}, licence="CC0", nested=True, intensity="percentile", orientation="LPS", layout="brats",
    )  # fmt: skip


@pytest.fixture
def prepared(brains, tmp_path):
    split = {"train": ["b0", "b1"], "test": ["b2", "b3"]}
    write_parquet(brains, brains.cases, split, tmp_path / "prepared", lambda done: None)
    return tmp_path / "prepared"


def same(one: Dataset, other: Dataset) -> None:
    for name in ("name", "label_names", "targets", "modality", "licence", "nested", "intensity", "layout"):
        assert getattr(one, name) == getattr(other, name), name
    assert sorted(c.case_id for c in one.cases) == sorted(c.case_id for c in other.cases)
    for case in one.cases:
        there = other.case(case.case_id)
        assert there.patient_id == case.patient_id and sorted(there.raters) == sorted(case.raters)
        mine, its = one.read(case), other.read(there)
        assert np.array_equal(mine.scan.array, its.scan.array) and mine.scan.array.dtype == its.scan.array.dtype
        assert np.array_equal(mine.labels, its.labels) and mine.scan.spacing_mm == its.scan.spacing_mm
        assert (mine.scan.affine is None) == (its.scan.affine is None)
        if mine.scan.affine is not None:
            np.testing.assert_allclose(mine.scan.affine, its.scan.affine, atol=1e-6)
        for rater in case.raters:
            assert np.array_equal(one.read_labels(case, mine.scan, rater), other.read_labels(there, its.scan, rater))


def test_channels_raters_regions_and_values_survive(brains, prepared):
    opened = open_dataset(prepared)
    same(brains, opened)
    assert opened.official_split == {"train": ["b0", "b1"], "test": ["b2", "b3"]}
    assert [f.problem for f in check_dataset(opened) if f.level == "error"] == []
    with pytest.raises(DataError, match="not marked by 'bob'"):
        opened.read_labels(opened.case("b3"), rater="bob")


def test_a_row_group_is_decoded_once_for_the_cases_in_it(prepared, monkeypatch):
    import pyarrow.parquet as pq

    dataset, decoded = open_dataset(prepared), []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *args: decoded.append(args[1]) or read(*args))
    in_file_order = sorted(dataset.cases, key=lambda case: dataset.places[case.case_id])
    for case in in_file_order:
        assert dataset.read(case).scan.path == case.image
    assert len(decoded) == len({place[:2] for place in dataset.places.values()}) < len(in_file_order)


def test_an_address_is_read_as_a_folder_is(brains, prepared, monkeypatch):
    memory = fsspec.filesystem("memory")
    for file in prepared.rglob("*"):
        if file.is_file():
            memory.pipe(f"/set/{file.relative_to(prepared)}", file.read_bytes())
    opened = parquet.load("memory://set")
    same(brains, opened)
    asked = []
    monkeypatch.setattr(parquet, "load", lambda address, **more: asked.append(address) or opened)
    assert open_dataset("hf:/datasets/o/n") is opened and asked == ["hf://datasets/o/n"]  # as a Path writes it


@pytest.mark.parametrize(
    ("name", "content"), [("msa_dataset.json", "{}"), ("msa_dataset.json", "[1]"), ("split.json", "{"), ("data", "")]
)
def test_a_broken_folder_is_refused(prepared, name, content):
    if name == "data":
        next((prepared / "data").iterdir()).write_bytes(b"PAR1 no table PAR1")
    else:
        (prepared / name).write_text(content)
    with pytest.raises(DataError, match="cannot be read as Parquet tables"):
        open_dataset(prepared, "parquet")


def pictures(root, mode="RGB"):
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 255, (8, 9, 3), dtype=np.uint8)
        mask = np.zeros((8, 9, 3), np.uint8)
        mask[2:5, 2:6] = (0, 255, 0) if number % 2 else (255, 0, 0)
        for folder, array in (("images", image), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"p{number}.png")
    (root / "labels.json").write_text(json.dumps({"0,255,0": "benign", "255,0,0": "malignant"}))
    return root


def test_pictures_with_coloured_masks_stay_as_they_are(tmp_path, capsys):
    source = pictures(tmp_path / "source")
    output = tmp_path / "out"
    assert run(["data", "prepare", str(source), "-o", str(output), "--val", "0", "--test", "0.25"]) == 0
    opened = open_dataset(output)
    same(open_dataset(source), opened)
    first = opened.cases[0]
    assert opened._cell(first, "image")["bytes"] == (source / "images" / first.image.name).read_bytes()
    assert f"--data.path {output}" in capsys.readouterr().out


# -- the Hub -----------------------------------------------------------------------------------------------------------


class Hub:
    """Stands in for the upload and remembers what it is asked."""

    def __init__(self):
        self.asked, self.error = [], None

    def __call__(self, folder, repo_id, **more):
        if self.error:
            raise CheckpointError("cannot be put on the Hub", found=self.error)
        self.asked.append((repo_id, more["repo_type"], more["private"], sorted(p.name for p in folder.iterdir())))
        return f"https://hub/{repo_id}"


@pytest.fixture
def hub(monkeypatch):
    stand_in = Hub()
    monkeypatch.setattr(hub_datasets, "commit_folder", stand_in)
    return stand_in


def test_push_is_private_and_wants_a_licence(tmp_path, hub, capsys):
    source, output = pictures(tmp_path / "source"), tmp_path / "out"
    command = ["data", "prepare", str(source), "-o", str(output), "--val", "0", "--push", "org/name"]
    assert run(command) == 2 and "--licence" in capsys.readouterr().err and not output.exists() and not hub.asked
    assert run([*command, "--licence", "CC BY 4.0"]) == 0
    assert hub.asked == [("org/name", "dataset", True, ["README.md", "data", "msa_dataset.json", "split.json"])]
    out = capsys.readouterr().out
    assert "pushed: https://hub/org/name" in out and "--data.path hf://datasets/org/name" in out
    assert "license_name: CC BY 4.0" in (output / "README.md").read_text()


def test_a_failed_push_leaves_the_prepared_folder_and_says_how_to_go_on(tmp_path, hub, capsys):
    hub.error = "no network"
    source, output = pictures(tmp_path / "source"), tmp_path / "out"
    assert (
        run(["data", "prepare", str(source), "-o", str(output), "--push", "o/n", "--licence", "CC0", "--public"]) != 0
    )
    err = capsys.readouterr().err
    assert "no network" in err and "hf upload o/n" in err
    assert open_dataset(output).cases


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"train": ["b0", "b1", "b2"], "test": ["b3"]}, "two sides(?s:.)*patient 1"),
        ({"train": ["b0"], "test": ["b0"]}, "more than once"),
        ({"train": ["b0"], "test": ["nobody"]}, "does not have"),
        (["b0", "b1"], "cannot be read"),
        ({"train": "b0"}, "cannot be read"),
    ],
)
def test_a_split_that_anybody_may_have_written_is_checked(prepared, split, problem):
    (prepared / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=problem):
        open_dataset(prepared)


def test_a_channel_was_chosen_when_the_tables_were_made(prepared):
    with pytest.raises(DataError, match="channel"):
        open_dataset(prepared, channel="t2")
    with pytest.raises(DataError, match="channel"):
        open_dataset("hf://datasets/somebody/brains", channel="t2")


def arrays(folder, array) -> Dataset:
    """A data set of three .npz files; the first value of each array is its number."""
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        label = np.zeros(array.shape, np.uint8)
        label[..., 1:3] = 1
        shifted = array.copy()
        shifted.flat[0] = number
        np.savez(folder / f"images/c{number}.npz", image=shifted, label=label, spacing=np.float64([3, 2, 1]))
    return open_dataset(folder)


def test_a_volume_that_does_not_say_how_it_lies_lies_as_before(tmp_path):
    raw = arrays(tmp_path / "raw", np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16))
    write_parquet(raw, raw.cases, {"train": ["c0", "c1", "c2"]}, tmp_path / "prepared", lambda done: None)
    opened = open_dataset(tmp_path / "prepared")
    same(raw, opened)
    for dataset in (raw, opened):
        scan = dataset.read_scan(dataset.case("c1"))
        assert scan.affine is None and scan.spacing_mm == (3, 2, 1)
    file = nib.Nifti1Image.from_bytes(gzip.decompress(opened._cell(opened.cases[0], "image")["bytes"]))
    assert nib.aff2axcodes(file.affine) == ("L", "P", "S")  # who else reads it turns nothing


RNG = np.random.default_rng(0)
KINDS = {
    "int64": RNG.integers(-500, 900, (6, 5, 4)),
    "uint64": RNG.integers(0, 60000, (6, 5, 4)).astype(np.uint64),
    "bool": RNG.random((6, 5, 4)) > 0.5,
    "float16": RNG.random((6, 5, 4)).astype(np.float16),
    "float64": RNG.random((6, 5, 4)),
    "wide": RNG.integers(0, 2**40, (6, 5, 4)),
    "picture of uint16": RNG.integers(0, 60000, (1, 8, 9)).astype(np.uint16),
    "picture of float16": RNG.random((1, 8, 9)).astype(np.float16),
    "picture of int64": RNG.integers(0, 2**20, (1, 8, 9)),
    "wide picture": RNG.integers(2**24, 2**30, (1, 8, 9)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_type_keep_their_values_or_are_refused(tmp_path, kind):
    raw, output = arrays(tmp_path / "raw", KINDS[kind]), tmp_path / "prepared"
    ids = {"train": ["c0", "c1", "c2"]}
    if "wide" in kind:
        with pytest.raises(DataError, match="cannot be kept in a table") as caught:
            write_parquet(raw, raw.cases, ids, output, lambda done: None)
        assert caught.value.file == raw.cases[0].image and "int64 from 0 to" in caught.value.found
        assert not output.exists()
        return
    write_parquet(raw, raw.cases, ids, output, lambda done: None)
    opened = open_dataset(output)
    for case in raw.cases:
        mine, its = raw.read(case), opened.read(opened.case(case.case_id))
        assert np.array_equal(mine.scan.array, its.scan.array) and np.array_equal(mine.labels, its.labels)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_colour_of_more_than_8_bits_is_refused(brains, tmp_path, dtype):
    scan = Scan(np.ones((1, 4, 5, 3), dtype), path=tmp_path / "a.npz")
    brains.read_scan = lambda case: scan
    with pytest.raises(DataError, match="cannot be kept in a table as a picture") as caught:
        converted_cells(brains, brains.cases[0], [])
    assert caught.value.file == scan.path and "1x4x5x3" in caught.value.found
