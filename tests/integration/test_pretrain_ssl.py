"""Self-supervised pre-training, whole: folder, exact resume, what opens the result, the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import SamModel

from medsam_adapter import MSAModel
from medsam_adapter.cli.main import run
from medsam_adapter.errors import CheckpointError, Interrupted, MSAError, OutputError, RecipeError
from medsam_adapter.pretraining import ssl
from medsam_adapter.pretraining.ssl import SelfSupervised, pretrain_ssl
from medsam_adapter.pretraining.ssl_model import open_start
from medsam_adapter.pretraining.ssl_recipe import ObjectiveWeights, SslRecipe, check_ssl_recipe, load_ssl_recipe
from medsam_adapter.training.checkpoint import has_checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two folders of pictures that look different, one with a file that is no picture."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for source in ("stripes", "blobs"):
        (root / source).mkdir()
        for number in range(12):
            coarse = rng.integers(0, 255, (12, 1) if source == "stripes" else (4, 4)).astype(np.uint8)
            picture = np.asarray(Image.fromarray(coarse).resize((72, 60), Image.BICUBIC))
            Image.fromarray(picture).save(root / source / f"{number:02d}.png")
    (root / "blobs" / "12.png").write_bytes(b"not a picture")
    return root


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps one state for each process; each run here is a process of its own in real life."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe(pictures, base, **values) -> SslRecipe:
    AcceleratorState._reset_state(reset_partial_state=True)
    defaults = dict(
        base=str(base), sources=[{"kind": "folder", "path": str(pictures / n)} for n in ("stripes", "blobs")],
        weights=ObjectiveWeights(stay=0.1), projection_width=16, decoder_width=16, decoder_depth=1, steps=6,
        batch_size=4, workers=0, log_every=2, checkpoint_every=3, check_every=3, check_pictures=16, warmup_fraction=0.2,
        learning_rate=1e-3,
    )  # fmt: skip
    return SslRecipe(**{**defaults, **values})


def weights_of(folder) -> dict[str, torch.Tensor]:
    """Everything the checkpoint holds, Adam's state included, by name."""
    state = load_checkpoint(folder)
    moments = {f"{n}.{k}": v for n, row in state["optimizer"]["state"].items() for k, v in row.items()}
    return {**state["model"], **moments}


def log_of(folder) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_run(one, other):
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert log_of(one) == log_of(other)
    name = "model.safetensors" if (one / "model.safetensors").exists() else "adapter_model.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def finished(pictures, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = pretrain_ssl(recipe(pictures, tiny_base), folder, show_progress=False)
    assert result.step == 6 and result.num_skipped == 1
    return folder


def test_the_run_folder(finished):
    assert {file.name for file in finished.iterdir()} == {
        "config.json", "model.safetensors", "recipe.yaml", "versions.json", "log.jsonl", "skipped.jsonl",
        "checkpoints",
    }  # fmt: skip
    (skipped,) = [json.loads(line) for line in (finished / "skipped.jsonl").read_text().splitlines()]
    assert skipped["name"].endswith("12.png") and "picture" in skipped["reason"]
    rows = log_of(finished)
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [2, 3, 4, 6]
    for row in losses:
        expected = row["emix"] + row["shed"] + row["mae"] + 0.1 * row["stay"]
        assert row["loss"] == pytest.approx(expected, abs=1e-4)
    checks = [row for row in rows if "check" in row]
    assert [row["step"] for row in checks] == [0, 3, 6]
    assert all(row["start"] == checks[0]["check"] for row in checks)
    assert checks[2]["check"] != checks[0]["check"] and {"knn", "probe", "chance"} <= checks[2]["check"].keys()
    assert load_ssl_recipe(finished).weights.stay == 0.1


