"""What a run trains besides MSA's adapters: PEFT's LoRA as PEFT computes it, the decoder, encoder and decoder."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import SamModel

from medsam_adapter import MSAAdapterConfig, MSAModel, MSAPredictor
from medsam_adapter.adapters.fast_layer import plain_attention
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import CheckpointError, RecipeError
from medsam_adapter.frozen_features import has_frozen_embeddings, num_frozen_blocks
from medsam_adapter.training import loop
from medsam_adapter.training.checkpoint import load_checkpoint
from medsam_adapter.training.methods import (
    LORA_TARGETS,
    check_run_folder,
    chunk_slices,
    make_lora_config,
    make_trainable,
    starting_point,
)
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import LossSection, PromptSection, make_recipe
from medsam_adapter.training.setup import prepare_for_training

UNREACHED = ("iou_prediction_head", "output_hypernetworks_mlps.1", "output_hypernetworks_mlps.2",
             "output_hypernetworks_mlps.3")  # fmt: skip
SLICES = 3


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 3, shape_zyx=(12, 48, 48))


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe(tiny_base, method, phantoms="", output="", **sections):
    model = {"base": str(tiny_base), "method": method, **sections.pop("model", {})}
    data = {
        "path": str(phantoms), "intensity": "ct:soft-tissue", "targets": ["liver"], "val_fraction": 0.34,
        "chunk_slices": SLICES, **sections.pop("data", {}),
    }  # fmt: skip
    optim = {"epochs": 2, "batch_size": 2, "learning_rate": 2e-3, **sections.pop("optim", {})}
    return make_recipe({"model": model, "data": data, "optim": optim, "run": {"output": str(output)}, **sections})


def model_of(tiny_base, method, **model):
    made = recipe(tiny_base, method, model=model)
    built = MSAModel.from_base(tiny_base)
    make_trainable(built, starting_point(made).config, method)
    return built


def objective_step(model, prompts=None):
    targets = torch.zeros(1, SLICES, 1, 32, 32)
    targets[..., 5:20, 5:20] = 1
    pixels = torch.randn(1, SLICES, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    objective = PromptedObjective(model, prompts or PromptSection(), LossSection()).train()
    out = objective(pixels, targets, torch.ones(1, SLICES, dtype=torch.bool), seed=(0,))
    out["loss"].backward()
    return out["loss"]


# -- what is trained ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["msa", "lora", "decoder", "full"])
def test_what_is_trained_is_what_gets_a_gradient(tiny_base, randomise, method):
    """All of it in every step (else DDP waits), and nothing of the prompt encoder."""
    model = randomise(model_of(tiny_base, method), only="lora_B" if method == "lora" else "msa_adapter_")
    objective_step(model)
    expected = {
        "msa": lambda n: "msa_adapter_" in n,
        "lora": lambda n: "lora_" in n,
        "decoder": lambda n: n.startswith("mask_decoder") and not any(part in n for part in UNREACHED),
        "full": lambda n: n.startswith(("mask_decoder", "vision_encoder")) and not any(part in n for part in UNREACHED),
    }[method]
    trained = 0
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == expected(name) == (parameter.grad is not None), name
        if parameter.requires_grad and not name.endswith("k_proj.bias"):  # a bias of keys cancels in the softmax
            trained += bool(parameter.grad.abs().max() > 0)
    assert trained > 0.9 * sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["decoder", "full"])
def test_what_no_loss_reaches_stays_frozen(tiny_base, method):
    """Were it trained, its gradient would be zero: nothing but AdamW's decay would move it."""
    model = model_of(tiny_base, method)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in UNREACHED) or "mask_tokens" in name)
    objective_step(model)
    for name, parameter in model.named_parameters():
        if any(part in name for part in UNREACHED):
            assert parameter.grad is None or parameter.grad.abs().max() == 0, name


def test_the_frozen_part_of_the_encoder(tiny_base):
    found = {m: num_frozen_blocks(model_of(tiny_base, m)) for m in ("lora", "decoder", "full")}
    assert found == {"lora": 0, "decoder": 3, "full": 0}
    assert has_frozen_embeddings(model_of(tiny_base, "decoder")) and not has_frozen_embeddings(
        model_of(tiny_base, "full")
    )


def test_chunks_without_a_depth_branch(tiny_base):
    made = recipe(tiny_base, "full", data={"chunk_slices": None})
    assert chunk_slices(made, None) == MSAAdapterConfig().num_slices == 8
    made.model.adapter = {"num_slices": 5}  # the recipe of an MSA run, run by another method
    assert chunk_slices(made, None) == 5 and chunk_slices(made, LoraConfig()) == 5
    assert chunk_slices(made, MSAAdapterConfig(num_slices=6)) == 6
    made.data.chunk_slices = 2
    assert chunk_slices(made, None) == chunk_slices(made, MSAAdapterConfig(num_slices=6)) == 2


