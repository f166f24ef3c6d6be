"""`msa quickstart` on four phantoms and one epoch: everything it promises lies in the folder."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState

from medsam_adapter.cli import quickstart
from medsam_adapter.cli.main import run


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch, capsys):
    recipe = yaml.safe_load(quickstart.RECIPE.read_text())
    recipe["optim"]["epochs"] = 1
    recipe["data"] |= {"targets": ["liver", "aorta"], "objects": 2, "samples_per_case": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(quickstart, "RECIPE", tmp_path / "recipe.yaml")
    monkeypatch.setattr(quickstart, "TEST_CASES", 1)
    folder = tmp_path / "out"
    assert run(["quickstart", "--output", str(folder)]) == 0
    facts = json.loads((folder / "results.json").read_text())
    assert [(r["model"], r["prompts"].split()[0]) for r in facts["rows"]] == [
        ("sam-tiny", "1-point"), ("sam-tiny", "3-points"), ("sam-tiny", "10-points"), ("MSA", "1-point"),
    ]  # fmt: skip
    assert all(0 <= r["dice"] <= 1 and r["hd95_mm"] > 0 for r in facts["rows"])
    mask = nib.load(next(folder.glob("*_prediction.nii.gz")))
    scan = nib.load(sorted((folder / "phantom" / "imagesTr").glob("*.nii.gz"))[0])
    assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
    assert (folder / "overlay.png").stat().st_size > 1000
    assert (folder / "msa-phantom" / "adapter_model.safetensors").exists()
    assert "msa predict" in capsys.readouterr().out