def test_the_result_opens_everywhere_and_only_the_encoder_changed(finished, tiny_base, plain_attention):
    sam, msa, start = (
        SamModel.from_pretrained(finished),
        MSAModel.from_base(finished),
        SamModel.from_pretrained(tiny_base),
    )
    assert json.loads((finished / "config.json").read_text())["model_type"] == "sam"
    assert load_file(finished / "model.safetensors").keys() == load_file(tiny_base / "model.safetensors").keys()
    pixels, points = torch.randn(2, 3, 64, 64), torch.tensor([[[[20.0, 30.0]]]] * 2)
    with torch.no_grad():
        outs = [m(pixel_values=pixels, input_points=points, multimask_output=False) for m in (sam, msa)]
        torch.testing.assert_close(*(out.pred_masks for out in outs), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sam.vision_encoder(pixels)[0], msa.encode(pixels), atol=1e-5, rtol=1e-5)
    trained = weights_of(finished)
    before = dict(start.named_parameters())
    for name, parameter in sam.named_parameters():
        if name.startswith("vision_encoder."):
            assert torch.equal(parameter, trained[name]) and not torch.equal(parameter, before[name]), name
        else:
            assert torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_goes_on_to_the_bit(pictures, tiny_base, finished, tmp_path, workers):
    first = pretrain_ssl(recipe(pictures, tiny_base, workers=workers), tmp_path, stop_after=3, show_progress=False)
    assert first.step == 3
    with (tmp_path / "log.jsonl").open("a") as log:  # what a run wrote that was killed after its checkpoint
        log.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    last = pretrain_ssl(recipe(pictures, tiny_base, workers=workers), tmp_path, resume=True, show_progress=False)
    assert last.step == 6 and last.num_skipped == 1
    assert_same_run(finished, tmp_path)


def test_a_signal_saves_and_the_run_goes_on_to_the_bit(pictures, tiny_base, finished, tmp_path, monkeypatch):
    """After step 5, which is neither logged nor a checkpoint of its own; the losses of its row are kept."""
    original = ssl._Run._train_step

    def train_step(self, batch, *rest):
        if batch["step"] == 4:
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ssl._Run, "_train_step", train_step)
        with pytest.raises(Interrupted, match="after step 5 of 6") as error:
            pretrain_ssl(recipe(pictures, tiny_base), tmp_path, show_progress=False)
    assert error.value.exit_code == 143 and f"msa pretrain ssl {tmp_path} -o {tmp_path} --resume" in error.value.hint
    last = pretrain_ssl(recipe(pictures, tiny_base), tmp_path, resume=True, show_progress=False)
    assert last.step == 6
    assert_same_run(finished, tmp_path)


def test_a_run_does_not_begin_in_the_folder_of_another(pictures, tiny_base, finished):
    with pytest.raises(OutputError, match="an earlier run would be lost"):
        pretrain_ssl(recipe(pictures, tiny_base), finished, show_progress=False)


def test_a_run_that_overwrites_leaves_no_model_of_another_kind(pictures, tiny_base, tmp_path):
    for train, steps in (("adapters", 1), ("encoder", 1), ("adapters", 1)):
        values = recipe(pictures, tiny_base, train=train, steps=steps)
        (tmp_path / "best.json").write_text("{}")  # as of a run of `msa train`
        pretrain_ssl(values, tmp_path, show_progress=False, overwrite=True)
        weights = [file.name for file in tmp_path.glob("*.safetensors")]
        assert weights == ["adapter_model.safetensors" if train == "adapters" else "model.safetensors"]
        assert (tmp_path / "adapter_config.json").exists() == (train == "adapters")
        assert not (tmp_path / "best.json").exists()


