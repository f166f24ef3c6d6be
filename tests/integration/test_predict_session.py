"""`msa predict --session`: the masks of a session again, and what does not fit told."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from blobs import RAS
from demo_setup import SHAPE_ZYX, adapted, centre_of, write_organ, write_run
from medsam_adapter.cli.main import run
from medsam_adapter.demo.models import PLAIN, Models
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.session import Session, SessionObject

pytestmark = pytest.mark.slow
X, Y, Z = centre_of()


def segmented(models: Models, scan: Path, choice: str) -> Workspace:
    space = Workspace(models)
    space.open([scan])
    space.use_model(choice)
    space.click_voxel((X, Y, Z))
    space.carry_on()
    space.click_voxel((X + 4, Y - 4, Z), 0)
    space.add_object()
    space.box_voxels((2, 2, Z, 9, 9, Z))
    space.objects[0].thing.name, space.objects[1].thing.name = "liver", "spleen"
    return space


@pytest.fixture(scope="module")
def made(randomise, quiet, tmp_path_factory) -> dict:
    """A scan, two runs, and for each model of the menu a session and the label map that it stands for."""
    root = tmp_path_factory.mktemp("made")
    runs = {name: write_run(root / name, adapted(randomise, seed)) for name, seed in (("first", 1), ("second", 2))}
    scan = write_organ(root / "organ.nii.gz")
    models = Models(
        MSAPredictor.from_pretrained(runs["first"], device="cpu"), str(runs["first"]), [str(runs["second"])]
    )
    out = {"root": root, "scan": scan, "runs": runs, "sessions": {}, "labels": {}}
    for choice in ("first", "second", PLAIN):
        space = segmented(models, scan, choice)
        out["sessions"][choice] = space.session().save(root / f"session_{choice.split()[0]}.json")
        out["labels"][choice] = space.labels()
        space.close()
    return out


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """predict(*words): (exit code, what was said, the file that it wrote or was to write)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSA_DEBUG", raising=False)

    def call(*words, out: str = "mask.nii.gz"):
        capsys.readouterr()
        code = run(["predict", *map(str, words), "-o", out])
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return code, said, tmp_path / out

    return call


def test_the_three_differ(made):
    assert len({labels.tobytes() for labels in made["labels"].values()}) == 3


@pytest.mark.parametrize("choice", ["first", "second", PLAIN])
def test_the_session_names_the_model(made, predict, choice):
    code, said, out = predict("--session", made["sessions"][choice], made["scan"])
    assert code == 0, said.err
    np.testing.assert_array_equal(labels_of(out), made["labels"][choice])
    np.testing.assert_array_equal(nib.load(out).affine, nib.load(made["scan"]).affine)
    assert "note:" not in said.err and "liver" in said.out and "spleen" in said.out


def test_the_scan_of_a_session_is_not_written_over(made, predict):
    before = made["scan"].read_bytes()
    code, said, _ = predict("--session", made["sessions"]["first"], made["scan"], out=str(made["scan"]))
    assert code == 2 and "would take the place of the scan" in said.err and made["scan"].read_bytes() == before


def test_the_scan_beside_the_session(made, predict):
    code, _, out = predict("--session", made["sessions"]["first"])
    assert code == 0
    np.testing.assert_array_equal(labels_of(out), made["labels"]["first"])


@pytest.mark.parametrize("choice", ["first", "second", PLAIN])
def test_a_model_that_is_given_takes_the_place(made, predict, choice):
    """Whatever adapter the session had: the one that is named answers."""
    code, said, out = predict("--session", made["sessions"][choice], made["runs"]["first"], made["scan"])
    assert code == 0, said.err
    np.testing.assert_array_equal(labels_of(out), made["labels"]["first"])
    code, said, out = predict("--session", made["sessions"][choice], "sam-tiny", made["scan"])
    assert code == 0, said.err
    np.testing.assert_array_equal(labels_of(out), made["labels"][PLAIN])


def test_json(made, predict):
    code, said, out = predict("--session", made["sessions"]["first"], made["scan"], "--json")
    told = json.loads(said.out)
    want = made["labels"]["first"]
    assert code == 0 and told["output"] == out.name
    assert told["objects"] == [
        {"label": 1, "name": "liver", "voxels": int((want == 1).sum())},
        {"label": 2, "name": "spleen", "voxels": int((want == 2).sum())},
    ]


