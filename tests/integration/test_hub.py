"""Trained, published, and opened through all doors in fresh processes: the same logits as the run's own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from fake_hub import FakeHub
from medsam_adapter import MSAModel, MSAPredictor
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.vision_layer import volume_chunk
from medsam_adapter.cli.main import run as msa
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.training import loop
from medsam_adapter.training.recipe import make_recipe

BASE = "org/tiny-sam"
VARIANTS = {
    "2d": {"use_depth": False},
    "3d": {"use_depth": True, "num_slices": 3},
    "2d-decoder": {"use_depth": False, "train_mask_decoder": True},
    "3d-decoder": {"use_depth": True, "num_slices": 3, "train_mask_decoder": True},
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 3, shape_zyx=(12, 48, 48))


@pytest.fixture(scope="module")
def hub(tiny_base, tmp_path_factory):
    with FakeHub() as hub:
        hub.home = tmp_path_factory.mktemp("home")
        hub.add(BASE, tiny_base)
        yield hub


@pytest.fixture(scope="module")
def runs(phantoms, tiny_base, hub, tmp_path_factory):
    """Two training steps of each variant, then the base under its Hub name, as if it had been fetched from there."""
    folders = {}
    for name, adapter in VARIANTS.items():
        folder = tmp_path_factory.mktemp("runs") / f"msa-{name}"
        recipe = make_recipe(
            {
                "name": f"msa-{name}",
                "model": {"base": str(tiny_base), "adapter": {"bottleneck_ratio": 0.25, **adapter}},
                "data": {
                    "path": str(phantoms), "intensity": "ct:soft-tissue", "targets": ["liver"], "val_fraction": 0.3,
                },
                "optim": {"epochs": 1, "batch_size": 1, "learning_rate": 2e-2},
                "run": {"output": str(folder)},
            }
        )  # fmt: skip
        loop.train(recipe, show_progress=False)
        AcceleratorState._reset_state(reset_partial_state=True)
        folders[name] = folder
    return folders


@pytest.fixture(scope="module")
def published(runs, hub):
    """All of them pushed by `msa push`, in a process of its own."""
    folders = {f"org/msa-{name}": str(folder) for name, folder in runs.items()}
    done = in_fresh_process(
        hub,
        f"""
        from medsam_adapter.cli.main import run
        codes = [
            run(["push", folder, "--repo", repo, "--base", {BASE!r}, "--licence", "mit"])
            for repo, folder in {folders!r}.items()
        ]
        print(codes)
        """,
    )
    assert done == [0, 0, 0, 0]
    return runs


def in_fresh_process(hub, program: str, **environment):
    """What the program prints last, as JSON."""
    environment = hub.environment(hub.home, MSA_PLAIN_ATTENTION="1", OMP_NUM_THREADS="1", **environment)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    slices = 3 if name.startswith("3d") else 1
    return {
        "pixel_values": torch.randn(slices, 3, 64, 64, generator=generator),
        "input_points": torch.tensor([[[[20.0, 30.0]]]]).expand(slices, 1, 1, 2),
    }


@torch.no_grad()
def logits_of(model, name: str) -> torch.Tensor:
    """Slices in the batch axis, as SamModel and PeftModel take them; the depth branch is told how many there are."""
    inputs = inputs_of(name)
    with volume_chunk(len(inputs["pixel_values"])):
        return model.eval()(**inputs, multimask_output=False).pred_masks


DOORS = {
    "MSAModel": "MSAModel.from_pretrained(repo)",
    "PeftModel": f"PeftModel.from_pretrained(SamModel.from_pretrained({BASE!r}), repo)",
    "SamModel": f"(lambda sam: (sam.load_adapter(repo), sam)[1])(SamModel.from_pretrained({BASE!r}))",
}


TESTS = str(Path(__file__).parent)


def opened_in_fresh_process(hub, doors: list[str], **environment) -> dict[str, dict[str, list[float]]]:
    """{door: {variant: logits}}."""
    opened = ", ".join(f"{door!r}: logits_of({DOORS[door]}, name).flatten().tolist()" for door in doors)
    program = f"""
        import json, sys
        import torch; torch.set_num_threads(1)
        from peft import PeftModel
        from transformers import SamModel
        from medsam_adapter import MSAModel
        from test_hub import VARIANTS, logits_of
        found = {{}}
        for name in VARIANTS:
            repo = f"org/msa-{{name}}"
            for door, logits in {{{opened}}}.items():
                found.setdefault(door, {{}})[name] = logits
        print(json.dumps(found))
    """
    return in_fresh_process(hub, program, PYTHONPATH=f"{TESTS}:{Path(TESTS).parent}", **environment)


@pytest.mark.slow
def test_the_logits_of_each_door_are_the_runs_own(published, hub, plain_attention):
    """Each door in a process of its own, over the network; then all of them offline, from the cache."""
    online = {}
    for door in DOORS:
        online |= opened_in_fresh_process(hub, [door])
    asked = len(hub.log)
    offline = opened_in_fresh_process(hub, list(DOORS), HF_HUB_OFFLINE="1")
    assert len(hub.log) == asked and hub.downloads(BASE, "model.safetensors") == 1
    for name, folder in published.items():
        want = logits_of(MSAModel.from_pretrained(folder), name)
        base = logits_of(MSAModel.from_base(_base_of(folder)), name)
        assert (want - base).abs().max() > 1e-4, f"{name}: two steps have changed nothing"
        for door in DOORS:
            for found in (online, offline):
                got = torch.tensor(found[door][name]).view_as(want)
                where = f"{door}, {name}"
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, msg=lambda text, at=where: f"{at}: {text}")


def _base_of(folder) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.slow
def test_what_was_published_is_small_private_and_complete(published, hub, phantoms):
    for name in published:
        repo = hub.repo(f"org/msa-{name}")
        assert len(repo.messages) == 2 and "checkpoint.pt" not in repo.files
        everything = b"".join(repo.files.values())
        assert str(phantoms).encode() not in everything and str(published[name]).encode() not in everything
        card = repo.files["README.md"].decode()
        assert "segments liver in CT" in card or "segments liver, steered" in card
        assert "Best validation Dice" in card and "CPU cores" in card and "base_model: org/tiny-sam" in card


@pytest.mark.slow
def test_bf16_keeps_dice_to_0_005(runs, phantoms, tmp_path):
    """Published in bf16 and evaluated: the same Dice within 0.005."""
    dataset = open_dataset(phantoms)
    for name in ("3d", "2d-decoder"):
        out = tmp_path / name
        arguments = ["--repo", f"org/x-{name}", "--base", BASE, "--licence", "mit", "--dtype", "bf16", "-o", str(out)]
        assert msa(["push", str(runs[name]), *arguments]) == 0
        file = out / "adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "base_model_name_or_path": _base_of(runs[name])}))
        dice = [
            evaluate(
                MSAPredictor.from_pretrained(folder, "cpu"), dataset, dataset.cases, model_name="m", targets=["liver"]
            ).summary().overall.dice.mean
            for folder in (runs[name], out)
        ]  # fmt: skip
        assert abs(dice[0] - dice[1]) <= 0.005
        sizes = [(folder / "adapter_model.safetensors").stat().st_size for folder in (runs[name], out)]
        assert sizes[1] < 0.62 * sizes[0]


@pytest.mark.parametrize("use_depth", [False, True])
def test_the_size_of_an_adapter_of_vit_b(use_depth):
    """r = 1/16, encoder and decoder; counted without weights."""
    adapter = MSAAdapterConfig(use_depth=use_depth)
    assert adapter.bottleneck_ratio == 1 / 16
    with torch.device("meta"):
        model = MSAModel(MSAConfig(adapter_configs={"default": {"use_depth": use_depth, "peft_type": "MSA_ADAPTER"}}))
    count = sum(p.numel() for name, p in model.named_parameters() if "msa_adapter_" in name)
    assert model.config.vision_config.hidden_size == 768
    assert 4 * count < (11e6 if use_depth else 10e6)  # the depth branch adds half as much again to the encoder's
    assert 2 * count < 5.5e6  # bf16