def test_a_run_does_not_write_over_its_own_base(pictures, tiny_base, tmp_path, monkeypatch):
    pretrain_ssl(recipe(pictures, tiny_base, steps=1), tmp_path / "out", show_progress=False)
    before = (tmp_path / "out/model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RecipeError, match="write over its own base"):
            pretrain_ssl(recipe(pictures, "out", steps=2), tmp_path / "out", show_progress=False, **how)
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [
        {"learning_rate": 1e-4}, {"seed": 1}, {"batch_size": 3}, {"weights": ObjectiveWeights(stay=0.2)},
        {"sources": [{"kind": "folder", "path": "stripes", "weight": 2}]},
    ],
)  # fmt: skip
def test_another_recipe_is_not_resumed(pictures, tiny_base, finished, monkeypatch, other):
    monkeypatch.chdir(pictures)
    before = {file: file.read_bytes() for file in finished.glob("*.*")}
    with pytest.raises(CheckpointError, match=f"another recipe(?s:.)*{next(iter(other))}"):
        pretrain_ssl(recipe(pictures, tiny_base, steps=8, **other), finished, resume=True, show_progress=False)
    assert {file: file.read_bytes() for file in finished.glob("*.*")} == before


def test_another_base_of_the_same_shapes_is_not_resumed(pictures, tiny_base, finished, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "twin")
    with pytest.raises(CheckpointError, match="another recipe"):
        pretrain_ssl(recipe(pictures, tmp_path / "twin"), finished, resume=True, show_progress=False)


def test_fewer_steps_than_are_done_are_refused(pictures, tiny_base, finished):
    with pytest.raises(CheckpointError, match="more steps than the recipe asks for") as caught:
        pretrain_ssl(recipe(pictures, tiny_base, steps=4), finished, resume=True, show_progress=False)
    assert caught.value.found == "6 steps" and caught.value.expected == "steps: 6 or more"


def test_what_only_says_how_often_and_how_long_may_change(pictures, tiny_base, tmp_path):
    pretrain_ssl(recipe(pictures, tiny_base, steps=1), tmp_path, show_progress=False)
    more = dict(steps=2, workers=1, log_every=1, check_every=1, checkpoint_every=1)
    assert pretrain_ssl(recipe(pictures, tiny_base, **more), tmp_path, resume=True, show_progress=False).step == 2


def test_a_checkpoint_without_a_recipe_is_still_resumed(pictures, tiny_base, tmp_path, monkeypatch):
    """As earlier versions wrote it."""
    original = ssl.save_checkpoint
    with monkeypatch.context() as patch:

        def without(folder, state, step):
            return original(folder, {key: value for key, value in state.items() if key != "recipe"}, step)

        patch.setattr(ssl, "save_checkpoint", without)
        pretrain_ssl(recipe(pictures, tiny_base, steps=1), tmp_path, show_progress=False)
    assert pretrain_ssl(recipe(pictures, tiny_base, steps=2), tmp_path, resume=True, show_progress=False).step == 2


def test_adapters_only(pictures, tiny_base, tmp_path):
    adapter = {"bottleneck_ratio": 0.25, "use_depth": True}
    values = dict(train="adapters", adapter=adapter, workers=0)
    pretrain_ssl(recipe(pictures, tiny_base, **values), tmp_path / "whole", show_progress=False)
    pretrain_ssl(recipe(pictures, tiny_base, **values), tmp_path / "parts", stop_after=3, show_progress=False)
    pretrain_ssl(recipe(pictures, tiny_base, **values), tmp_path / "parts", resume=True, show_progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "whole" / "model.safetensors").exists()
    model, start = MSAModel.from_pretrained(tmp_path / "whole"), SamModel.from_pretrained(tiny_base)
    adapters = {n: p for n, p in model.named_parameters() if "msa_adapter" in n and n.endswith("up.weight")}
    for name, parameter in adapters.items():  # an adapter whose upper half is zero does nothing
        is_trained = "vision_encoder" in name and "depth" not in name
        assert (parameter.abs().max() > 0) == is_trained, name
    assert any("mask_decoder" in name for name in adapters)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (model.encode(pixels) - start.vision_encoder(pixels)[0]).abs().max() > 1e-4
    with pytest.raises(CheckpointError, match="adapters already"):
        pretrain_ssl(recipe(pictures, tmp_path / "whole"), tmp_path / "again", show_progress=False)
    with pytest.raises(RecipeError, match="leaves the image encoder alone"):
        pretrain_ssl(
            recipe(pictures, tiny_base, train="adapters", adapter={"use_encoder": False}), tmp_path / "no",
            show_progress=False,
        )  # fmt: skip
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("only", ["emix", "shed", "mae", "stay"])
def test_weight_zero_leaves_an_objective_out(tiny_sam, only):
    weights = ObjectiveWeights(**{name: 2.0 * (name == only) for name in ("emix", "shed", "mae", "stay")})
    objective = SelfSupervised(tiny_sam().vision_encoder, SslRecipe(weights=weights))
    assert list(objective.objectives) == [only]
    out = objective(torch.randn(2, 3, 64, 64), (0, 0, 0))
    assert out.keys() == {"loss", only} and out["loss"].item() == pytest.approx(2 * out[only].item())