def test_the_same_voxels_in_another_file_are_noted(made, predict, tmp_path):
    image = nib.load(made["scan"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / "copy.nii")
    code, said, out = predict("--session", made["sessions"]["first"], "copy.nii")
    assert code == 0 and "note: copy.nii is not the very file" in said.err
    np.testing.assert_array_equal(labels_of(out), made["labels"]["first"])


def test_an_object_that_nobody_has_clicked_is_empty(made, predict, tmp_path):
    session = Session.load(made["sessions"][PLAIN])
    session.objects.append(SessionObject("object 3", "#00ff00"))
    session.save(tmp_path / "session.json")
    code, _, output = predict("--session", tmp_path / "session.json", made["scan"])
    assert code == 0
    np.testing.assert_array_equal(labels_of(output), made["labels"][PLAIN])


def test_a_picture(made, predict, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), np.uint8)).save(tmp_path / "a.png")
    space = Workspace(
        Models(MSAPredictor.from_pretrained(made["runs"]["first"], device="cpu"), str(made["runs"]["first"]))
    )
    space.open([tmp_path / "a.png"])
    space.click_voxel((30, 20, 0))
    mask = space.objects[0].mask[0]
    one = space.session().save(tmp_path / "one.json")
    space.add_object()
    space.click_voxel((5, 5, 0))
    two, labels = space.session().save(tmp_path / "two.json"), space.labels()[0]
    space.close()
    code, said, out = predict("--session", one, "a.png", out="one.png")
    assert code == 0, said.err
    np.testing.assert_array_equal(np.asarray(Image.open(out)), mask * np.uint8(255))
    code, _, out = predict("--session", two, "a.png", out="two.png")
    assert code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), labels)


# -- what does not fit -------------------------------------------------------------------------------------------------


def refused(predict, *words, out="mask.nii.gz") -> str:
    code, said, file = predict(*words, out=out)
    assert code == 2 and not file.exists() and "error: " in said.err, (code, said.err)
    return said.err


def test_a_scan_of_another_size(made, predict, tmp_path):
    write_organ(tmp_path / "small.nii.gz", shape_zyx=(5, 40, 34))
    text = refused(predict, "--session", made["sessions"]["first"], "small.nii.gz")
    assert "not the scan of this session" in text and "organ.nii.gz" in text and str(SHAPE_ZYX) in text


def test_no_scan_beside_it(made, predict, tmp_path):
    (tmp_path / "session.json").write_bytes(made["sessions"]["first"].read_bytes())
    assert "organ.nii.gz" in refused(predict, "--session", "session.json")
    assert "missing.nii.gz" in refused(predict, "--session", "session.json", "missing.nii.gz")


@pytest.mark.parametrize(
    "option",
    ["--point=3,4,2", "--negative-point=3,4,2", "--box=1,1,9,9,2", "--window=-160,240", "--text=the liver",
     "--intensity=percentile", "--orientation=LPS", "--one-slice", "--overlay=a.png", "--min-score=0.1",
     "--prompts=a.csv", "--retry-failed", "--series=1.2.3", "--key=image"],
)  # fmt: skip
def test_options_that_the_session_already_says(made, predict, option):
    text = refused(predict, "--session", made["sessions"]["first"], made["scan"], option)
    assert f"{option.split('=')[0]} does not go with --session" in text


@pytest.mark.parametrize("content", ["", "{}", "[1]", "hello", '{"format": "medsam-adapter session 9"}'])
def test_a_broken_session(made, predict, tmp_path, content):
    (tmp_path / "session.json").write_text(content)
    assert "is no session" in refused(predict, "--session", "session.json", made["scan"])


def test_no_session(made, predict):
    text = refused(predict, "--session", "missing.json", made["scan"])
    assert "missing.json" in text


def changed(made, tmp_path, change) -> Path:
    session = Session.load(made["sessions"]["first"])
    change(session)
    return session.save(tmp_path / "session.json")


@pytest.mark.parametrize("point", [(3.0, 4.0, 99.0), (500.0, 4.0, 2.0), (3.0, 4.0, -1.0)])
def test_prompts_outside_the_scan(made, predict, tmp_path, point):
    def change(session):
        session.objects[0].prompt.points[0] = point
        session.objects[0].carried = None

    assert "outside" in refused(predict, "--session", changed(made, tmp_path, change), made["scan"])


@pytest.mark.parametrize("intensity", ["sausage", "rgb", ["window"]])
def test_an_intensity_that_is_none(made, predict, tmp_path, intensity):
    file = changed(made, tmp_path, lambda session: setattr(session.objects[0], "intensity", intensity))
    refused(predict, "--session", file, made["scan"])


@pytest.mark.parametrize("window", [None, (9.0, 3.0), (5.0, 5.0)])
def test_a_window_that_is_none(made, predict, tmp_path, window):
    file = changed(made, tmp_path, lambda session: setattr(session.objects[0], "window_hu", window))
    refused(predict, "--session", file, made["scan"])


@pytest.mark.parametrize("field", ["model", "adapter"])
def test_a_model_that_is_gone(made, predict, tmp_path, field):
    file = changed(made, tmp_path, lambda session: setattr(session, field, str(tmp_path / "gone")))
    assert "gone" in refused(predict, "--session", file, made["scan"])


@pytest.mark.parametrize("out", ["mask.png", "mask.jpg", "mask", "mask.dcm"])
def test_an_output_that_cannot_hold_it(made, predict, out):
    assert out in refused(predict, "--session", made["sessions"]["first"], made["scan"], out=out)


def test_another_orientation_has_other_voxels(made, predict, tmp_path):
    """The same size, but other axes: the clicks are voxels of the file, so the note is all that can be said."""
    write_organ(tmp_path / "ras.nii.gz", RAS)
    code, said, _ = predict("--session", made["sessions"]["first"], "ras.nii.gz")
    assert code == 0 and "note:" in said.err