# -- LoRA is PEFT's ----------------------------------------------------------------------------------------------------


def lora_pair(tiny_base, **fields):
    """An MSAModel with a LoRA, and transformers' SamModel with the same one, weights equal and not zero."""
    model = model_of(tiny_base, "lora", lora=fields)
    sam = SamModel.from_pretrained(tiny_base)
    config = LoraConfig(**{"target_modules": LORA_TARGETS, **fields})
    plain = get_peft_model(sam, config)
    plain.base_model.model.requires_grad_(False)
    own, generator = dict(model.named_parameters()), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
                own[name.removeprefix("base_model.model.")].copy_(parameter)
                parameter.requires_grad_(True)
    return model.eval(), plain.eval()


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 4, "lora_alpha": 8},
        {"r": 2, "target_modules": ["qkv", "proj", "lin1", "lin2"]},
        {"r": 2, "lora_bias": True},
        {"r": 2, "use_dora": True},
        {"r": 2, "layers_to_transform": [1], "layers_pattern": "layers"},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_a_lora_gives_what_peft_gives_on_a_plain_sam(tiny_base, inputs_for, fields):
    """Output and every gradient, through the fast path; windows are padded, so a bias of the LoRA counts there, too."""
    model, plain = lora_pair(tiny_base, **fields)
    inputs = inputs_for("2D")
    before = MSAModel.from_base(tiny_base)(**inputs).pred_masks
    got, want = model(**inputs).pred_masks, plain(**inputs, multimask_output=False).pred_masks
    assert (want - before).abs().max() > 1e-2 * want.abs().max()
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    for out in (got, want):
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    grads = {n.removeprefix("base_model.model."): p.grad for n, p in plain.named_parameters() if p.grad is not None}
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert own.keys() == grads.keys() and all("lora_" in name for name in own)
    largest = max(grad.abs().max() for grad in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(own[name], grad, rtol=1e-3, atol=1e-5 * largest, msg=name)
    assert any(grad.abs().max() > 0 for name, grad in own.items() if "attn.qkv" in name)


def test_a_lora_is_on_the_fast_path(tiny_base, inputs_for, monkeypatch):
    model, _ = lora_pair(tiny_base)
    inputs = inputs_for("2D")
    with torch.no_grad(), plain_attention():
        want = model(**inputs).pred_masks
    calls = []
    from medsam_adapter.adapters import fast_layer

    original = fast_layer.space_attention
    monkeypatch.setattr(fast_layer, "space_attention", lambda *a: calls.append(1) or original(*a))
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).pred_masks, want, rtol=1e-3, atol=1e-4)
    assert len(calls) == 3


@pytest.mark.parametrize("changes", [{"mixed_precision": "bf16"}, {"gradient_checkpointing": True}])
def test_a_lora_learns_under_every_switch(tiny_base, randomise, changes):
    made = recipe(tiny_base, "lora", optim=changes)
    model = randomise(model_of(tiny_base, "lora"), only="lora_B")
    prepare_for_training(model, made, "cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled="mixed_precision" in changes):
        objective_step(model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.float32 and parameter.grad.abs().max() > 0, name


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tiny_base, phantoms, tmp_path_factory):
    """{method: its finished run}."""
    done = {}
    for method in ("lora", "decoder", "full"):
        folder = tmp_path_factory.mktemp("runs") / method
        done[method] = loop.train(recipe(tiny_base, method, phantoms, folder), show_progress=False).folder
        AcceleratorState._reset_state(reset_partial_state=True)
    return done


def test_a_lora_run_is_a_peft_repo(tiny_base, runs, inputs_for):
    """Three doors, one result."""
    folder, inputs = runs["lora"], inputs_for("2D")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (
        config["peft_type"] == "LORA"
        and config["r"] == 8
        and set(config["target_modules"]) == {"qkv", "q_proj", "v_proj"}
    )
    assert config["base_model_name_or_path"] == str(tiny_base)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors) and any(
        value.any() for n, value in tensors.items() if "lora_B" in n
    )
    base = SamModel.from_pretrained(tiny_base)
    with torch.no_grad():
        plain = base(**inputs, multimask_output=False).pred_masks
        want = PeftModel.from_pretrained(base, folder)(**inputs, multimask_output=False).pred_masks
        third = SamModel.from_pretrained(tiny_base)
        third.load_adapter(str(folder))
        doors = [
            MSAModel.from_pretrained(folder)(**inputs).pred_masks,
            MSAPredictor.from_pretrained(folder, device="cpu").model(**inputs).pred_masks,
            third.eval()(**inputs, multimask_output=False).pred_masks,
        ]
    assert (want - plain).abs().max() > 1e-4
    for got in doors:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "decoder", "full"])
