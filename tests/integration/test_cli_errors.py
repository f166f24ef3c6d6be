"""Bad input to `msa predict`, `train`, `evaluate`: exit code 2, one error that says what and where, nothing written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.errors import MSAError

SHAPE_XYZ = (20, 18, 4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """One folder with everything the commands are given; no test may change it."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, SHAPE_XYZ)
    lps, ras = np.diag([-1.5, -1.5, 3, 1]), np.diag([1.5, 1.5, 3, 1])

    def nifti(name: str, data: np.ndarray, affine=lps) -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), root / name)
        return root / name

    nifti("v8.nii.gz", grey.astype(np.uint8))
    nifti("ras.nii.gz", grey.astype(np.uint8), ras)
    nifti("four_axes.nii.gz", np.stack([grey, grey], -1).astype(np.uint8))
    not_numbers = grey.astype(np.float32)
    not_numbers[1, 1, 1] = np.nan
    nifti("nan.nii.gz", not_numbers)
    content = nifti("int16.nii.gz", grey.astype(np.int16)).read_bytes()
    (root / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    Image.fromarray(grey[:, :, 0].astype(np.uint8)).save(root / "picture.png")
    (root / "file").write_text("not a folder")
    for name, files in {
        "no_model": {},
        "network": {"network.json": "{}"},
        "trained": {"split.json": "{}", "recipe.yaml": "data: {path: somewhere, layout: folder}"},
    }.items():
        (root / name).mkdir()
        for file, text in files.items():
            (root / name / file).write_text(text)
    (root / "p.csv").write_text("case,x,y,z\nc0,1,1,1\n")
    for number in range(3):
        nifti(f"set/imagesTr/c{number}.nii.gz", rng.integers(-100, 200, SHAPE_XYZ).astype(np.int16))
        label = np.zeros(SHAPE_XYZ, np.uint8)
        label[5:12, 5:12, 1:3] = 1
        nifti(f"set/labelsTr/c{number}.nii.gz", label)
    entries = [{"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in range(3)]
    labels = {"0": "background", "1": "liver"}
    (root / "set/dataset.json").write_text(json.dumps({"labels": labels, "training": entries}))
    recipe = "data: {path: %s, intensity: percentile, val_fraction: 0}\noptim: {epochs: 1}\nrun: {output: OUT}\n"
    (root / "recipe.yaml").write_text(recipe % (root / "set"))
    (root / "misspelt.yaml").write_text("optim:\n  learning_rat: 0.1\n")
    (root / "broken.yaml").write_text("optim: [\n")
    return root


def everything(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.fixture
def refused(inputs, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, IN/ standing for the inputs; checks what is true of every refusal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSA_DEBUG", raising=False)

    def call(command: str, *said: str) -> str:
        before = everything(inputs)
        code = run([word.replace("IN/", f"{inputs}/") for word in command.split()])
        captured = capsys.readouterr()
        error = captured.err
        assert code == 2, error
        assert "Traceback" not in captured.out + error and "unexpected" not in error
        assert error.count("error: ") == 1 and captured.out == ""
        for text in said:
            assert text.replace("IN/", f"{inputs}/") in error
        assert everything(tmp_path) == {} and everything(inputs) == before
        return error

    return call


# -- predict -----------------------------------------------------------------------------------------------------------

PREDICT = {
    "missing file": ("sam-tiny IN/nowhere.nii.gz --point 1,1,1 -o o.nii.gz", "IN/nowhere.nii.gz: does not exist"),
    "not an image": ("sam-tiny IN/recipe.yaml --point 1,1 -o o.png", "IN/recipe.yaml", "'.yaml'", ".nii.gz"),
    "point outside": ("sam-tiny IN/v8.nii.gz --point 5,5,4 -o o.nii.gz", "0 <= z <= 3", "found: 5, 5, 4"),
    "point not a number": ("sam-tiny IN/v8.nii.gz --point nan,1,1 -o o.nii.gz", "outside the image", "found: nan"),
    "point is words": ("sam-tiny IN/v8.nii.gz --point here -o o.nii.gz", "--point", "x,y,z", "found: here"),
    "two numbers for a volume": ("sam-tiny IN/v8.nii.gz --point 1,1 -o o.nii.gz", "--point", "x,y,z", "found: 1,1"),
    "three numbers for a picture": ("sam-tiny IN/picture.png --point 1,1,1 -o o.png", "--point", "x,y for a picture"),
    "no prompt": ("sam-tiny IN/v8.nii.gz -o o.nii.gz", "there is no prompt", "--point, --box or --text"),
    "background only": ("sam-tiny IN/v8.nii.gz --negative-point 1,1,1 -o o.nii.gz", "only background clicks"),
    "box without slice": ("sam-tiny IN/v8.nii.gz --box 1,1,5,5 -o o.nii.gz", "--box", "x0,y0,x1,y1,z"),
    "box outside": ("sam-tiny IN/v8.nii.gz --box 1,1,50,5,2 -o o.nii.gz", "0 <= x <= 19", "found: 50, 5, 2"),
    "unknown model": ("sam-tinny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz", "sam-tinny", "no such model"),
    "folder without model": ("IN/no_model IN/v8.nii.gz --point 1,1,1 -o o.nii.gz", "IN/no_model", "without a model"),
    "4-D NIfTI": ("sam-tiny IN/four_axes.nii.gz --point 1,1,1 -o o.nii.gz", "IN/four_axes.nii.gz", "2 volumes in one"),
    "truncated gzip": ("sam-tiny IN/cut.nii.gz --point 1,1,1 -o o.nii.gz", "IN/cut.nii.gz", "copy it again"),
    "NaN": ("sam-tiny IN/nan.nii.gz --point 1,1,1 -o o.nii.gz", "IN/nan.nii.gz", "1 of 1440 values"),
    "unknown scale": ("sam-tiny IN/int16.nii.gz --point 1,1,1 -o o.nii.gz", "IN/int16.nii.gz", "int16", "percentile"),
    "unknown intensity": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz --intensity mr", "'mr'", "percentile"),
    "window of one number": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz --window 5", "--window", "LOW,HIGH"),
    "unknown orientation": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz --orientation UP", "'UP'", "LPS"),
    "volume to picture": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.png", "o.png", "expected: .nii.gz"),
    "picture to JPEG": ("sam-tiny IN/picture.png --point 1,1 -o o.jpg", "o.jpg", ".png"),
    "two scales": (
        "sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz --intensity percentile --window 0,80",
        "--window and --intensity percentile say two things",
        "leave one out",
    ),
    "a text on one slice": (
        "sam-tiny IN/v8.nii.gz --text liver -o o.nii.gz --one-slice",
        "--one-slice",
        "leave it out",
    ),
    "a score of clicks": (
        "sam-tiny IN/v8.nii.gz --point 1,1,1 --text liver -o o.nii.gz --min-score 0",
        "--min-score",
        "leave it out",
    ),
    "one case again": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o o.nii.gz --retry-failed", "many cases", "leave it out"),
    "a click for a network": ("IN/network IN/v8.nii.gz -o o.nii.gz --point 1,1,1", "no --point", "leave it out"),
    "a scale for a network": (
        "IN/network IN/v8.nii.gz -o o.nii.gz --window 0,80 --intensity window --orientation LPS --min-score 0",
        "--min-score, --window, --intensity, --orientation",
        "leave it out",
    ),
    "one slice of many": ("sam-tiny IN/set/imagesTr -o o --text liver --one-slice", "--one-slice", "leave it out"),
    "a score of many": (
        "sam-tiny IN/set/imagesTr -o o --prompts IN/p.csv --min-score 0.1",
        "--min-score",
        "leave it out",
    ),
    "a click of many": ("sam-tiny IN/set/imagesTr -o o --prompts IN/p.csv --key a", "--key belongs to one scan"),
    "unwritable output": ("sam-tiny IN/v8.nii.gz --point 1,1,1 -o IN/file/o.nii.gz", "IN/file: cannot be"),
}


@pytest.mark.parametrize("name", PREDICT)
def test_predict_refuses(refused, name):
    command, *said = PREDICT[name]
    refused(f"predict {command}", *said)


def test_a_point_is_refused_in_the_numbers_that_were_given(refused):
    # The file is RAS and the slices LPS: turned, the point would read as (-10, 16, 1).
    refused("predict sam-tiny IN/ras.nii.gz --point 29,1,1 -o o.nii.gz", "found: 29, 1, 1", "0 <= x <= 19")


def test_the_predictor_too_speaks_of_the_numbers_that_were_given(inputs):
    from medsam_adapter import MSAPredictor

    predictor = MSAPredictor.from_pretrained("sam-tiny")
    predictor.set_volume(nib.load(inputs / "ras.nii.gz"))
    for prompts in ({"points": [(29, 1, 1)]}, {"boxes": [(2, 2, 1, 29, 9, 1)]}):
        with pytest.raises(MSAError, match=r"0 <= x <= 19[\s\S]*found: .*\b29, "):
            predictor.predict(**prompts)


@pytest.mark.parametrize("point", ["99,1,1", None])
def test_prompts_are_refused_before_the_model_is_opened(refused, monkeypatch, point):
    def opened(*_, **__):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("medsam_adapter.inference.predictor.MSAPredictor.from_pretrained", opened)
    refused("predict sam-tiny IN/v8.nii.gz -o o.nii.gz" + (f" --point {point}" if point else ""))


# -- train -------------------------------------------------------------------------------------------------------------

TRAIN = {
    "missing recipe": ("IN/nowhere.yaml", "IN/nowhere.yaml", "there is no such recipe"),
    "broken recipe": ("IN/broken.yaml", "IN/broken.yaml", "not YAML"),
    "unknown key in the file": ("IN/misspelt.yaml", "IN/misspelt.yaml", "did you mean optim.learning_rate?"),
    "unknown key on the line": ("IN/recipe.yaml --optim.epoch 3", "did you mean optim.epochs?"),
    "unknown section": ("IN/recipe.yaml --optm.epochs 3", "unknown key optm", "did you mean optim?"),
    "wrong type": ("IN/recipe.yaml --optim.epochs three", "optim.epochs", "expected: int", "'three'"),
    "out of range": ("IN/recipe.yaml --optim.epochs 0", "optim.epochs is out of range", "1 to"),
    "no value": ("IN/recipe.yaml --optim.epochs", "--optim.epochs VALUE"),
    "value that is not YAML": ("IN/recipe.yaml --data.targets [liver", "--data.targets", "found: [liver"),
    "no data path": ("IN/recipe.yaml --data.path=", "data.path"),
    "missing data": ("IN/recipe.yaml --data.path IN/nowhere", "IN/nowhere", "no such folder"),
    "unknown layout": ("IN/recipe.yaml --data.layout mds", "did you mean 'msd'?"),
    "unknown target": ("IN/recipe.yaml --data.targets [river]", "no target 'river'", "expected: liver", "IN/set"),
    "missing split": ("IN/recipe.yaml --data.split IN/nowhere.json", "IN/nowhere.json"),
    "unknown scale": ("IN/recipe.yaml --data.intensity=", "IN/set/imagesTr", "int16", "percentile"),
    "unknown base": ("IN/recipe.yaml --model.base sam-tinny", "sam-tinny", "model.base"),
    "base without model": ("IN/recipe.yaml --model.base IN/no_model", "IN/no_model", "model.base"),
    "unknown adapter field": (
        "IN/recipe.yaml --model.adapter.bottleneck 3",
        "did you mean model.adapter.bottleneck_ratio",
    ),
    "bad adapter value": (
        "IN/recipe.yaml --model.adapter.num_slices 0",
        "model.adapter",
        "num_slices must be at least 1",
    ),
    "nothing to resume": ("IN/recipe.yaml --resume", "there is nothing to resume", "checkpoints/step-"),
    "unwritable output": ("IN/recipe.yaml --run.output IN/file", "IN/file: cannot be"),
}


@pytest.mark.parametrize("name", TRAIN)
def test_train_refuses(refused, name):
    command, *said = TRAIN[name]
    refused(f"train {command}", *said)


# -- evaluate ----------------------------------------------------------------------------------------------------------

EVALUATE = {
    "unknown protocol": ("sam-tiny --data IN/set --prompts 5-boxes", "found: 5-boxes", "1-point"),
    "neither slice nor volume": ("sam-tiny --data IN/set --per case", "slice or volume", "found: case"),
    "missing data": ("sam-tiny --data IN/nowhere", "IN/nowhere", "no such folder"),
    "no data": ("sam-tiny", "--data PATH"),
    "layout of no data": ("IN/trained --layout msd", "--layout belongs to --data", "leave it out"),
    "comparison of nothing": (
        "--compare IN/set IN/set --raters --intensity percentile --window 0,80 --orientation LPS --bank b --layout msd "
        "--channel 0",
        "--layout, --channel, --bank, --raters, --intensity, --window, --orientation",
        "leave them out",
    ),
    "bank of a replay": ("sam-tiny --replay p.json --bank b.yaml", "--bank", "leave them out"),
    "two scales": (
        "sam-tiny --data IN/set --intensity ct:liver --window 0,80",
        "--window and --intensity ct:liver say two things",
    ),
    "unknown model": ("sam-tinny --data IN/set", "sam-tinny", "no such model"),
    "unknown target": ("sam-tiny --data IN/set --target river --intensity percentile", "no target 'river'", "liver"),
    "missing split": ("sam-tiny --data IN/set --split IN/nowhere.json", "IN/nowhere.json"),
    "no such part": ("sam-tiny --data IN/set --part dev", "'dev'", "--split"),
    "unknown scale": ("sam-tiny --data IN/set", "IN/set/imagesTr", "int16", "percentile"),
    "unwritable output": ("sam-tiny --data IN/set --intensity percentile --max-cases 1 -o IN/file", "IN/file: cannot"),
}


@pytest.mark.parametrize("name", EVALUATE)
def test_evaluate_refuses(refused, name):
    command, *said = EVALUATE[name]
    refused(f"evaluate {command}", *said)


@pytest.mark.parametrize("place", ["IN/file", "IN/file/deep/er", "IN/set"])
def test_evaluate_refuses_a_place_before_it_scores(refused, inputs, monkeypatch, place):
    def never(*_, **__):
        raise AssertionError("scored before")

    monkeypatch.setattr("medsam_adapter.cli.evaluate_run.evaluate_models", never)

    def read_only(dir):  # tests may run as root, who may write anywhere
        assert dir == inputs / "set"
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    refused(f"evaluate sam-tiny --data IN/set --intensity percentile -o {place}", "cannot be written", "another folder")


# -- the command line itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evalute"], "No such command 'evalute'"),
        (["predict", "sam-tiny"], "Missing option '--output'"),
        (["predict", "sam-tiny", "-o", "mask.png"], "MODEL and INPUT are needed"),
        (["predict", "a", "b", "-o", "c", "--points", "1,1"], "No such option: --points"),
        (["data", "check"], "Missing argument"),
        (["evaluate", "sam-tiny", "--seed", "one"], "--seed"),
        (["evaluate", "sam-tiny", "--data", "nowhere", "--seed", "-1"], "Invalid value for '--seed'"),
        (["compare", "nowhere.yaml", "--seed", "-1"], "Invalid value for '--seed'"),
        (["data", "phantom", "nowhere", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_use_of_the_command_line(capsys, command, said):
    assert run(command) == 2
    error = capsys.readouterr().err
    assert said in error and "unexpected" not in error and "Traceback" not in error


def test_ctrl_c_leaves_with_130(capsys, monkeypatch, inputs):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("medsam_adapter.data.check.check_dataset", interrupted)
    assert run(["data", "check", str(inputs / "set")]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_bug_wherever_it_was_met(capsys, monkeypatch, inputs, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("medsam_adapter.data.check.check_dataset", full)
    assert run(["data", "check", str(inputs / "set")]) == 2
    error = capsys.readouterr().err
    assert os.strerror(number) in error and "make room" in error and "unexpected" not in error


def test_a_bug_is_named_as_one(capsys, monkeypatch, inputs):
    def bug(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.delenv("MSA_DEBUG", raising=False)
    monkeypatch.setattr("medsam_adapter.data.check.check_dataset", bug)
    assert run(["data", "check", str(inputs / "set")]) == 1
    error = capsys.readouterr().err
    assert "unexpected RuntimeError: first line" in error and "MSA_DEBUG=1" in error and "Traceback" not in error
    monkeypatch.setenv("MSA_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(["data", "check", str(inputs / "set")])
