"""`msa data`: what it says of good and of broken folders, its exit codes, and that a conversion reads back."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.data.layouts import LAYOUTS, open_dataset
from medsam_adapter.data.parquet import tables as parquet
from medsam_adapter.data.splits import load_split, verify_split
from medsam_adapter.training import loop
from miniatures import amos22, lidc

SHAPE_XYZ = (9, 8, 5)
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])


def nifti(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 200, SHAPE_XYZ).astype(np.int16)


def labels() -> np.ndarray:
    result = np.zeros(SHAPE_XYZ, np.uint8)
    result[2:5, 2:5, 1:4], result[6:8, 6:8, 2] = 1, 2
    return result


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_index(root: Path, entries: list[dict]) -> None:
    content = {
        "name": "Abdomens",
        "modality": {"0": "CT"},
        "licence": "CC0",
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": entries,
    }
    (root / "dataset.json").write_text(json.dumps(content))


def entry(name: str, **more) -> dict:
    return {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz", **more}


@pytest.fixture
def volumes(tmp_path):
    """Ten volumes of five patients."""
    root = tmp_path / "volumes"
    for number in range(10):
        nifti(root / f"imagesTr/c{number}.nii.gz", scan(number))
        nifti(root / f"labelsTr/c{number}.nii.gz", labels())
    write_index(root, [entry(f"c{number}", patient=f"p{number // 2}") for number in range(10)])
    return root


@pytest.fixture
def pictures(tmp_path):
    """Five photographs whose masks hold 255 for the lesion."""
    root = tmp_path / "pictures"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(5):
        colours = np.random.default_rng(number).integers(0, 255, (12, 10, 3)).astype(np.uint8)
        mask = np.zeros((12, 10), np.uint8)
        mask[3:6, 3:6] = 255
        Image.fromarray(colours).save(root / f"images/d{number}.png")
        Image.fromarray(mask).save(root / f"masks/d{number}_mask.png")
    (root / "labels.json").write_text('{"255": "lesion"}')
    return root


@pytest.fixture
def broken(tmp_path):
    """One good case, and each fault in a case of its own."""
    root = tmp_path / "broken"
    names = ["good", "no_entry", "no_mask", "other_shape", "wrong_label", "four_axes", "empty", "nan", "cut_off"]
    for seed, name in enumerate(names):
        nifti(root / f"imagesTr/{name}.nii.gz", scan(seed))
        nifti(root / f"labelsTr/{name}.nii.gz", labels())
    (root / "labelsTr/no_mask.nii.gz").unlink()
    nifti(root / "labelsTr/other_shape.nii.gz", labels()[:-1])
    nifti(root / "labelsTr/wrong_label.nii.gz", labels() * 4)
    nifti(root / "imagesTr/four_axes.nii.gz", np.stack([scan(20), scan(21)], axis=-1))
    nifti(root / "labelsTr/empty.nii.gz", labels() * 0)
    not_numbers = scan(22).astype(np.float32)
    not_numbers[1, 1, 1] = np.nan
    nifti(root / "imagesTr/nan.nii.gz", not_numbers)
    cut(root / "imagesTr/cut_off.nii.gz")
    write_index(root, [{"image": e["image"]} if "no_entry" in e["image"] else e for e in map(entry, names)])
    return root


@pytest.fixture
def msa(capsys):
    """Runs a command; gives exit code, standard output and standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


# -- list and info -----------------------------------------------------------------------------------------------------