def test_a_run_opens_with_all_it_knows(runs, method):
    predictor = MSAPredictor.from_pretrained(runs[method], device="cpu")
    assert predictor.model.config.id2label == {0: "background", 1: "liver"} and predictor.model.text_model is None
    assert predictor.processor.intensity == "ct:soft-tissue" and predictor.model.config.num_slices == 1
    names = {file.name for file in runs[method].iterdir()}
    assert names >= {
        "config.json",
        "preprocessor_config.json",
        "README.md",
        "recipe.yaml",
        "best.json",
        "checkpoints",
    }
    weights = {"adapter_model.safetensors"} if method == "lora" else {"model.safetensors"}
    assert {name for name in names if name.endswith(".safetensors")} == weights
    assert ("adapter_config.json" in names) == (method == "lora")


@pytest.mark.parametrize("method", ["decoder", "full"])
def test_all_weights_are_saved_and_only_the_trained_ones_differ(tiny_base, runs, method):
    saved, base = load_file(runs[method] / "model.safetensors"), SamModel.from_pretrained(tiny_base).state_dict()
    trained = {n for n, p in model_of(tiny_base, method).named_parameters() if p.requires_grad}
    assert saved.keys() <= base.keys() and all(value.dtype == torch.float32 for value in saved.values())
    changed = {name for name, value in saved.items() if not torch.equal(value, base[name])}
    assert changed <= trained and len(changed) > 0.9 * len(trained)
    opened = MSAModel.from_pretrained(runs[method]).state_dict()
    assert all(torch.equal(opened[name], value) for name, value in saved.items())


def test_a_decoder_trained_in_bf16_is_saved_in_full(tiny_base, phantoms, tmp_path):
    made = recipe(tiny_base, "decoder", phantoms, tmp_path / "run", optim={"mixed_precision": "bf16", "epochs": 1})
    folder = loop.train(made, show_progress=False).folder
    saved, base = load_file(folder / "model.safetensors"), SamModel.from_pretrained(tiny_base).state_dict()
    assert all(torch.equal(v, base[n]) for n, v in saved.items() if n.startswith("vision_encoder"))
    opened = MSAModel.from_pretrained(folder)
    assert {p.dtype for p in opened.parameters()} == {torch.float32}


def test_the_card_names_the_method(runs):
    texts = {method: (folder / "README.md").read_text() for method, folder in runs.items()}
    assert "A LoRA (" in texts["lora"] and "rank 8" in texts["lora"] and "lora" in tags(texts["lora"])
    assert "image encoder and mask decoder" in texts["full"] and "mask decoder was fine-tuned" in texts["decoder"]
    assert not {"peft", "msa-adapter"} & set(tags(texts["full"]))
    assert all("A Medical SAM Adapter" not in text for text in texts.values())


def tags(text):
    return yaml.safe_load(text.split("---")[1])["tags"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resume_goes_on_exactly(tiny_base, phantoms, runs, tmp_path, monkeypatch, method):
    folder = tmp_path / "stopped"
    original = loop._Run._checkpoint

    def stop_after_one(self, *args):
        original(self, *args)
        if self.progress.epochs_done == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(tiny_base, method, phantoms, folder), show_progress=False)
    loop.train(recipe(tiny_base, method, phantoms, folder), resume=True, show_progress=False)
    whole, resumed = (load_checkpoint(f)["model"] for f in (runs[method], folder))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_full_repo_may_hold_a_lora(tiny_base, inputs_for, tmp_path):
    model, _ = lora_pair(tiny_base)
    model.save_pretrained(tmp_path, full=True)
    inputs = inputs_for("2D")
    with torch.no_grad():
        torch.testing.assert_close(
            MSAModel.from_pretrained(tmp_path)(**inputs).pred_masks, model(**inputs).pred_masks, rtol=1e-5, atol=1e-6
        )


# -- starting from a run -----------------------------------------------------------------------------------------------


def test_a_lora_goes_on_from_a_lora(tiny_base, phantoms, runs, tmp_path):
    made = recipe(runs["lora"], "lora", phantoms, tmp_path / "further", optim={"learning_rate": 0.0, "epochs": 1})
    loop.train(made, show_progress=False)
    old, new = (load_file(f / "adapter_model.safetensors") for f in (runs["lora"], tmp_path / "further"))
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    stored = json.loads((tmp_path / "further" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tiny_base)
    made.model.lora = {"r": 4}
    with pytest.raises(CheckpointError, match="another form"):
        loop.train(made, show_progress=False, overwrite=True)


@pytest.mark.parametrize("method", ["msa", "decoder", "full"])
def test_another_method_does_not_start_from_a_lora(runs, method):
    with pytest.raises(CheckpointError, match="cannot start from an adapter of method lora") as caught:
        starting_point(recipe(runs["lora"], method))
    assert "--model.method lora" in caught.value.hint


def test_a_lora_does_not_start_from_an_msa_run(tiny_base, tmp_path):
    MSAModel.from_base(tiny_base, MSAAdapterConfig()).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="method msa"):
        starting_point(recipe(tmp_path, "lora"))
    starting_point(recipe(tmp_path, "msa"))


