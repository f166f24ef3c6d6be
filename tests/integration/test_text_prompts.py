"""Text prompts from the recipe to the label map: training, resume, evaluation, `msa predict --text`."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from medsam_adapter import MSAPredictor, MSAProcessor
from medsam_adapter.cli.main import run
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import DataError, PromptError, RecipeError
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.inference.prompted_slices import TextRules
from medsam_adapter.inference.volume import CarryRules
from medsam_adapter.prompts.text import load_text_encoder
from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.text_sampler import TextShares
from medsam_adapter.training import loop
from medsam_adapter.training.checkpoint import load_checkpoint
from medsam_adapter.training.recipe import make_recipe
from medsam_adapter.training.setup import make_text_sampler, open_data

TARGETS = ["liver", "spleen", "left kidney"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 5, shape_zyx=(12, 48, 48))


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def recipe(phantoms, base, output, **prompts):
    return make_recipe(
        {
            "name": "spoken",
            "model": {"base": str(base), "adapter": {"use_depth": True, "num_slices": 4, "bottleneck_ratio": 0.25}},
            "data": {
                "path": str(phantoms), "intensity": "ct:soft-tissue", "targets": TARGETS, "val_fraction": 0.2,
                "test_fraction": 0.2, "workers": 0,
            },
            "prompts": {"click": 0.5, "text": 1, "text_and_click": 0.5, **prompts},
            "text": {"model": "clip-tiny"},
            "optim": {"epochs": 2, "batch_size": 2, "learning_rate": 2e-3},
            "run": {"output": str(output), "validate_prompts": "text"},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(phantoms, tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "spoken"
    loop.train(recipe(phantoms, tiny_base, folder), show_progress=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def test_the_run_takes_texts_wherever_it_is_opened(finished):
    adapter = json.loads((finished / "adapter_config.json").read_text())
    assert (adapter["use_text"], adapter["text_model"], adapter["text_width"]) == (True, "clip-tiny", 128)
    assert MSAProcessor.from_pretrained(finished).text_model == "clip-tiny"
    assert 'predict(text="the liver")' in (finished / "README.md").read_text()
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert all("val_dice" in row for row in rows) and any("dice_text" in row for row in rows)
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    inputs = predictor.processor(np.zeros((40, 60), np.uint8) + 7, input_texts=["the spleen", "the liver"])
    with torch.no_grad():
        by_tensor = predictor.model(**{k: inputs[k] for k in ("pixel_values", "input_texts")}).pred_masks
        by_string = predictor.model(pixel_values=inputs["pixel_values"], input_texts=["the spleen", "the liver"])
    assert torch.equal(by_tensor, by_string.pred_masks)


def test_resume_goes_on_exactly(phantoms, tiny_base, finished, tmp_path, monkeypatch):
    original = loop._Run._checkpoint

    def stop(self, *args):
        original(self, *args)
        if self.progress.epochs_done == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe(phantoms, tiny_base, tmp_path), show_progress=False)
    loop.train(recipe(phantoms, tiny_base, tmp_path), resume=True, show_progress=False)
    whole, resumed = (load_checkpoint(f)["model"] for f in (finished, tmp_path))
    assert any("msa_adapter_text" in name for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# -- evaluation --------------------------------------------------------------------------------------------------------


def evaluated(finished, phantoms, tiny_base, protocol, **more):
    opened = open_data(recipe(phantoms, tiny_base, finished).data)
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    return evaluate(
        predictor, opened.dataset, opened.test, model_name="m", protocol=protocol, targets=TARGETS, **more
    )  # fmt: skip


def test_evaluation_says_held_out_sentences_and_repeats(finished, phantoms, tiny_base):
    bank = TextBank.load()
    first, again, other = (evaluated(finished, phantoms, tiny_base, "text", seed=s) for s in (0, 0, 1))
    said = [case.prompts["text"] for case in first.cases]
    assert said == [case.prompts["text"] for case in again.cases] != [case.prompts["text"] for case in other.cases]
    for case in first.cases:
        assert case.prompts["text"] in bank.targets[case.target].held_out
    assert [case.metrics for case in first.cases] == [case.metrics for case in again.cases]


def test_a_sentence_of_several_is_scored_against_their_union(finished, phantoms, tiny_base):
    kept = []
    result = evaluated(finished, phantoms, tiny_base, "text-union", keep=kept.append)
    assert {case.target for case in result.cases} >= {"liver + spleen", "liver + left kidney", "spleen + left kidney"}
    opened = open_data(recipe(phantoms, tiny_base, finished).data)
    labels = opened.dataset.read(opened.test[0]).labels
    values = {name: value for value, name in opened.dataset.label_names.items()}
    for done in kept:
        np.testing.assert_array_equal(
            done.reference, np.isin(labels, [values[name] for name in done.result.target.split(" + ")])
        )


def test_absent_things_have_an_empty_reference(finished, phantoms, tiny_base):
    result = evaluated(finished, phantoms, tiny_base, "text-absent")
    absent = TextBank.load().for_labels(TARGETS).absent.held_out
    assert len(result.cases) == 4 and {case.metrics.status for case in result.cases} <= {"both_empty", "false_positive"}
    assert all(case.prompts["text"] in absent for case in result.cases)


def test_a_target_the_case_does_not_show_is_asked_for(finished, phantoms, tiny_base, monkeypatch):
    from medsam_adapter.data.layouts import Dataset

    original = Dataset.read_labels
    monkeypatch.setattr(Dataset, "read_labels", lambda self, *a: np.where((m := original(self, *a)) == 2, 0, m))
    by_text, by_click = (evaluated(finished, phantoms, tiny_base, p) for p in ("text", "1-point"))
    spleen = {name: [c for c in r.cases if c.target == "spleen"][0] for name, r in (("t", by_text), ("c", by_click))}
    assert spleen["t"].prompts["text"] and spleen["t"].metrics.status in ("both_empty", "false_positive")
    assert spleen["c"].prompts == {} and spleen["c"].metrics.status == "both_empty"


# -- prediction --------------------------------------------------------------------------------------------------------


def test_texts_make_one_label_map(finished, phantoms, tmp_path, capsys):
    scan, out = phantoms / "imagesTr" / "phantom_000.nii.gz", tmp_path / "seg.nii.gz"
    texts = ["the liver", "the spleen"]
    command = ["predict", str(finished), str(scan), "-o", str(out), "--json"]
    assert run([*command, "--text", texts[0], "--text", texts[1]]) == 0
    facts = json.loads(capsys.readouterr().out)
    image, saved = nib.load(scan), nib.load(out)
    np.testing.assert_array_equal(saved.affine, image.affine)
    labels = np.asarray(saved.dataobj).transpose(2, 1, 0)
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    predictor.set_volume(image)
    logits = np.stack([predictor.predict(text=text, return_logits=True) for text in texts])
    np.testing.assert_array_equal(labels, np.where(logits.max(0) > 0, logits.argmax(0) + 1, 0))
    assert [(e["label"], e["text"], e["voxels"]) for e in facts["labels"]] == [
        (i, text, int((labels == i).sum())) for i, text in enumerate(texts, 1)
    ]


def test_the_least_score_decides_what_is_found(finished, phantoms, tmp_path, capsys):
    scan = phantoms / "imagesTr" / "phantom_000.nii.gz"
    command = ["predict", str(finished), str(scan), "-o", str(tmp_path / "o.nii.gz"), "--text", "liver"]
    assert run([*command, "--min-score", "1"]) == 0
    assert "not found; --min-score" in capsys.readouterr().out
    assert run([*command, "--text", "liver", "--min-score", "0"]) == 0  # the second lies under the first
    said = capsys.readouterr().out
    assert said.count("not found") == 1 and "under another label" in said and "--min-score" not in said
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    predictor.set_volume(nib.load(scan))
    logits = {}
    for least in (-9.0, 9.0):  # scores of a model this young are anything
        predictor.text_rules = TextRules(least, least)
        logits[least] = predictor.predict(text="liver", return_logits=True)
    assert (logits[9.0] < -9).all() and (logits[-9.0] > -9).any()


def test_a_text_beside_a_click(finished, phantoms, tmp_path, capsys):
    scan, out = phantoms / "imagesTr" / "phantom_000.nii.gz", tmp_path / "seg.nii.gz"
    command = ["predict", str(finished), str(scan), "-o", str(out), "--json", "--point", "14,20,6"]
    assert run([*command, "--text", "the liver"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"]["text"] == "the liver"
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    predictor.set_volume(nib.load(scan))
    with_text, other, without = (
        predictor.predict(points=[(14, 20, 6)], text=text, return_logits=True) for text in ("the liver", "aorta", "")
    )
    assert not np.array_equal(with_text, without) and not np.array_equal(with_text, other)
    np.testing.assert_array_equal(np.asarray(nib.load(out).dataobj).transpose(2, 1, 0) > 0, with_text > 0)


def test_a_text_beside_a_click_is_said_on_every_slice(finished, phantoms, monkeypatch):
    from medsam_adapter.inference import prompted_slices, volume

    said = []
    for module in (prompted_slices, volume):
        original = module.decode_masks
        monkeypatch.setattr(
            module, "decode_masks", lambda *a, o=original, **k: said.append((len(a[1]), k["input_texts"])) or o(*a, **k)
        )
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    predictor.set_volume(nib.load(phantoms / "imagesTr" / "phantom_000.nii.gz"))
    predictor.predict(points=[(14, 20, 6), (14, 20, 9)], text="the liver", rules=CarryRules(10**-9, 99, 10**6, 0))
    assert len(said) > 2  # both clicked slices, and some on the way
    want = load_text_encoder("clip-tiny")(["the liver"])
    for count, texts in said:
        assert torch.equal(texts, want[None].expand(count, 1, -1))


def test_objects_of_all_kinds_together(finished, phantoms):
    """Each gets what it gets alone."""
    from medsam_adapter.prompts.types import ObjectPrompt

    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    encoded = predictor.encode(nib.load(phantoms / "imagesTr" / "phantom_000.nii.gz"))
    click = dict(points=[(14, 20, 6)], labels=[1])
    prompts = [ObjectPrompt(text="spleen"), ObjectPrompt(**click), ObjectPrompt(**click, text="liver")]
    prompts.append(ObjectPrompt(text="liver"))
    together = predictor.predict_objects(encoded, prompts)
    for i, prompt in enumerate(prompts):
        np.testing.assert_allclose(together[i], predictor.predict_objects(encoded, [prompt])[0], atol=1e-4)


def test_a_picture_takes_texts(finished):
    predictor = MSAPredictor.from_pretrained(finished, device="cpu")
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8))
    assert predictor.predict(text="the spleen").shape == (40, 60)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--text", "liver", "--text", "spleen", "--point", "3,3,3"], "one --text beside them"),
        (["--text", " "], "a text prompt is empty"),
        (["--text", "spleen " * 90], "longer than the text model's window"),
    ],
)
def test_texts_that_cannot_be_used(finished, phantoms, tmp_path, capsys, extra, said):
    scan = phantoms / "imagesTr" / "phantom_000.nii.gz"
    assert run(["predict", str(finished), str(scan), "-o", str(tmp_path / "o.nii.gz"), *extra]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not list(tmp_path.iterdir())


def test_a_model_without_texts(phantoms, tmp_path, capsys):
    scan, data = phantoms / "imagesTr" / "phantom_000.nii.gz", phantoms
    command = ["predict", "sam-tiny", str(scan), "-o", str(tmp_path / "o.nii.gz"), "--intensity", "ct:soft-tissue"]
    assert run([*command, "--text", "liver"]) == 2
    assert "takes no text prompts" in capsys.readouterr().err
    command = ["evaluate", "sam-tiny", "--data", str(data), "--prompts", "text", "--intensity", "ct:soft-tissue"]
    assert run([*command, "-o", str(tmp_path / "o")]) == 2
    assert "takes no text prompts" in capsys.readouterr().err and not list(tmp_path.iterdir())


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_recipes_that_make_no_sense(phantoms, tiny_base, tmp_path):
    silent = dict.fromkeys(["click", "clicks", "box", "box_and_click", "neighbour", "text", "text_and_click"], 0)
    with pytest.raises(RecipeError, match="no kind of prompt"):
        recipe(phantoms, tiny_base, tmp_path, **silent)
    with pytest.raises(RecipeError, match="validate_prompts"):
        recipe(phantoms, tiny_base, tmp_path, text=0, text_and_click=0)
    with pytest.raises(RecipeError, match="text.union"):
        make_recipe({"text": {"union": 1.5}})
    with pytest.raises(RecipeError, match="prompts.text is out of range"):
        make_recipe({"prompts": {"text": -1}})
    wrong = recipe(phantoms, tiny_base, tmp_path)
    wrong.run.validate_prompts = "5-boxes"
    with pytest.raises(PromptError, match="unknown kind"):
        loop.train(wrong, show_progress=False)
    wrong = recipe(phantoms, tiny_base, tmp_path)
    wrong.text.bank = str(tmp_path / "nowhere.yaml")
    with pytest.raises(DataError, match="nowhere.yaml"):
        loop.train(wrong, show_progress=False)


def test_labels_without_names_cannot_be_named(phantoms, tiny_base, tmp_path):
    made = recipe(phantoms, tiny_base, tmp_path)
    dataset = open_data(made.data).dataset
    dataset.label_names, dataset.instances = {}, True
    made.data.targets = None
    with pytest.raises(DataError, match="no names"):
        make_text_sampler(made, dataset)
    notes = []
    made.text.elsewhere, made.text.union, made.text.absent = 0.1, 0.2, 0.3
    dataset.label_names, dataset.instances = {1: "liver", 2: "gadget"}, False
    sampler = make_text_sampler(made, dataset, notes.append)
    assert sampler.shares == TextShares(0.1, 0.2, 0.3)
    assert len(notes) == 1 and "gadget" in notes[0] and "Segment the gadget." in sampler.sentences