def test_every_layout_is_listed_with_an_example(msa):
    code, out, _ = msa("data", "list")
    assert code == 0 and all(name in out for name in LAYOUTS)
    code, out, _ = msa("data", "list", "--json")
    assert [row["layout"] for row in json.loads(out)] == list(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_info_of_a_layout_is_its_docstring_and_a_tree(msa, name):
    code, out, _ = msa("data", "info", name)
    assert code == 0 and LAYOUTS[name].__doc__.strip() in out and "SET/" in out
    _, out, _ = msa("data", "info", name, "--json")
    assert json.loads(out)["layout"] == name


def test_info_of_a_folder(msa, volumes, pictures):
    code, out, err = msa("data", "info", volumes, "--json")
    facts = json.loads(out)
    assert code == 0 and err == ""
    assert (facts["layout"], facts["num_cases"], facts["num_labelled"], facts["num_patients"]) == ("msd", 10, 10, 5)
    assert facts["labels"] == {"1": "liver", "2": "spleen"}
    assert (facts["modality"], facts["licence"], facts["first_ids"][0]) == ("CT", "CC0", "c0")
    code, out, _ = msa("data", "info", pictures)
    assert code == 0 and "1 lesion" in out and "not said" in out and f"msa data check {pictures}" in out


def test_info_of_nothing(msa):
    code, out, err = msa("data", "info", "no/such/place")
    assert code == 2 and out == "" and "no/such/place" in err and "msd, folder" in err


# -- check -------------------------------------------------------------------------------------------------------------


def test_a_good_folder(msa, volumes):
    code, out, err = msa("data", "check", volumes)
    assert code == 0 and "error:" not in err
    assert "No findings" in out and "10, 10 with a label map, 5 patients" in out
    assert "5 x 8 x 9" in out and "3 x 1.5 x 1.5 mm" in out
    assert "27 / 27 / 27" in out and "0.182 / 0.182 / 0.182" in out  # voxels, and ml: 27 * 6.75 mm3
    assert (
        f"msa train hub_configs/msa-hippocampus/recipe.yaml --data.path {volumes} --data.intensity ct:soft-tissue"
        in out
    )


def test_check_as_json(msa, volumes):
    code, out, err = msa("data", "check", volumes, "--json")
    report = json.loads(out)
    assert code == 0 and err == ""
    assert report["ok"] is True and report["findings"] == []
    assert report["summary"]["labels"]["1"]["voxels"] == {"min": 27, "median": 27.0, "max": 27}


@pytest.mark.parametrize(
    ("miniature", "options", "wanted"),
    [
        (lidc, [], ["--data.intensity ct:lung", "--data.orientation LPS"]),
        (
            amos22,
            ["--channel", "both"],
            ["--data.intensity percentile", "--data.orientation LPS", "--data.channel both"],
        ),
        (amos22, [], ["--data.intensity ct:soft-tissue", "--data.orientation LPS"]),
    ],
)
def test_the_printed_command_says_what_the_layout_advises(msa, tmp_path, miniature, options, wanted):
    miniature.write(tmp_path)
    command = msa("data", "check", tmp_path, *options)[1].partition("next: ")[2]
    assert all(words in command for words in wanted) and command.count("--data.") == 1 + len(wanted)


def test_the_command_that_is_printed_for_errors_checks_the_same_again(msa, tmp_path):
    amos22.write(tmp_path)
    (tmp_path / "amos22/labelsTr/amos_0507.nii.gz").write_bytes(b"nothing")
    out = msa("data", "check", tmp_path, "--layout", "amos22", "--channel", "mr")[1]
    assert out.endswith(f"msa data check {tmp_path} --layout amos22 --channel mr\n")


def test_pictures_need_no_intensity_mode(msa, pictures):
    code, out, _ = msa("data", "check", pictures, "--layout", "folder")
    assert code == 0 and "12 x 10" in out and "pictures have none" in out
    assert f"msa train hub_configs/msa-pictures/recipe.yaml --data.path {pictures} --data.layout folder\n" in out


def test_where_there_are_no_recipes_it_is_said_where_they_are(msa, volumes, tmp_path, monkeypatch):
    """An installed package has none."""
    monkeypatch.chdir(tmp_path)
    out = msa("data", "check", volumes)[1]
    assert f"next: msa train RECIPE --data.path {volumes} --data.intensity ct:soft-tissue\n" in out
    assert out.endswith("RECIPE is hub_configs/msa-hippocampus/recipe.yaml of the project's repository\n")


FAULTS = {
    "no_entry": ("warning", "has no label map"),
    "no_mask": ("error", "does not exist"),
    "other_shape": ("error", "the label map is not on the grid of its scan"),
    "wrong_label": ("error", "holds label values that have no name"),
    "four_axes": ("error", "has more than three axes"),
    "empty": ("warning", "the mask is empty"),
    "nan": ("error", "holds values that are not numbers"),
    "cut_off": ("error", "cannot be read as NIfTI"),
}


def test_every_fault_is_found_in_its_case(msa, broken):
    code, out, err = msa("data", "check", broken, "--json")
    report = json.loads(out)
    found = {row["case"]: (row["level"], row["problem"]) for row in report["findings"] if row["case"]}
    assert code == 2 and err == "" and report["ok"] is False
    assert found == FAULTS
    assert set(report["summary"]["cases_with_errors"]) == {c for c, (level, _) in FAULTS.items() if level == "error"}
    shape = next(row for row in report["findings"] if row["case"] == "other_shape")
    assert shape["file"] == str(broken / "labelsTr/other_shape.nii.gz")
    assert "(5, 8, 9)" in shape["expected"] and "(5, 8, 8)" in shape["found"] and shape["next"]


def test_the_table_has_errors_first_and_fits_80_columns(msa, broken, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = msa("data", "check", broken)
    assert code == 2
    places = [out.index(f"{level}: {problem}") for level, problem in FAULTS.values()]
    errors = [place for place, (level, _) in zip(places, FAULTS.values(), strict=True) if level == "error"]
    warnings = [place for place, (level, _) in zip(places, FAULTS.values(), strict=True) if level == "warning"]
    assert max(errors) < min(warnings)
    assert "file: labelsTr/other_shape.nii.gz" in out  # from the data set's folder on
    table, _, after = out.partition("\nnext: ")
    assert max(map(len, table.splitlines())) <= 80
    assert after.startswith("mend the errors above")


def test_limit_shows_so_many_and_says_how_many_more(msa, broken):
    code, out, _ = msa("data", "check", broken, "--limit", "2")
    assert code == 2 and out.count("error: ") == 2 and "more findings; --limit 0 shows all" in out
    _, everything, _ = msa("data", "check", broken, "--limit", "0")
    assert "more findings" not in everything


def test_one_fault_of_many_cases_takes_one_row(msa, volumes):
    write_index(volumes, [entry("c0"), *({"image": f"imagesTr/c{n}.nii.gz"} for n in range(1, 10))])
    code, out, _ = msa("data", "check", volumes)
    assert code == 0 and out.count("has no label map") == 1 and "and 6 more" in out and "and 8 more" in out


def test_markup_in_names_is_text(msa, pictures):
    (pictures / "labels.json").write_text('{"255": "[bold]lesion[/nope] :smile:"}')
    code, out, _ = msa("data", "check", pictures)
    assert code == 0 and "[bold]lesion[/nope] :smile:" in out


@pytest.mark.parametrize("command", [("check",), ("prepare", "-o", "OUT")])
def test_no_data_set_there(msa, tmp_path, command):
    for path, what in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "in no known layout")):
        options = [str(tmp_path / "out") if word == "OUT" else word for word in command[1:]]
        code, out, err = msa("data", command[0], path, *options)
        assert code == 2 and out == "" and str(path) in err and what in err
    assert not (tmp_path / "out").exists()


