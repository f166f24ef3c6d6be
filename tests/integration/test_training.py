"""A whole run on phantoms with a tiny SAM: folder, resume, three doors, evaluation, card."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from medsam_adapter import MSAAdapterConfig, MSAModel, MSAPredictor
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import CheckpointError, DataError, MSAError, RecipeError
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.training import loop
from medsam_adapter.training.checkpoint import load_checkpoint
from medsam_adapter.training.progress import Progress
from medsam_adapter.training.recipe import make_recipe
from medsam_adapter.training.setup import make_model, open_data


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 5, shape_zyx=(12, 48, 48))


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps one state for each process; each run here is a process of its own in real life."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe(phantoms, tiny_base, output, **optim):
    return make_recipe(
        {
            "name": "test",
            "model": {"base": str(tiny_base), "adapter": {"use_depth": True, "num_slices": 4, "bottleneck_ratio":
            0.25}}, "data": {
                "path": str(phantoms), "intensity": "ct:soft-tissue", "targets": ["liver", "spleen"],
                "val_fraction": 0.2, "test_fraction": 0.2,
            },
            "optim": {"epochs": 3, "batch_size": 2, "learning_rate": 2e-3, **optim},
            "run": {"output": str(output)},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(phantoms, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    loop.train(recipe(phantoms, tiny_base, folder), show_progress=False)
    return folder


def test_the_run_folder_is_an_adapter_repo(finished):
    names = {file.name for file in finished.iterdir()}
    assert names == {
        "config.json", "adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "README.md",
        "recipe.yaml", "versions.json", "data.json", "split.json", "metrics.jsonl", "best.json", "checkpoints",
    }  # fmt: skip
    assert (finished / "adapter_model.safetensors").stat().st_size < 300_000
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and all(0 <= row["val_dice"] <= 1 for row in rows)
    best = json.loads((finished / "best.json").read_text())
    assert best["val_dice"] == max(row["val_dice"] for row in rows)


def test_a_run_says_first_what_it_learns_from(phantoms, tiny_base, tmp_path, capsys):
    shutil.copytree(phantoms, tmp_path / "set")
    index = json.loads((tmp_path / "set/dataset.json").read_text())
    del index["training"][1]["label"]
    (tmp_path / "set/dataset.json").write_text(json.dumps(index))
    loop.train(recipe(tmp_path / "set", tiny_base, tmp_path / "run", epochs=1))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("No label map for 1 of 5 images (phantom_001)") for line in lines), lines
    assert "2 cases to train on, 1 to validate, 1 to test: drawn by patient with seed 0." in lines


def test_the_cases_on_the_card_are_those_that_were_used(phantoms, tiny_base, tmp_path, capsys):
    """A split names more: a case without a label map, one that shows no target, those beyond data.max_val_cases."""
    shutil.copytree(phantoms, tmp_path / "set")
    index = json.loads((tmp_path / "set/dataset.json").read_text())
    del index["training"][0]["label"]
    (tmp_path / "set/dataset.json").write_text(json.dumps(index))
    empty = tmp_path / "set" / index["training"][1]["label"]
    nib.save(nib.Nifti1Image(np.zeros((48, 48, 12), np.uint8), nib.load(empty).affine), empty)
    names = [f"phantom_{number:03d}" for number in range(5)]
    (tmp_path / "split.json").write_text(json.dumps({"train": names[:3], "val": names[3:4], "test": names[4:]}))
    made = recipe(tmp_path / "set", tiny_base, tmp_path / "run", epochs=1)
    made.data.split, made.data.max_val_cases = str(tmp_path / "split.json"), 0
    loop.train(made)
    left_out = "1 of 2 cases show no target and are left out: phantom_001."
    assert left_out in capsys.readouterr().err.splitlines()
    assert json.loads((tmp_path / "run/data.json").read_text())["cases"] == {"train": 1, "val": 0, "test": 1}
    assert "cases: train 1, test 1" in (tmp_path / "run/README.md").read_text()


def test_the_card_says_what_is_in_the_folder(finished):
    text = (finished / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert "msa-adapter" in metadata["tags"]
    assert "liver, spleen" in text and f"{json.loads((finished / 'best.json').read_text())['val_dice']:.3f}" in text


def test_a_run_opens_and_knows_its_labels_and_intensity(finished):
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    assert predictor.model.config.id2label == {0: "background", 1: "liver", 2: "spleen"}
    assert predictor.processor.intensity == "ct:soft-tissue" and predictor.model.config.num_slices == 4


def test_resume_goes_on_exactly(phantoms, tiny_base, finished, tmp_path, monkeypatch):
    """Stopped after the second epoch and resumed: the same adapter to the bit."""
    folder = tmp_path / "stopped"
    original = loop._Run._checkpoint

    def stop_after_two(self, *args):
        original(self, *args)
        if self.progress.epochs_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(phantoms, tiny_base, folder), show_progress=False)
    loop.train(recipe(phantoms, tiny_base, folder), resume=True, show_progress=False)
    whole, resumed = (load_checkpoint(f) for f in (finished, folder))
    assert all(torch.equal(whole["model"][k], resumed["model"][k]) for k in whole["model"])
    strip = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in
              (f / "metrics.jsonl").read_text().splitlines()] for f in (finished, folder)]  # fmt: skip
    assert strip[0] == strip[1]


def test_resume_without_a_checkpoint_or_with_another_model_is_refused(phantoms, tiny_base, finished, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        loop.train(recipe(phantoms, tiny_base, tmp_path / "none"), resume=True, show_progress=False)
    other = recipe(phantoms, tiny_base, tmp_path / "other")
    shutil.copytree(finished / "checkpoints", tmp_path / "other" / "checkpoints")
    other.model.adapter["bottleneck_ratio"] = 0.5
    with pytest.raises(CheckpointError, match="another model"):
        loop.train(other, resume=True, show_progress=False)


def test_evaluation_stores_its_prompts_and_repeats(phantoms, finished, tmp_path, tiny_base):
    opened = open_data(recipe(phantoms, tiny_base, tmp_path).data)
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    results = [
        evaluate(predictor, opened.dataset, opened.test, model_name="m", protocol="3-points", targets=["liver"], seed=s)
        for s in (1, 1)
    ]
    assert results[0].cases[0].metrics == results[1].cases[0].metrics
    prompts = results[0].cases[0].prompts
    sample = opened.dataset.read(opened.test[0])
    for x, y, z in prompts["points"]:
        assert sample.labels[int(z), int(y), int(x)] == 1  # every click of the file frame lies in the liver
    assert len({z for _, _, z in prompts["points"]}) == 3


def test_a_loss_that_is_not_a_number_stops_with_the_cases(phantoms, tiny_base, tmp_path, monkeypatch):
    from medsam_adapter.training.objective import PromptedObjective

    def broken(self, *args):
        return {"loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(PromptedObjective, "forward", broken)
    with pytest.raises(MSAError, match="phantom_"):
        loop.train(recipe(phantoms, tiny_base, tmp_path / "nan"), show_progress=False)


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    phantoms, tiny_base, tmp_path, monkeypatch
):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    made = recipe(phantoms, tiny_base, tmp_path / "x")
    made.run.tracker = "wandb"
    with pytest.raises(RecipeError, match="wandb is not installed"):
        loop.train(made, show_progress=False)
    assert not (tmp_path / "x").exists()


def test_an_unknown_target_is_named(phantoms, tiny_base, tmp_path):
    wrong = recipe(phantoms, tiny_base, tmp_path / "x")
    wrong.data.targets = ["lung"]
    with pytest.raises(DataError, match="lung"):
        loop.train(wrong, show_progress=False)


@pytest.mark.parametrize(
    "changes", [{"gradient_accumulation": 2}, {"mixed_precision": "bf16"}, {"gradient_checkpointing": True}]
)
def test_recipe_switches_train(phantoms, tiny_base, tmp_path, changes):
    result = loop.train(recipe(phantoms, tiny_base, tmp_path / "run", epochs=1, **changes), show_progress=False)
    assert np.isfinite(result.best_dice)
    MSAModel.from_pretrained(result.folder)


def test_a_python_process_trains_in_one_precision_and_then_in_another(phantoms, tiny_base, tmp_path):
    for number, precision in enumerate(["no", "bf16", "no"]):
        made = recipe(phantoms, tiny_base, tmp_path / str(number), epochs=1, mixed_precision=precision)
        loop.train(made, show_progress=False)
        assert AcceleratorState().mixed_precision == precision


@pytest.mark.parametrize("method", ["msa", "resunet"])
def test_flip_mirrors_left_and_right_or_nothing(phantoms, tiny_base, tmp_path, method):
    made = recipe(phantoms, tiny_base, tmp_path / "run", epochs=1)
    made.model.method, made.model.size, made.data.flip, made.data.orientation = method, "tiny", True, "PIL"
    with pytest.raises(RecipeError, match="flip mirrors left and right"):
        loop.train(made, show_progress=False)
    made.data.augment = False  # then it has no effect
    loop.train(made, show_progress=False)


def test_all_steps_of_an_update_weigh_the_same(phantoms, tiny_base, tmp_path, monkeypatch):
    """Three steps, two to an update: Accelerate halves each loss, also that of the step which is an update alone."""
    seen, weighed = [], []
    add, backward = Progress.add, Accelerator.backward
    monkeypatch.setattr(Progress, "add", lambda self, out: seen.append(out["loss"].item()) or add(self, out))
    monkeypatch.setattr(Accelerator, "backward", lambda self, x: weighed.append(x.item()) or backward(self, x))
    made = recipe(phantoms, tiny_base, tmp_path, epochs=2, batch_size=1, gradient_accumulation=2)
    loop.train(made, show_progress=False)
    assert np.array(weighed) / np.array(seen) == pytest.approx([1, 1, 2] * 2)


@pytest.mark.parametrize("place", [{"use_encoder": False, "use_depth": False}, {"encoder_layers": [2]}])
def test_kept_features_train_the_same_adapter(phantoms, tiny_base, tmp_path, place):
    """Without and with a feature cache, and again from the filled cache: the same weights up to rounding."""
    trained = []
    for name, cache in [("plain", None), ("first", "features"), ("second", "features")]:
        made = recipe(phantoms, tiny_base, tmp_path / name, epochs=2)
        made.model.adapter.update(place)
        made.data.augment, made.data.feature_cache = False, str(tmp_path / cache) if cache else None
        loop.train(made, show_progress=False)
        trained.append(load_checkpoint(tmp_path / name)["model"])
        AcceleratorState._reset_state(reset_partial_state=True)
    plain, first, second = trained
    assert len(list((tmp_path / "features").iterdir())) == 4  # three training cases and one to validate on
    for name, weights in plain.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weights, rtol=0.05, atol=1e-3)


def test_a_feature_cache_that_cannot_help_is_refused(phantoms, tiny_base, tmp_path):
    useless = recipe(phantoms, tiny_base, tmp_path / "x")
    useless.data.augment, useless.data.feature_cache = False, str(tmp_path / "features")
    with pytest.raises(RecipeError, match="nothing to keep"):
        loop.train(useless, show_progress=False)
    with pytest.raises(RecipeError, match="augment"):
        make_recipe({"data": {"feature_cache": "features"}})


def test_training_goes_on_from_an_adapter_as_base(phantoms, tiny_base, finished, tmp_path):
    """`--base RUN`: the new adapter has RUN's form and starts from its weights, on RUN's base."""
    made = recipe(phantoms, tiny_base, tmp_path / "further", epochs=1, learning_rate=0.0)
    made.model.base, made.model.adapter = str(finished), {}
    loop.train(made, show_progress=False)
    old, new = (load_file(f / "adapter_model.safetensors") for f in (finished, tmp_path / "further"))
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    stored = json.loads((tmp_path / "further" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == str(tiny_base) and stored["bottleneck_ratio"] == 0.25
    made.model.adapter = {"bottleneck_ratio": 0.5}
    with pytest.raises(CheckpointError, match="another form"):
        loop.train(made, show_progress=False, overwrite=True)


def test_an_adapter_as_base_may_lack_parts(phantoms, tiny_base, tmp_path):
    """Encoder adapters, as self-supervised pre-training makes them; decoder adapters start at zero."""
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig(use_decoder=False, bottleneck_ratio=0.25))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.constant_(parameter, 0.01)
    model.save_pretrained(tmp_path / "encoder")
    made = recipe(phantoms, tiny_base, tmp_path / "run")
    made.model.base, made.model.adapter = str(tmp_path / "encoder"), {"use_decoder": True}
    got = dict(make_model(made, open_data(made.data).dataset).named_parameters())
    encoder = [value for name, value in got.items() if "msa_adapter_" in name and name.startswith("vision_encoder")]
    ups = [v for name, v in got.items() if name.startswith("mask_decoder") and ".up." in name and "msa_adapter" in name]
    assert encoder and all((value == 0.01).all() for value in encoder)
    assert ups and all((value == 0).all() for value in ups)
