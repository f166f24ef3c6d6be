"""The folder in which the documentation's commands run: small data and runs under the names that the pages use."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from doc_commands import SMALL_TRAINING
from doc_pages import ROOT
from medsam_adapter.data.phantom import write_phantom_dataset
from miniatures import btcv, dicom, folder

SHAPE_ZYX = (14, 64, 64)


def write_workspace(root: Path) -> Path:
    """Data sets, files and runs; takes some seconds, most of them for training."""
    root.mkdir()
    for name in ("hub_configs", "train.py", "benchmarks"):
        (root / name).symlink_to(ROOT / name)
    (root / "RECIPE").symlink_to(ROOT / "hub_configs/msa-hippocampus/recipe.yaml")
    _write_data(root)
    _write_runs(root)
    return root


def _write_data(root: Path) -> None:
    phantom = write_phantom_dataset(root / "FOLDER", 5, shape_zyx=SHAPE_ZYX)
    for name in ("my_data", "DATA", "Task04_Hippocampus", "outputs/quickstart/phantom", "outputs/phantom"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(phantom)
    btcv.write(root / "BTCV", labelled=(1, 2, 3, 21, 22, 23))
    folder.write(root / "my_pictures")
    folder.write(root / "my_volumes", form="volumes")
    scan = sorted((phantom / "imagesTr").glob("*.nii.gz"))[0]
    (root / "scan.nii.gz").write_bytes(scan.read_bytes())
    (root / "reference.nii.gz").write_bytes((phantom / "labelsTr" / scan.name).read_bytes())
    _write_batch(root, scan)
    (root / "MY_SCANS").mkdir()
    (root / "MY_SCANS/scan.nii.gz").write_bytes(scan.read_bytes())
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = rng.integers(0, 255, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.BICUBIC).save(root / f"MY_SCANS/{number}.png")
    (root / "photo.png").write_bytes((root / "MY_SCANS/0.png").read_bytes())
    values = rng.normal(0, 50, (10, 256, 256)).astype(np.int16)
    values[3:, 180:220, 230:256] += 200
    dicom.series(root / "dicom_folder", values, spacing_mm=(3.0, 0.8, 0.8))


def _write_batch(root: Path, scan: Path) -> None:
    (root / "scans").mkdir()
    for name in ("p1", "p2"):
        (root / f"scans/{name}.nii.gz").write_bytes(scan.read_bytes())
    (root / "MANIFEST.csv").write_text("case_id,image,output\np1,scans/p1.nii.gz,\n")
    rows = ("case,object,x,y,z,label,text", "p1,liver,40,44,9,1,", "p2.nii.gz,liver,,,,,the liver")
    (root / "prompts.csv").write_text("\n".join(rows) + "\n")
    (root / "clicks.csv").write_text("case,x,y,z\np1,40,44,9\np2,30,40,8\n")


def _write_runs(root: Path) -> None:
    _train(root, "assets/quickstart", "outputs/quickstart/msa-phantom", root / "FOLDER")
    for name in ("outputs/mine", "outputs/msa-hippocampus", "outputs/msa-phantom", "ORG/msa-hippocampus"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(root / "outputs/quickstart/msa-phantom")
    _train(root, "msa-btcv", "ORG/msa-btcv", root / "BTCV", text=False)
    (root / "outputs/msa-btcv").symlink_to(root / "ORG/msa-btcv")
    (root / "ORG/msa-amos22").symlink_to(root / "ORG/msa-btcv")
    _train(root, "msa-phantom-text", "outputs/msa-phantom-text", root / "FOLDER")
    (root / "MODEL").symlink_to(root / "outputs/msa-phantom-text")
    assert nib.load(root / "scan.nii.gz").shape == SHAPE_ZYX[::-1]


def _train(root: Path, recipe: str, output: str, data: Path, text: bool = True) -> None:
    from accelerate.state import AcceleratorState

    from medsam_adapter.training.loop import train
    from medsam_adapter.training.recipe import load_recipe

    file = ROOT / f"hub_configs/{recipe}/recipe.yaml"
    if recipe == "assets/quickstart":
        file = ROOT / "src/medsam_adapter/assets/quickstart.yaml"
    values = {**SMALL_TRAINING, "model.base": "sam-tiny", "data.path": data, "run.output": root / output}
    if "num_slices" in file.read_text():
        values["model.adapter.num_slices"] = 4
    if recipe == "assets/quickstart":
        values["data.val_fraction"] = 0.2
    train(load_recipe(file, [f"--{key}={value}" for key, value in values.items()]), show_progress=False)
    AcceleratorState._reset_state(reset_partial_state=True)