# -- prepare -----------------------------------------------------------------------------------------------------------


def read_back(folder: Path, part: str, tmp_path: Path, streaming: bool) -> list[dict]:
    from datasets import load_dataset

    cache = None if streaming else str(tmp_path / "cache")
    return list(load_dataset(str(folder), split=part, streaming=streaming, cache_dir=cache))


@pytest.mark.parametrize("streaming", [False, True])
def test_converted_volumes_read_back(msa, volumes, tmp_path, streaming, monkeypatch):
    output = tmp_path / "converted"
    code, out, _ = msa("data", "prepare", volumes, "-o", output, "--test", "0.4", "--val", "0.2")
    assert code == 0 and "10 cases of 5 patients" in out and f"--data.path {output}" in out
    dataset = open_dataset(volumes)
    split = load_split(output / "split.json", dataset.cases)
    verify_split(split, dataset.cases)
    assert {part: len(ids) for part, ids in split.items()} == {"train": 4, "val": 2, "test": 4}
    (volumes / "imagesTr").rename(volumes / "gone")  # the bytes are in the tables, not the paths
    monkeypatch.chdir(volumes / "gone")  # a file of the stored name must not be taken instead
    for part, ids in split.items():
        rows = read_back(output, part, tmp_path, streaming)
        assert [row["case_id"] for row in rows] == ids and {row["split"] for row in rows} == {part}
        for row in rows:
            case = dataset.case(row["case_id"])
            source = nib.load(volumes / "gone" / case.image.name)
            assert np.array_equal(np.asanyarray(row["image"].dataobj), np.asanyarray(source.dataobj))
            assert np.array_equal(row["image"].affine, source.affine)
            assert row["image"].get_data_dtype() == np.int16
            assert np.array_equal(np.asanyarray(row["label"].dataobj), labels())


@pytest.mark.parametrize("streaming", [False, True])
def test_converted_pictures_read_back(msa, pictures, tmp_path, streaming):
    output = tmp_path / "converted"
    code, out, _ = msa("data", "prepare", pictures, "-o", output, "--val", "0")
    assert code == 0 and "a patient of its own" in out and '"patients" in labels.json' in out
    split = load_split(output / "split.json")
    assert split["val"] == [] and not list((output / "data").glob("val*"))
    rows = read_back(output, "train", tmp_path, streaming)
    assert [row["case_id"] for row in rows] == split["train"]
    for row in rows:
        with Image.open(pictures / f"images/{row['case_id']}.png") as source:
            assert np.array_equal(np.asarray(row["image"]), np.asarray(source))
        assert set(np.unique(np.asarray(row["label"]))) == {0, 255}
    assert "| 255 | lesion |" in (output / "README.md").read_text()