def test_what_is_drawn_depends_on_seed_step_and_process(tiny_sam):
    objective, pixels = SelfSupervised(tiny_sam().vision_encoder, SslRecipe()), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        first = objective(pixels, (0, 1, 0))["mae"]
        assert torch.equal(first, objective(pixels, (0, 1, 0))["mae"])
        for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
            assert not torch.equal(first, objective(pixels, other)["mae"])


def test_a_run_draws_anew_in_each_step(pictures, tiny_base, tmp_path, monkeypatch):
    forward, seeds = SelfSupervised.forward, []
    monkeypatch.setattr(SelfSupervised, "forward", lambda self, p, seed: seeds.append(seed) or forward(self, p, seed))
    pretrain_ssl(recipe(pictures, tiny_base, steps=3, seed=7, check_every=0), tmp_path, show_progress=False)
    assert seeds == [(7, 0, 0), (7, 1, 0), (7, 2, 0)]


@pytest.mark.parametrize("train", ["encoder", "adapters"])
def test_every_trained_weight_is_used_in_every_step(tiny_sam, train):
    """Data-parallel training waits for the gradient of each."""
    from medsam_adapter import MSAAdapterConfig

    model = MSAModel.from_base(tiny_sam(), MSAAdapterConfig() if train == "adapters" else None)
    if train == "encoder":
        model.vision_encoder.requires_grad_(True)
    objective = SelfSupervised(model.vision_encoder, SslRecipe(weights=ObjectiveWeights(stay=1.0)))
    objective(torch.randn(3, 3, 64, 64), (0, 0, 0))["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_bf16_and_gradient_checkpointing_and_another_image_size(pictures, tiny_base, tmp_path):
    values = dict(mixed_precision="bf16", gradient_checkpointing=True, image_size=48, steps=2, check_every=0)
    pretrain_ssl(recipe(pictures, tiny_base, **values), tmp_path, show_progress=False)
    state = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    model = SamModel.from_pretrained(tmp_path)
    assert model.config.vision_config.image_size == 48 and not [r for r in log_of(tmp_path) if "check" in r]
    assert model.vision_encoder(torch.randn(1, 3, 48, 48))[0].shape[-1] == 6


def test_gradient_checkpointing_changes_nothing(pictures, tiny_base, finished, tmp_path):
    values = recipe(pictures, tiny_base, gradient_checkpointing=True)
    assert open_start(values).is_activation_checkpointing
    pretrain_ssl(values, tmp_path, show_progress=False)
    found = load_file(tmp_path / "model.safetensors")
    for name, value in load_file(finished / "model.safetensors").items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_no_number_names_the_pictures(pictures, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(ssl.MAE, "forward", lambda self, *given: self.mask_token.sum() * torch.nan)
    with pytest.raises(MSAError, match="the loss became nan in step 1") as caught:
        pretrain_ssl(recipe(pictures, tiny_base), tmp_path, show_progress=False)
    assert "mae on " in str(caught.value) and str(caught.value).count(".png") == 4
    assert not has_checkpoint(tmp_path)


def test_a_collapse_is_told(pictures, tiny_base, tmp_path, capsys, monkeypatch):
    def collapse(self, encoder, patches, pixel_values, generator):
        embeddings = ssl.embed_patches(encoder, pixel_values)
        return encoder.neck(embeddings).square().mean() + 0 * self.mask_token.sum()

    monkeypatch.setattr(ssl.MAE, "forward", collapse)
    values = dict(weights=ObjectiveWeights(0, 0, 1, 0), learning_rate=0.3, collapse_fraction=0.9, gradient_clipping=0.0)
    pretrain_ssl(recipe(pictures, tiny_base, **values), tmp_path, show_progress=False)
    assert "warning: step 6: the encoder may be collapsing: " in capsys.readouterr().err
    assert "warning" in log_of(tmp_path)[-1]


def test_a_worker_reports_an_error_as_it_is(pictures, tiny_base, tmp_path):
    (tmp_path / "bad").mkdir()
    for number in range(3):
        (tmp_path / "bad" / f"{number}.png").write_bytes(b"no picture")
    values = recipe(
        pictures, tiny_base, workers=1, check_every=0, sources=[{"kind": "folder", "path": str(tmp_path / "bad")}]
    )
    with pytest.raises(MSAError) as caught:
        pretrain_ssl(values, tmp_path / "run", show_progress=False)
    assert "Traceback" not in str(caught.value) and "in a row cannot be read" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (dict(weights=ObjectiveWeights(0, 0, 0, 0)), "all weights are 0"),
        (dict(weights=ObjectiveWeights(emix=-1)), "weights.emix is out of range"),
        (dict(weights=ObjectiveWeights(emix=float("nan"))), "weights.emix is out of range"),
        (dict(mask_ratio=1.0), "mask_ratio is out of range"),
        (dict(mask_ratio=0.0), "mask_ratio is out of range"),
        (dict(shuffle_fraction=1.5), "shuffle_fraction is out of range"),
        (dict(sources=[]), "names no pictures"),
        (dict(train="decoder"), "train is not one of its values"),
        (dict(mixed_precision="fp8"), "mixed_precision is not one of its values"),
        (dict(batch_size=1), "e-Mix mixes pictures"),
        (dict(adapter={"use_depth": True}), "`adapter` is for train: adapters"),
        (dict(steps=0), "steps is out of range"),
        (dict(temperature=0.0), "temperature is out of range"),
    ],
)
def test_impossible_values_are_refused(pictures, tiny_base, values, said):
    good = recipe(pictures, tiny_base)
    check_ssl_recipe(good)
    with pytest.raises(RecipeError) as caught:
        check_ssl_recipe(recipe(pictures, tiny_base, **values))
    assert said in str(caught.value)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_file(pictures, tiny_base, tmp_path):
    file = tmp_path / "ssl.yaml"
    file.write_text(recipe(pictures, tiny_base, steps=2).to_yaml())
    return file


