"""A mistyped command, option, recipe, key, layout, prompt, adapter or method: the message suggests the right one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run as msa

RECIPE = "run: {output: out}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "msa-liver").mkdir(parents=True)
    (tmp_path / "recipes" / "msa-liver" / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "runs" / "msa-spleen").mkdir(parents=True)
    (tmp_path / "runs" / "msa-spleen" / "adapter_config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command, suggested",
    [
        ("predcit", "predict"),
        ("predict a b -o c --pont 1,1", "--point"),
        ("train recipes/msa-livre", "did you mean recipes/msa-liver?"),
        ("train recipes/msa-liver --optim.epoch 3", "did you mean optim.epochs?"),
        ("train recipes/msa-liver --optm.epochs 3", "did you mean optim?"),
        ("train recipes/msa-liver --data.path data --model.method loar", "lora"),
        ("data check data --layout btvc", "did you mean 'btcv'?"),
        ("data info amos2", "amos22"),
        ("predict runs/msa-splen a.png --point 1,1 -o b.png", "did you mean runs/msa-spleen?"),
        ("demo sam-tny", "did you mean sam-tiny?"),
        ("evaluate sam-tiny --data data --prompts 1-pont", "did you mean 1-point?"),
        ("compare recipes/msa-liver --methods nnunett", "did you mean nnunet?"),
        ("texts show splen", "spleen"),
    ],
)
def test_a_mistyped_word_is_answered_by_the_right_one(folder, capsys, command, suggested):
    assert msa(command.split()) == 2
    said = capsys.readouterr().err
    assert suggested in said and "Traceback" not in said
