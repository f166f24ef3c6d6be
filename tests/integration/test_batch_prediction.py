"""`msa predict` over many: two processes, killed twice, five broken files; and what the command line says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.data.io import read_label, read_scan
from medsam_adapter.inference.batch_manifest import read_manifests
from miniatures import dicom

ACCELERATE = Path(__file__).parents[2] / "hub_configs" / "accelerate" / "cpu.yaml"


def save_volume(path: Path, seed: int, depth: int = 8, side: int = 64) -> None:
    values = np.random.default_rng(seed).integers(0, 60, (depth, side, side)).astype(np.uint8)
    values[1:-1, side // 4 : side // 2, side // 4 : side // 2] += 180
    nib.save(nib.Nifti1Image(values.T, np.diag([-1, -1, 2, 1.0])), path)


def lines(output: Path) -> list[dict]:
    found = []
    for path in sorted(output.glob("manifest-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # of a killed process
                continue
    return found


@pytest.mark.slow
def test_sixty_volumes_two_processes_killed_twice(tiny_base, tmp_path, capsys):
    scans, output, chance = tmp_path / "scans", tmp_path / "masks", random.Random(0)
    scans.mkdir()
    broken = {f"c{i:02d}" for i in range(5, 60, 12)}
    for i in range(60):
        save_volume(scans / f"c{i:02d}.nii.gz", i)
    for case in broken:
        whole = (scans / f"{case}.nii.gz").read_bytes()
        (scans / f"{case}.nii.gz").write_bytes(whole[: len(whole) // 2])
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("case,x,y,z\n" + "".join(f"c{i:02d},24,24,4\n" for i in range(60)))
    arguments = ["predict", str(tiny_base), str(scans), "-o", str(output), "--prompts", str(prompts)]

    def wait_for(settled: int) -> None:
        began = time.monotonic()
        while sum(line["status"] in ("done", "failed") for line in lines(output)) < settled:
            assert time.monotonic() - began < 60
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))

    # Once both are killed, as by a power cut ...
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "medsam_adapter.cli.main", *arguments], stderr=subprocess.DEVNULL,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]  # fmt: skip
    wait_for(chance.randint(4, 15))
    for worker in workers:
        worker.kill()
        worker.wait()
    first = sum(line["status"] == "done" for line in lines(output))
    # ... once one of them, whose launcher then stops the other ...
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE)]
    launch += ["--num_processes", "2", "-m", "medsam_adapter.cli.main", *arguments]
    launcher = subprocess.Popen(launch, stderr=subprocess.DEVNULL)
    wait_for(first + chance.randint(8, 20))
    os.kill(int(lines(output)[-1]["process"].split(":")[1]), signal.SIGKILL)
    assert launcher.wait(60) != 0
    second = sum(line["status"] == "done" for line in lines(output))
    assert 0 < first < second < 55
    # ... and then they come to the end.
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "55 of 60 cases done, 5 failed" in done.stdout

    settled = [line for line in lines(output) if line["status"] in ("done", "failed")]
    assert set(Counter(line["case"] for line in settled).values()) == {1}  # each predicted once
    assert {line["case"] for line in settled if line["status"] == "failed"} == broken
    assert {line["case"] for line in settled} == {f"c{i:02d}" for i in range(60)}
    assert all(line["case"] in line["why"] and "next:" in line["why"] for line in settled if line["status"] == "failed")
    assert len({line["process"] for line in settled}) > 3
    masks = sorted(path.name for path in output.glob("*.nii.gz"))
    assert len(masks) == 55 and not list(output.glob(".*partial*"))
    for name in masks:
        assert read_label(output / name, like=read_scan(scans / name)).shape == (8, 64, 64)
    alone = tmp_path / "alone.nii.gz"
    assert run(["predict", str(tiny_base), str(scans / "c33.nii.gz"), "-o", str(alone), "--point", "24,24,4"]) == 0
    np.testing.assert_array_equal(read_label(alone), read_label(output / "c33.nii.gz"))

    capsys.readouterr()
    assert run([*arguments, "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["done"] == 55 and {each["case"] for each in facts["failed"]} == broken
    assert len([line for line in lines(output) if line["status"] in ("done", "failed")]) == 60
    for case in broken:  # mended
        save_volume(scans / f"{case}.nii.gz", 0)
    assert run([*arguments, "--retry-failed"]) == 0


@pytest.fixture
def many(tmp_path) -> Path:
    """Two volumes, a picture and a DICOM series."""
    root = tmp_path / "scans"
    root.mkdir()
    for i in range(2):
        save_volume(root / f"v{i}.nii.gz", i, 3, 24)
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (24, 24)).astype(np.uint8)).save(root / "p.png")
    dicom.series(root / "ct", np.random.default_rng(4).integers(0, 200, (3, 24, 20)).astype(np.uint8), name="{}")
    return root


def test_a_folder_with_prompts(tiny_base, many, tmp_path, capsys):
    prompts, output = tmp_path / "prompts.csv", tmp_path / "masks"
    prompts.write_text("case,object,x,y,z\nv0,spleen,9,9,1\nct,liver,9,9,1\nct,spleen,4,4,1\np,liver,9,9,\n")
    arguments = ["predict", str(tiny_base), str(many), "-o", str(output), "--prompts", str(prompts)]
    assert run([*arguments, "--json", "--intensity", "percentile"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["cases"], facts["done"], facts["failed"], facts["left_out"]) == (3, 3, [], 1)
    assert sorted(p.name for p in output.iterdir()) == [
        ".claims", "ct.nii.gz", "labels.json", "manifest-00000.jsonl", "p.png", "v0.nii.gz"
    ]  # fmt: skip
    assert json.loads((output / "labels.json").read_text()) == {"1": "spleen", "2": "liver"}
    assert set(np.unique(read_label(output / "p.png"))) <= {0, 2}
    assert set(read_manifests(output)) == {"v0", "ct", "p"}
    prompts.write_text(prompts.read_text() + "v1,spleen,99,9,1\n")
    assert run(arguments + ["--intensity", "percentile"]) == 3
    said = capsys.readouterr()
    assert "3 of 4 cases done, 1 failed" in said.out
    assert "failed: v1" in said.err and "outside the image" in said.err and "--retry-failed" in said.err


def test_a_dicom_series_stays_one_scan_unless_prompts_are_given(tiny_base, many, tmp_path):
    series = many / "ct"
    one = ["predict", str(tiny_base), str(series), "--intensity", "percentile"]
    assert run([*one, "-o", str(tmp_path / "one.nii.gz"), "--point", "9,9,1"]) == 0
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("case,x,y,z\nct,9,9,1\n")
    assert run([*one, "-o", str(tmp_path / "masks"), "--prompts", str(prompts)]) == 0
    np.testing.assert_array_equal(read_label(tmp_path / "one.nii.gz"), read_label(tmp_path / "masks" / "ct.nii.gz"))


def test_a_manifest_says_where_masks_go(tiny_base, many, tmp_path):
    manifest = many / "MANIFEST.csv"
    manifest.write_text("case_id,image,output\na,v0.nii.gz,deep/a.nrrd\nb,ct,b.dcm\n")
    prompts, output = tmp_path / "prompts.csv", tmp_path / "masks"
    prompts.write_text("case,object,x0,y0,x1,y1,z\na,liver,4,4,12,12,1\nb,liver,4,4,12,12,1\n")
    arguments = ["predict", str(tiny_base), str(manifest), "-o", str(output), "--prompts", str(prompts)]
    assert run([*arguments, "--intensity", "percentile"]) == 0
    assert read_label(output / "deep" / "a.nrrd", like=read_scan(many / "v0.nii.gz")).any()
    assert read_label(output / "b.dcm", like=read_scan(many / "ct")).any()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--prompts", "PROMPTS", "--point", "1,2,3"], "--point belongs to one scan"),
        (["--prompts", "PROMPTS", "--text", "the liver"], "in two ways"),
        ([], "no prompt"),
        (["--text", "the liver"], "takes no text prompts"),
        (["--prompts", "PROMPTS", "-o", "SCANS"], "cannot be the output"),
        (["--prompts", "nowhere.csv"], "cannot be read"),
    ],
)
def test_what_does_not_go_together_is_said(tiny_base, many, tmp_path, capsys, more, said):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("case,x,y,z\nv0,9,9,1\n")
    more = [{"PROMPTS": str(prompts), "SCANS": str(many)}.get(word, word) for word in more]
    before = sorted(many.rglob("*"))
    assert run(["predict", str(tiny_base), str(many), "-o", str(tmp_path / "masks"), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "masks").exists() and sorted(many.rglob("*")) == before


@pytest.mark.parametrize("output", ["SCANS", "SCANS/../scans", "link", "SCANS/ct"])
def test_a_mask_never_takes_the_place_of_a_scan(tiny_base, many, tmp_path, capsys, output):
    """v1 is written under the name of v0, which nothing is asked of; the series is a folder of its own."""
    (tmp_path / "lists").mkdir()
    manifest, prompts = tmp_path / "lists" / "m.csv", tmp_path / "prompts.csv"
    manifest.write_text("case_id,image\nv0,../scans/v1.nii.gz\nv1,../scans/v0.nii.gz\nct,../lists/../scans/ct\n")
    prompts.write_text("case,x,y,z\n" + ("ct" if output.endswith("ct") else "v0") + ",9,9,1\n")
    (tmp_path / "link").symlink_to(many)
    before = {path: path.read_bytes() for path in many.rglob("*") if path.is_file()}
    place = output.replace("SCANS", str(many)) if "SCANS" in output else str(tmp_path / output)
    words = ["predict", str(tiny_base), str(manifest), "-o", place, "--prompts", str(prompts)]
    assert run([*words, "--intensity", "percentile"]) == 2
    assert "would be lost" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in many.rglob("*") if path.is_file()}


def test_a_label_keeps_its_name_in_a_folder_of_masks(tiny_base, many, tmp_path, capsys):
    def ask(rows: str, output: str = "masks") -> int:
        (tmp_path / "prompts.csv").write_text("case,object,x,y,z\n" + rows)
        words = ["predict", str(tiny_base), str(many), "-o", str(tmp_path / output)]
        return run([*words, "--prompts", str(tmp_path / "prompts.csv"), "--intensity", "percentile"])

    def names() -> dict:
        return json.loads((tmp_path / "masks" / "labels.json").read_text())

    assert ask("v0,liver,9,9,1\nv0,spleen,4,4,1\n") == 0
    assert ask("v1,liver,9,9,1\n") == 0
    assert names() == {"1": "liver", "2": "spleen"}, "the mask of v0 still has both"
    assert ask("ct,spleen,9,9,1\n") == 2
    said = capsys.readouterr().err
    assert "label 1 is another object" in said and "expected: liver" in said and "found: spleen" in said
    assert names() == {"1": "liver", "2": "spleen"} and not (tmp_path / "masks" / "ct.nii.gz").exists()
    assert ask("ct,spleen,9,9,1\n", "others") == 0
    (tmp_path / "masks" / "labels.json").write_text('{"1": 3}')
    assert ask("v1,liver,9,9,1\n") == 2
    assert "labels.json: is not what" in capsys.readouterr().err