def test_many_files_become_several_shards(msa, volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_SHARD_BYTES", 2500)
    code, _, _ = msa("data", "prepare", volumes, "-o", tmp_path / "converted")
    names = sorted(path.name for path in (tmp_path / "converted/data").glob("train-*"))
    assert code == 0 and len(names) > 1 and names[0] == f"train-00000-of-{len(names):05d}.parquet"
    rows = read_back(tmp_path / "converted", "train", tmp_path, streaming=True)
    assert [row["case_id"] for row in rows] == load_split(tmp_path / "converted/split.json")["train"]


def test_the_split_is_that_of_training(msa, volumes, tmp_path):
    from medsam_adapter.training.recipe import DataSection
    from medsam_adapter.training.setup import open_data

    write_index(volumes, [{"image": "imagesTr/c0.nii.gz"}, *(entry(f"c{n}") for n in range(1, 10))])
    code, out, _ = msa("data", "prepare", volumes, "-o", tmp_path / "out", "--split-seed", "3")
    assert code == 0 and "left out: 1 cases without a label map" in out
    section = DataSection(path=str(volumes), val_fraction=0.1, test_fraction=0.2, split_seed=3)
    assert load_split(tmp_path / "out/split.json") == open_data(section).split


@pytest.mark.parametrize("what", ["folder with a file", "file"])
def test_a_used_place_is_refused(msa, volumes, tmp_path, what):
    output = tmp_path / "out"
    if what == "file":
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    code, out, err = msa("data", "prepare", volumes, "-o", output)
    assert code == 2 and out == "" and str(output) in err and "a new or an empty folder" in err
    assert (output if what == "file" else output / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(msa, pictures, tmp_path):
    (tmp_path / "out").mkdir()
    assert msa("data", "prepare", pictures, "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/split.json").is_file()


def test_errors_stop_a_conversion(msa, broken, tmp_path):
    code, out, err = msa("data", "prepare", broken, "-o", tmp_path / "out")
    assert code == 2 and out == "" and f"msa data check {broken}" in err and "no_mask.nii.gz" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--val", "0.5", "--test", "0.5"], "nothing is left to train on"),
        (["--val", "-1"], "--val"),
        (["--test", "much"], "--test"),
        (["--layout", "mds"], "did you mean 'msd'?"),
    ],
)
def test_impossible_options(msa, volumes, tmp_path, options, said):
    code, out, err = msa("data", "prepare", volumes, "-o", tmp_path / "out", *options)
    assert code == 2 and out == "" and said in err and not (tmp_path / "out").exists()


def test_fewer_patients_than_parts(msa, volumes, tmp_path):
    write_index(volumes, [entry("c0"), entry("c1")])
    code, _, err = msa("data", "prepare", volumes, "-o", tmp_path / "out")
    assert code == 2 and "at least 3 patients" in err


def test_two_kinds_of_files_do_not_share_a_column(msa, pictures, tmp_path):
    nifti(pictures / "images/v.nii.gz", scan(0))
    nifti(pictures / "masks/v_mask.nii.gz", (labels() > 0).astype(np.uint8) * 255)
    code, _, err = msa("data", "prepare", pictures, "-o", tmp_path / "out")
    assert (
        code == 2
        and "of two kinds" in err
        and "v.nii.gz beside files of the other kind" in err
        and not (tmp_path / "out").exists()
    )


def test_a_conversion_that_fails_leaves_nothing(msa, pictures, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = set(tmp_path.iterdir())
    monkeypatch.setattr(parquet, "card", full)
    code, _, err = msa("data", "prepare", pictures, "-o", tmp_path / "out")
    assert code == 2 and "No space left on device" in err
    assert set(tmp_path.iterdir()) == before
    code, _, err = msa("data", "prepare", pictures, "-o", pictures / "labels.json/out")
    assert code == 2 and str(pictures / "labels.json/out") in err


def test_help_imports_nothing_heavy():
    heavy = ("torch", "numpy", "nibabel", "transformers", "datasets", "pyarrow", "yaml")
    code = (
        "import sys; from medsam_adapter.cli.main import run; run(['data', '--help']); "
        f"sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("list", "info", "check", "prepare"))


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["data", "phantom", "fold #2", "--cases", "1"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert shlex.split(line.removeprefix("next: ")) == ["msa", "data", "check", "fold #2"]
    done = loop.TrainingResult(Path("fold #2"), float("nan"), 0, 1.0)
    monkeypatch.setattr(loop, "train", lambda *args, **kwargs: done)
    (tmp_path / "r.yaml").write_text("name: a\n")
    assert run(["train", "r.yaml"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert shlex.split(line.removeprefix("next: ")) == ["msa", "evaluate", "fold #2"]