def test_an_adapter_s_whole_form_is_gone_on_with(tiny_base, tmp_path):
    """Each field that its weights depend on; see methods.FORM."""
    form = {
        "bottleneck_ratio": 0.25, "use_decoder": False, "use_depth": True, "num_slices": 3, "swap_clicks": True,
        "compatibility": "official", "relative_positions": "windowed", "encoder_layers": [1, 2],
    }  # fmt: skip
    MSAModel.from_base(tiny_base, MSAAdapterConfig(**form)).save_pretrained(tmp_path)
    config = starting_point(recipe(tmp_path, "msa")).config
    assert {name: getattr(config, name) for name in form} == form


def test_every_method_starts_from_a_fine_tuned_sam(runs):
    for method in ("msa", "lora", "decoder", "full"):
        start = starting_point(recipe(runs["full"], method))
        model = MSAModel.from_base(start.base)
        make_trainable(model, start.config, method)
        assert model.base_name == str(runs["full"])


@pytest.mark.parametrize("method", ["msa", "lora", "decoder", "full"])
def test_a_base_with_adapters_inside_is_refused(tiny_base, tmp_path, method):
    MSAModel.from_base(tiny_base, MSAAdapterConfig()).save_pretrained(tmp_path, full=True)
    start = starting_point(recipe(tmp_path, method))
    with pytest.raises(CheckpointError, match="adapter"):
        make_trainable(MSAModel.from_base(start.base), start.config, method)


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_in_the_recipe_are_named(tiny_base):
    with pytest.raises(RecipeError, match="msa, lora, decoder, full"):
        recipe(tiny_base, "loraa")
    with pytest.raises(RecipeError, match="only MSA's adapters have"):
        recipe(tiny_base, "lora", prompts={"text": 1})
    with pytest.raises(RecipeError, match=r"data\.chunk_slices"):
        recipe(tiny_base, "full", data={"chunk_slices": 0})
    with pytest.raises(RecipeError, match=r"did you mean model\.lora\.lora_alpha"):
        make_lora_config({"lora_alfa": 3})
    for hidden in ("peft_type", "base_model_name_or_path", "inference_mode"):
        with pytest.raises(RecipeError, match="unknown key"):
            make_lora_config({hidden: "x"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"encoder_layers": [0, 99]}, "0 to 2"),
        ({"encoder_layers": [-1]}, "0 to 2"),
        ({"decoder_layers": [2]}, "0 to 1"),
    ],
)
def test_adapters_of_blocks_that_are_not_there(tiny_base, fields, expected):
    with pytest.raises(RecipeError, match=f"model.adapter.{next(iter(fields))} names") as caught:
        model_of(tiny_base, "msa", adapter=fields)
    assert caught.value.expected == expected


@pytest.mark.parametrize("fields", [{"target_modules": ["no_such_layer"]}, {"r": 0}, {"r": "eight"}])
def test_a_lora_that_peft_cannot_add(tiny_base, fields):
    with pytest.raises(RecipeError, match=r"model\.lora does not fit"):
        model_of(tiny_base, "lora", lora=fields)


KINDS = {
    "msa": "adapter_model.safetensors adapter_config.json", "lora": "adapter_model.safetensors adapter_config.json",
    "decoder": "model.safetensors config.json", "full": "model-00001-of-00002.safetensors config.json",
    "resunet": "network.safetensors network.json",
}  # fmt: skip


@pytest.mark.parametrize("method", KINDS)
def test_two_kinds_of_models_do_not_mix_in_a_folder(tiny_base, phantoms, tmp_path, method):
    for other, files in KINDS.items():
        folder = tmp_path / other
        folder.mkdir()
        for name in files.split():
            (folder / name).write_text("")
        made = recipe(tiny_base, method, phantoms, folder)
        if files.split()[1] == KINDS[method].split()[1]:
            check_run_folder(made)
            continue
        for overwrite in (False, True):
            with pytest.raises(RecipeError, match="another kind") as caught:
                loop.train(made, show_progress=False, overwrite=overwrite)
            assert caught.value.hint
        assert {file.name for file in folder.iterdir()} == set(files.split())


@pytest.mark.parametrize("method", KINDS)
def test_no_run_writes_over_its_own_base(tmp_path, phantoms, method):
    with pytest.raises(RecipeError, match="own base"):
        loop.train(recipe(tmp_path, method, phantoms, tmp_path), show_progress=False)
