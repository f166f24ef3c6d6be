"""Prediction of many: each case once, whoever dies, and broken ones by name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter import file_locks
from medsam_adapter.data import mask_writing
from medsam_adapter.data.io import read_label, read_scan
from medsam_adapter.errors import DataError, OutputError
from medsam_adapter.inference import batch
from medsam_adapter.inference.batch import MAX_DEATHS, predict_cases
from medsam_adapter.inference.batch_cases import BatchCase
from medsam_adapter.inference.batch_manifest import DONE, FAILED, INTERRUPTED, STARTED, Manifest, Record, read_manifests
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt
from miniatures import dicom


@pytest.fixture(scope="module")
def predictor(tiny_base) -> MSAPredictor:
    model = MSAModel.from_pretrained(tiny_base)
    return MSAPredictor(model, MSAProcessor(64, "percentile", orientation="file"), "cpu")


@pytest.fixture
def scans(tmp_path) -> Path:
    root = tmp_path / "scans"
    root.mkdir()
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 60, (3, 20, 24)).astype(np.int16)
        values[:, 5:12, 6:15] += 300
        nib.save(nib.Nifti1Image(values.T, np.diag([-1, -1, 2, 1.0])), root / f"v{i}.nii.gz")
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (20, 24)).astype(np.uint8)).save(root / "p.png")
    return root


def cases_of(scans: Path, *more: BatchCase) -> list[BatchCase]:
    click = ObjectPrompt([(9.0, 8.0, 1.0)], [1])
    box = ObjectPrompt(boxes=[(6.0, 5.0, 1.0, 14.0, 11.0, 1.0)])
    volumes = [BatchCase(f"v{i}", scans / f"v{i}.nii.gz", [click, box], labels=(3, 1)) for i in range(3)]
    flat = ObjectPrompt([(9.0, 8.0)], [1], [(1.0, 2.0, 11.0, 12.0)])
    return [*volumes, BatchCase("p", scans / "p.png", [flat], labels=(255,)), *more]


def turns(output: Path) -> dict[str, list[str]]:
    """{case: statuses in the order of their lines}."""
    out: dict[str, list[str]] = {}
    for path in sorted(output.glob("manifest-*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            out.setdefault(record["case"], []).append(record["status"])
    return out


def test_masks_are_those_of_the_predictor(predictor, scans, tmp_path):
    cases, output, told = cases_of(scans), tmp_path / "out", []
    results = list(predict_cases(predictor, cases, output, progress=lambda *n: told.append(n)))
    assert [r.case_id for r in results] == ["v0", "v1", "v2", "p"] and all(r.is_done for r in results)
    assert told[0] == (0, 0, 4) and told[-1] == (4, 0, 4)
    for case, result in zip(cases[:3], results, strict=False):
        scan = read_scan(case.image)
        encoded = predictor.encode(scan)
        logits = predictor.predict_objects(encoded, case.prompts)
        want = np.where(logits.max(0) > 0, np.array([3, 1])[logits.argmax(0)], 0)
        got = read_label(result.output, like=scan)
        np.testing.assert_array_equal(got, want)
        assert result.output == output / f"{case.case_id}.nii.gz" and result.voxels == (want > 0).sum() > 0
    assert set(np.unique(np.asarray(Image.open(output / "p.png")))) == {0, 255}
    assert turns(output) == {case.case_id: [STARTED, DONE] for case in cases}


def test_what_is_done_stays_done_and_what_is_asked_otherwise_is_not(predictor, scans, tmp_path):
    cases, output = cases_of(scans), tmp_path / "out"
    assert len(list(predict_cases(predictor, cases[:2], output))) == 2
    assert [r.case_id for r in predict_cases(predictor, cases, output)] == ["v2", "p"]
    assert list(predict_cases(predictor, cases, output)) == []
    (output / "v1.nii.gz").unlink()
    assert [r.case_id for r in predict_cases(predictor, cases, output)] == ["v1"]
    other = [replace(cases[0], labels=(1, 3)), *cases[1:]]
    assert [r.case_id for r in predict_cases(predictor, other, output)] == ["v0"]
    assert [r.case_id for r in predict_cases(predictor, cases, output)] == ["v0"]  # and back: the file is the other's
    assert len(list(predict_cases(predictor, cases[:1], output, model_id="another"))) == 1
    assert len(list(predict_cases(predictor, cases[:1], output, model_id="another", carry=False))) == 1
    assert list(predict_cases(predictor, cases[:1], output, model_id="another", carry=False)) == []


@pytest.mark.parametrize("is_series", [False, True])
def test_a_scan_that_was_corrected_is_predicted_again(predictor, scans, tmp_path, is_series):
    """Of the same name and size, as a corrected header leaves it."""
    image, file = scans / "v0.nii.gz", scans / "v0.nii.gz"
    if is_series:
        image = scans / "ct"
        dicom.series(image, np.full((3, 24, 20), 9, np.uint8), name="{}")
        file = sorted(image.iterdir())[0]
    cases = [BatchCase("v0", image, [ObjectPrompt([(9.0, 8.0, 1.0)], [1])])]
    assert len(list(predict_cases(predictor, cases, tmp_path / "out"))) == 1
    assert not list(predict_cases(predictor, cases, tmp_path / "out"))
    os.utime(file, ns=(1, 1))
    assert len(list(predict_cases(predictor, cases, tmp_path / "out"))) == 1


def test_a_mask_never_takes_the_place_of_its_scan(predictor, scans):
    with pytest.raises(OutputError, match="would be lost"):
        list(predict_cases(predictor, cases_of(scans), scans / ".." / scans.name))


def test_broken_cases_are_named_and_stop_nothing(predictor, scans, tmp_path, monkeypatch):
    (scans / "cut.nii.gz").write_bytes((scans / "v0.nii.gz").read_bytes()[:200])
    click = ObjectPrompt([(9.0, 8.0, 1.0)], [1])
    broken = [
        BatchCase("cut", scans / "cut.nii.gz", [click]),
        BatchCase("gone", scans / "gone.nii.gz", [click]),
        BatchCase("outside", scans / "v0.nii.gz", [ObjectPrompt([(24.0, 8.0, 1.0)], [1])]),
        BatchCase("flat", scans / "v0.nii.gz", [ObjectPrompt([(9.0, 8.0)], [1])]),
        BatchCase("flat-box", scans / "v0.nii.gz", [ObjectPrompt(boxes=[(1.0, 2.0, 3.0, 4.0)])]),
        BatchCase("deep", scans / "p.png", [ObjectPrompt([(9.0, 8.0, 2.0)], [1])]),
        BatchCase("ground", scans / "v0.nii.gz", [ObjectPrompt([(9.0, 8.0, 1.0)], [0])]),
        BatchCase("boom", scans / "v1.nii.gz", [click]),
        BatchCase("memory", scans / "v2.nii.gz", [click]),
    ]

    def read(path, **kwargs):
        if path.name == "v1.nii.gz":
            raise ZeroDivisionError("nobody thought of it\nreally")
        if path.name == "v2.nii.gz":
            raise MemoryError
        return read_scan(path, **kwargs)

    monkeypatch.setattr(batch, "read_scan", read)
    good, output = cases_of(scans)[0], tmp_path / "out"
    results = {r.case_id: r for r in predict_cases(predictor, [*broken, good], output)}
    assert [r.case_id for r in results.values() if r.is_done] == ["v0"] and len(results) == 10
    said = {
        "gone": "does not exist",
        "outside": "outside the image",
        "flat": "3 numbers",
        "flat-box": "needs its slice",
    }
    said |= {
        "deep": "leave the slice out",
        "ground": "only background",
        "boom": "ZeroDivisionError: nobody thought of it",
    }
    said |= {"memory": "not enough memory", "cut": "cut.nii.gz"}
    for case in broken:
        assert said[case.case_id] in results[case.case_id].why and str(case.image) in results[case.case_id].why
        assert read_manifests(output)[case.case_id].why == results[case.case_id].why
    assert sorted(p.name for p in output.glob("*.nii.gz")) == ["v0.nii.gz"]
    monkeypatch.undo()
    assert list(predict_cases(predictor, [*broken, good], output)) == []
    again = {r.case_id: r.is_done for r in predict_cases(predictor, [*broken, good], output, retry_failed=True)}
    assert {name for name, done in again.items() if done} == {"boom", "memory"} and len(again) == 9
    assert [r.case_id for r in predict_cases(predictor, broken, output, retry_failed=True)][-1] == "ground"


@pytest.mark.parametrize("output_name", ["v0.nii.gz", "v0.mha", "v0.nrrd"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_no_room_stops_everything_and_settles_nothing(predictor, scans, tmp_path, monkeypatch, number, output_name):
    def full(*_):
        raise OSError(number, os.strerror(number))

    output, first, *others = tmp_path / "out", *cases_of(scans)
    cases = [replace(first, output=output_name), *others]
    monkeypatch.setattr(mask_writing, "_flush", full)
    with pytest.raises(OutputError, match=f"{output_name}: cannot be written"):
        list(predict_cases(predictor, cases, output))
    assert turns(output) == {"v0": [STARTED, INTERRUPTED]}
    monkeypatch.undo()
    assert len(list(predict_cases(predictor, cases, output))) == 4


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_case_that_fails_keeps_no_mask_of_an_earlier_question(
    predictor, scans, tmp_path, monkeypatch, is_interrupted
):
    output, case = tmp_path / "out", cases_of(scans)[0]
    list(predict_cases(predictor, [case], output))
    other = BatchCase("v0", case.image, [ObjectPrompt([(9.0, 8.0, 99.0)], [1])])
    if is_interrupted:
        monkeypatch.setattr(batch, "read_scan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(predict_cases(predictor, [other], output))
        monkeypatch.undo()
        assert (output / "v0.nii.gz").is_file()  # nothing is known yet
    (result,) = predict_cases(predictor, [other], output)
    assert not result.is_done and not (output / "v0.nii.gz").exists()
    (result,) = predict_cases(predictor, [case], output)
    assert result.is_done and (output / "v0.nii.gz").is_file()


def test_a_case_that_fails_leaves_a_file_that_no_prediction_wrote(predictor, scans, tmp_path):
    output, case = tmp_path / "out", cases_of(scans)[0]
    output.mkdir()
    (output / "v0.nii.gz").write_bytes(b"of somebody")
    (result,) = predict_cases(predictor, [replace(case, image=scans / "gone.nii.gz")], output)
    assert not result.is_done and (output / "v0.nii.gz").read_bytes() == b"of somebody"


def test_a_case_whose_name_is_taken_by_a_folder_has_failed_alone(predictor, scans, tmp_path):
    output = tmp_path / "out"
    (output / "v0.nii.gz").mkdir(parents=True)
    results = list(predict_cases(predictor, cases_of(scans), output))
    assert [result.is_done for result in results] == [False, True, True, True]
    assert "v0.nii.gz: cannot be written" in results[0].why and "Is a directory" in results[0].why


def test_an_interruption_is_no_death(predictor, scans, tmp_path, monkeypatch):
    def read(*_, **__):
        raise KeyboardInterrupt

    output = tmp_path / "out"
    monkeypatch.setattr(batch, "read_scan", read)
    for _ in range(MAX_DEATHS + 1):
        with pytest.raises(KeyboardInterrupt):
            list(predict_cases(predictor, cases_of(scans)[:1], output))
    monkeypatch.undo()
    assert [r.is_done for r in predict_cases(predictor, cases_of(scans), output)] == [True] * 4


def test_what_another_process_has_done_meanwhile_is_not_done_again(predictor, scans, tmp_path):
    cases, output = cases_of(scans), tmp_path / "out"
    mine = predict_cases(predictor, cases, output)
    next(mine)
    asked = batch._digest(predictor, cases[1], "", True)
    line = {"case": "v1", "turn": 1, "status": DONE, "asked": asked, "output": "v1.nii.gz"}
    (output / "manifest-00007.jsonl").write_text(json.dumps(line) + "\n")
    assert [r.case_id for r in mine] == ["v2", "p"]


def test_a_case_that_processes_die_of_comes_last_and_fails_in_the_end(predictor, scans, tmp_path):
    cases, output = cases_of(scans), tmp_path / "out"
    list(predict_cases(predictor, cases[:1], output))
    asked = read_manifests(output)["v0"].asked
    (output / "v0.nii.gz").unlink()
    path = output / "manifest-00000.jsonl"

    def die(times: int, first: int) -> None:
        with path.open("a") as file:
            for turn in range(first, first + times):
                file.write(json.dumps({"case": "v0", "turn": turn, "status": STARTED, "asked": asked}) + "\n")
            file.write('{"case": "v0", "turn": 9, "sta')  # killed in the middle of a line

    die(MAX_DEATHS - 1, 2)
    assert [r.case_id for r in predict_cases(predictor, cases[:2], output)] == ["v1", "v0"]
    (output / "v0.nii.gz").unlink()
    die(MAX_DEATHS, 2 + MAX_DEATHS)
    (result,) = predict_cases(predictor, cases[:2], output)
    assert not result.is_done and f"{MAX_DEATHS} processes have died" in result.why
    (result,) = predict_cases(predictor, cases[:2], output, retry_failed=True)
    assert result.is_done


def test_leftovers_of_killed_processes_go(predictor, scans, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for name in (".77-partial-v0.nii.gz", ".77-partial-other.nii.gz"):
        (output / name).write_bytes(b"x")
    list(predict_cases(predictor, cases_of(scans), output))
    assert [p.name for p in output.glob(".*-partial-*")] == [".77-partial-other.nii.gz"]


HOLD = """
import sys
from pathlib import Path
from medsam_adapter.inference.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take("v0"), claims.take("manifest 0"), flush=True)
sys.stdin.read()
"""


def test_a_claim_ends_with_its_process(predictor, scans, tmp_path):
    cases, output = cases_of(scans), tmp_path / "out"
    output.mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdin=PIPE, stdout=PIPE, text=True)
    assert other.stdout.readline() == "True True\n"
    done = []
    for result in predict_cases(predictor, cases, output):
        done.append(result.case_id)
        if len(done) == 3:
            other.kill()
    other.communicate()
    assert done == ["v1", "v2", "p", "v0"]
    assert [p.name for p in output.glob("manifest-*")] == ["manifest-00001.jsonl"]


def test_one_at_a_time_in_a_process(predictor, scans, tmp_path):
    cases, output = cases_of(scans), tmp_path / "out"
    first = predict_cases(predictor, cases, output)
    next(first)
    with pytest.raises(DataError, match="this very process"):
        next(predict_cases(predictor, cases, output))
    first.close()
    assert len(list(predict_cases(predictor, cases, output))) == 3


def test_a_file_system_without_locks_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_locks.fcntl, "lockf", refuse)
    with pytest.raises(DataError, match="without locks"), Manifest.open(tmp_path):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(file_locks, "fcntl", None)
    with Manifest.open(tmp_path):
        pass
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="cannot be shared"), Manifest.open(tmp_path):
        pass


def test_the_last_turn_counts_in_whatever_file(tmp_path):
    def line(**fields) -> str:
        return json.dumps({"case": "a", "asked": "q", **fields}) + "\n"

    first = line(turn=1, status=STARTED) + line(turn=1, status=DONE, output="a.nii.gz") + line(turn=3, status=STARTED)
    (tmp_path / "manifest-00001.jsonl").write_text(first + "[]\n5\n" + line(turn="x", status=DONE) + line(turn=9))
    (tmp_path / "manifest-00000.jsonl").write_text(
        line(turn=2, status=STARTED) + line(turn=4, status=FAILED, why="w")[:-1]
    )
    assert read_manifests(tmp_path)["a"] == Record("a", 3, STARTED, "q")
    with Manifest.open(tmp_path) as (manifest, _):
        assert manifest.path.name == "manifest-00000.jsonl"
        assert manifest.last("a").turn == 4 and manifest.died("a", "q") == 0  # its half line is whole now
        with (tmp_path / "manifest-00001.jsonl").open("a") as file:
            file.write(line(turn=5, status=STARTED) + line(turn=6, status=STARTED))
        assert manifest.last("a").turn == 4
        manifest.refresh()
        assert manifest.died("a", "q") == 2 and manifest.died("a", "other") == 0