def test_cli_trains_and_says_what_comes_next(recipe_file, tmp_path, capsys):
    folder = tmp_path / "out"
    assert (
        run(["pretrain", "ssl", str(recipe_file), "-o", str(folder), "--stop-after", "1", "--weights.stay", "0.5"]) == 0
    )
    out = capsys.readouterr().out
    assert f"encoder: {folder}  (step 1 of 2" in out and f"next: msa pretrain ssl {folder} -o {folder} --resume" in out
    assert load_ssl_recipe(folder).weights.stay == 0.5
    assert load_ssl_recipe(folder, ["--mixed_precision", "no"]).mixed_precision == "no"  # to YAML a bare no is false
    assert run(["pretrain", "ssl", str(folder), "-o", str(folder), "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"next: msa train RECIPE --base {folder}" in out and "held pictures: effective_rank" in out


@pytest.mark.slow
@pytest.mark.parametrize("train", ["encoder", "adapters"])
def test_two_processes_train_one_model(pictures, tiny_base, tmp_path, train):
    """The second step fails if a trained weight had no part in the first; unreadable pictures of both are told once."""
    values = recipe(pictures, tiny_base, train=train, steps=4, checkpoint_every=2)
    (tmp_path / "ssl.yaml").write_text(values.to_yaml())
    folder = tmp_path / "out"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
        "medsam_adapter.cli.main", "pretrain", "ssl", str(tmp_path / "ssl.yaml"), "-o", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    for more in (["--stop-after", "2"], ["--resume"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("next: ") == 1
    assert [row["step"] for row in log_of(folder) if "loss" in row] == [2, 4]
    assert len((folder / "skipped.jsonl").read_text().splitlines()) == 1
    assert MSAModel.from_pretrained(folder)._hf_peft_config_loaded == (train == "adapters")


def test_cli_train_takes_base(monkeypatch, tmp_path):
    from medsam_adapter.training import loop

    asked = []
    monkeypatch.setattr(
        loop, "train", lambda recipe, resume, overwrite: asked.append(recipe) or (_ for _ in ()).throw(MSAError("x"))
    )
    (tmp_path / "r.yaml").write_text("model: {base: facebook/sam-vit-base}\n")
    for extra in ([], ["--base", "outputs/ssl: 1"], ["--base=sam-tiny", "--optim.epochs", "3"]):
        assert run(["train", str(tmp_path / "r.yaml"), *extra]) == 1
    assert [r.model.base for r in asked] == ["facebook/sam-vit-base", "outputs/ssl: 1", "sam-tiny"]
    assert asked[2].optim.epochs == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sources", "[{kind: folder, path: NOWHERE}]"], "NOWHERE"),
        (["--sources", "[{kind: folderr, path: x}]"], "did you mean folder?"),
        (["--sources", "[pictures]"], "sources has a value of the wrong type"),
        (["--base", "NOWHERE/sam"], "base cannot be opened"),
        (["--mask_ratio", "2"], "ssl.yaml: mask_ratio is out of range"),
        (["--mask_ratoi", "0.5"], "did you mean mask_ratio?"),
        (["--train", "adapters", "--adapter", "{bottelneck: 1}"], "adapter is not usable"),
        (["--image_size", "60"], "does not fit this model"),
        (["--image_size", "16"], "too few tokens to shuffle"),
        (["--resume"], "there is nothing to resume"),
    ],
)
def test_cli_refuses_with_one_clear_error(recipe_file, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSA_DEBUG", raising=False)
    assert run(["pretrain", "ssl", str(recipe_file), "-o", "out", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 1 and said in captured.err and "Traceback" not in captured.err
    assert captured.out == "" and not (tmp_path / "out").exists()


def test_cli_tells_a_table_whose_columns_moved(tmp_path, tiny_base, pictures, capsys):
    root = tmp_path / "ham"
    (root / "images").mkdir(parents=True)
    (root / "HAM10000_metadata.csv").write_text("lesion,picture,diagnosis\nHAM_1,ISIC_1,bkl\n")
    values = recipe(pictures, tiny_base, sources=[{"kind": "ham10000", "path": str(root)}])
    (tmp_path / "ssl.yaml").write_text(values.to_yaml())
    assert run(["pretrain", "ssl", str(tmp_path / "ssl.yaml"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "HAM10000_metadata.csv" in error and "image_id" in error and "lesion, picture, diagnosis" in error


def test_the_shipped_recipe_is_a_recipe():
    from pathlib import Path

    file = Path(__file__).parents[2] / "hub_configs" / "ssl-tiny" / "recipe.yaml"
    assert load_ssl_recipe(file).base == "sam-tiny" and len(yaml.safe_load(file.read_text())["sources"]) == 2


def test_a_recipe_that_does_not_fit_leaves_the_one_that_does(pictures, tiny_base, tmp_path):
    pretrain_ssl(recipe(pictures, tiny_base), tmp_path, stop_after=3, show_progress=False)
    before = (tmp_path / "recipe.yaml").read_text()
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(CheckpointError, match="another model"):
        pretrain_ssl(recipe(pictures, tiny_base, train="adapters"), tmp_path, resume=True, show_progress=False)
    assert (tmp_path / "recipe.yaml").read_text() == before
