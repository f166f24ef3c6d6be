"""Several adapters in one model: loaded beside each other, switched, chosen for one call; the predictor's caches."""

from __future__ import annotations

import json
import statistics
import threading
import time

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.switching import active_adapters
from medsam_adapter.errors import CheckpointError
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt

LIVER, BRAIN = {0: "background", 1: "liver"}, {0: "background", 1: "brain tumor"}


@pytest.fixture
def runs(shipped, make_run):
    """Two adapters on one base: 2-D with percentiles, and 3-D with a CT window and other labels."""
    liver = make_run("msa-liver", seed=1, labels=LIVER)
    brain = make_run("msa-brain", seed=2, labels=BRAIN, use_depth=True, intensity="ct:brain")
    return {"liver": liver, "brain": brain}


@pytest.fixture
def model(runs):
    model = MSAModel.from_pretrained(runs["liver"], adapter_name="liver")
    model.load_adapter(runs["brain"], adapter_name="brain")
    return model


@torch.no_grad()
def masks(model, inputs, **kwargs):
    return model(**inputs, **kwargs).pred_masks


def alone(folder, inputs):
    return masks(MSAModel.from_pretrained(folder), inputs)


def assert_same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", ["2D", "3D"])
def test_each_answers_as_if_it_were_alone(model, runs, inputs_for, dims):
    inputs = inputs_for(dims)
    want = {name: alone(folder, inputs) for name, folder in runs.items()}
    plain = masks(MSAModel.from_base("sam-tiny"), inputs)
    assert (want["liver"] - want["brain"]).abs().max() > 1e-3 < (want["liver"] - plain).abs().max()
    assert_same(masks(model, inputs), want["liver"])  # the first stays active
    for name in ("brain", "liver"):
        model.set_adapter(name)
        assert_same(masks(model, inputs), want[name])
        for other in want:
            assert_same(masks(model, inputs, adapter=other), want[other])
        assert_same(masks(model, inputs, adapter=()), plain)
        assert_same(masks(model, inputs), want[name])
        assert model.active_adapters() == [name] == active_adapters(model)


def test_encoder_methods_take_an_adapter_too(model, runs, inputs_for):
    pixels = inputs_for("3D")["pixel_values"]
    want = MSAModel.from_pretrained(runs["brain"]).get_image_embeddings(pixels)
    assert_same(model.get_image_embeddings(pixels, adapter="brain"), want)
    with torch.no_grad():
        assert_same(model.encode(pixels, adapter="brain"), want)


def test_labels_and_slices_go_with_the_adapter(model):
    assert model.config.id2label == LIVER and model.config.num_slices == 1
    with model.using_adapter("brain"):
        assert model.config.id2label == BRAIN and model.config.num_slices == 4
    assert model.config.id2label == LIVER and model.config.num_slices == 1
    model.set_adapter("brain")
    assert model.config.id2label == BRAIN and model.config.num_slices == 4
    model.set_adapter("liver")
    assert model.config.id2label == LIVER and model.config.num_slices == 1


def test_an_error_inside_switches_back(model, inputs_for):
    with pytest.raises(CheckpointError, match="no adapter 'heart'"):
        masks(model, inputs_for("2D"), adapter="heart")
    with pytest.raises(ZeroDivisionError), model.using_adapter("brain"):
        1 / 0  # noqa: B018
    assert active_adapters(model) == ["liver"] and model.config.id2label == LIVER


def test_switching_reads_no_file_and_moves_no_weight(model, runs, monkeypatch):
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    for folder in runs.values():
        (folder / "adapter_model.safetensors").unlink()
    model.set_adapter("brain"), model.set_adapter("liver")
    assert places == {name: p.data_ptr() for name, p in model.named_parameters()}


def test_switching_takes_less_than_10_ms(model):
    seconds = []
    for name in ["brain", "liver"] * 10:
        began = time.process_time()  # other work on the machine does not count
        model.set_adapter(name)
        seconds.append(time.process_time() - began)
    assert statistics.median(seconds) < 0.010


def test_nothing_is_trained_unless_it_was(model, runs):
    assert not any(p.requires_grad for p in model.parameters())
    model.set_adapter("brain")
    assert not any(p.requires_grad for p in model.parameters())
    trained = MSAModel.from_pretrained(runs["liver"], adapter_name="liver", is_trainable=True)
    trained.load_adapter(runs["brain"], adapter_name="brain")

    def names():
        return {name for name, p in trained.named_parameters() if p.requires_grad}

    assert names() and all(".liver." in name for name in names())
    before = names()
    with trained.using_adapter("brain"):
        assert names() == before
    trained.set_adapter("brain")
    assert names() and all(".brain." in name for name in names())
    trained.set_adapter("liver", is_trainable=False)
    assert not names()


def test_a_second_one_may_be_trained(model, runs):
    model.load_adapter(runs["liver"], adapter_name="more", is_trainable=True)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names and all(".more." in name for name in names) and model.active_adapters() == ["liver"]


def test_places_may_differ(shipped, make_run, inputs_for):
    """One adapter in the encoder's last block, one in the decoder only: neither leaks into the other."""
    runs = {
        "encoder": make_run("e", seed=3, use_decoder=False, encoder_layers=[2]),
        "decoder": make_run("d", seed=4, use_encoder=False),
        "all": make_run("a", seed=5),
    }
    inputs = inputs_for("2D")
    want = {name: alone(folder, inputs) for name, folder in runs.items()}
    for first in runs:
        model = MSAModel.from_pretrained(runs[first], adapter_name=first)
        for name in set(runs) - {first}:
            model.load_adapter(runs[name], adapter_name=name)
        assert_same(masks(model, inputs), want[first])
        for name in runs:
            assert_same(masks(model, inputs, adapter=name), want[name])
            model.set_adapter(name)
            assert_same(masks(model, inputs), want[name])
            assert model.active_adapters() == [name]


def test_mask_decoders_trained_whole_switch_as_well(shipped, make_run, inputs_for):
    runs = {
        "a": make_run("a", seed=3, train_mask_decoder=True),
        "b": make_run("b", seed=4, train_mask_decoder=True),
        "encoder": make_run("e", seed=5, use_decoder=False),
    }
    inputs = inputs_for("2D")
    want = {name: alone(folder, inputs) for name, folder in runs.items()}
    plain = masks(MSAModel.from_base("sam-tiny"), inputs)
    for first in runs:
        model = MSAModel.from_pretrained(runs[first], adapter_name=first)
        for name in set(runs) - {first}:
            model.load_adapter(runs[name], adapter_name=name)
        for name in [*runs, *runs]:
            assert_same(masks(model, inputs, adapter=name), want[name])
            model.set_adapter(name)
            assert_same(masks(model, inputs), want[name])
            assert_same(masks(model, inputs, adapter=()), plain)
            model.disable_adapters()
            assert_same(masks(model, inputs), plain)
            model.enable_adapters()
            assert_same(masks(model, inputs), want[name])


def test_saving_one_of_them(model, runs, inputs_for, tmp_path):
    model.save_pretrained(tmp_path / "brain", adapter_name="brain")
    saved = MSAModel.from_pretrained(tmp_path / "brain")
    assert_same(masks(saved, inputs_for("3D")), alone(runs["brain"], inputs_for("3D")))
    assert saved.config.id2label == BRAIN and saved.config.num_slices == 4 and model.config.id2label == LIVER


@pytest.mark.parametrize("active", ["liver", "brain", ["brain", "liver"]])
def test_a_full_repo_opens_with_the_adapters_that_were_active(model, inputs_for, tmp_path, active):
    model.set_adapter(active)
    want, labels = masks(model, inputs_for("2D")), model.config.id2label
    model.save_pretrained(tmp_path, full=True)
    for opened in (MSAModel.from_pretrained(tmp_path), model):
        assert opened.active_adapters() == sorted([active] if isinstance(active, str) else active)
        assert opened.config.id2label == labels
        assert_same(masks(opened, inputs_for("2D")), want)


def test_a_full_repo_of_before_opens_as_it_did(model, inputs_for, tmp_path):
    model.set_adapter("liver")  # the last by name
    model.save_pretrained(tmp_path, full=True)
    content = json.loads((tmp_path / "config.json").read_text())
    content.pop("active_adapters", None)
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert_same(masks(MSAModel.from_pretrained(tmp_path), inputs_for("2D")), masks(model, inputs_for("2D")))


def test_what_a_save_would_leave_out_is_said(model, tmp_path):
    model.set_adapter(["brain", "liver"])
    with pytest.raises(CheckpointError, match="several adapters are active"):
        model.save_pretrained(tmp_path / "one")
    with pytest.raises(CheckpointError, match="full save holds all"):
        model.save_pretrained(tmp_path / "one", full=True, adapter_name="brain")
    with pytest.raises(CheckpointError, match="no adapter 'heart'"):
        model.save_pretrained(tmp_path / "one", adapter_name="heart")
    assert not (tmp_path / "one").exists()
    model.save_pretrained(tmp_path / "one", adapter_name="brain")
    assert MSAModel.from_pretrained(tmp_path / "one").config.id2label == BRAIN


@pytest.mark.parametrize("is_trainable", [False, True])
def test_of_a_full_repo_only_the_active_adapter_is_trained_and_only_if_asked(model, tmp_path, is_trainable):
    model.save_pretrained(tmp_path, full=True)
    opened = MSAModel.from_pretrained(tmp_path, is_trainable=is_trainable)
    trained = {name for name, p in opened.named_parameters() if p.requires_grad}
    assert trained == ({name for name, _ in opened.named_parameters() if ".liver." in name} if is_trainable else set())


def test_the_first_adapter_of_a_plain_sam_becomes_active(runs, inputs_for):
    model = MSAModel.from_base("sam-tiny")
    model.load_adapter(runs["brain"])
    assert model.active_adapters() == ["default"] and model.config.id2label == BRAIN and model.config.num_slices == 4
    assert_same(masks(model, inputs_for("3D")), alone(runs["brain"], inputs_for("3D")))


def test_from_the_hub_by_revision(hub, runs, inputs_for):
    first = hub.add("org/msa", runs["liver"])
    hub.add("org/msa", runs["brain"])
    model = MSAModel.from_pretrained("org/msa", adapter_name="now")
    model.load_adapter("org/msa", adapter_name="before", revision=first)
    inputs = inputs_for("2D")
    assert_same(masks(model, inputs, adapter="before"), alone(runs["liver"], inputs))
    assert_same(masks(model, inputs), alone(runs["brain"], inputs))


# -- what does not fit -------------------------------------------------------------------------------------------------


def refused(model, folder, text, inputs, **kwargs) -> CheckpointError:
    """The model answers as before, and has neither a new adapter nor a new parameter."""
    before, names = masks(model, inputs), [name for name, _ in model.named_parameters()]
    with pytest.raises(CheckpointError, match=text) as caught:
        model.load_adapter(folder, **{"adapter_name": "new", **kwargs})
    assert torch.equal(masks(model, inputs), before) and [name for name, _ in model.named_parameters()] == names
    assert "new" not in model.peft_config and caught.value.hint
    return caught.value


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_of_another_width(model, make_run, tiny_sam, inputs_for, tmp_path):
    tiny_sam(hidden_size=64, num_heads=4).save_pretrained(tmp_path / "wide")
    run = make_run("wide", tmp_path / "wide")
    assert refused(model, run, "another base", inputs_for("2D")).found == str(tmp_path / "wide")
    assert "another shape" in refused(model, run, "does not fit", inputs_for("2D"), check_base=False).found


def test_of_another_base_of_the_same_form(model, make_run, tiny_sam, inputs_for, tmp_path):
    tiny_sam(seed=5).save_pretrained(tmp_path / "medsam")
    run = make_run("other", tmp_path / "medsam")
    assert "check_base=False" in refused(model, run, "another base", inputs_for("2D")).hint
    model.load_adapter(run, adapter_name="new", check_base=False)


def test_of_another_image_size(model, runs, inputs_for):
    config = json.loads((runs["brain"] / "config.json").read_text())
    config["vision_config"]["image_size"] = 96
    (runs["brain"] / "config.json").write_text(json.dumps(config))
    assert refused(model, runs["brain"], "another model frame", inputs_for("2D")).found == "96 pixels"


def test_a_damaged_one(model, runs, inputs_for):
    edit(runs["brain"], prompt_fusion="concat")
    assert "missing" in refused(model, runs["brain"], "does not fit its base", inputs_for("2D")).found


@pytest.mark.parametrize("name", ["liver", "a.b"])
def test_a_name_that_cannot_be(model, runs, name):
    with pytest.raises(CheckpointError, match="adapter name"):
        model.load_adapter(runs["brain"], adapter_name=name)


def test_a_whole_decoder_beside_adapters_in_it(model, make_run, inputs_for):
    run = make_run("whole", train_mask_decoder=True)
    refused(model, run, "does not fit into one model", inputs_for("2D"))
    other = MSAModel.from_pretrained(run)
    with pytest.raises(CheckpointError, match="does not fit into one model"):
        other.load_adapter(make_run("again"), adapter_name="new")


def test_an_unknown_name(model):
    for names in ("heart", ["liver", "heart"], []):
        with pytest.raises(CheckpointError) as caught:
            model.set_adapter(names)
        assert caught.value.expected == "liver, brain"


# -- the predictor -----------------------------------------------------------------------------------------------------

CLICK = {"points": [(5, 5, 3)]}


@pytest.fixture
def scan():
    data = np.random.default_rng(0).integers(-200, 300, (14, 11, 6)).astype(np.int16)
    return nib.Nifti1Image(data, np.diag([1.0, 1, 3, 1]))


@pytest.fixture
def predictor(model, runs):
    opened = MSAPredictor.from_pretrained(runs["liver"], "cpu", adapter_name="liver")
    opened.model.load_adapter(runs["brain"], adapter_name="brain")
    return opened


def answers(runs, scan, **kwargs) -> dict[str, np.ndarray]:
    """Of each adapter in a model and predictor of its own."""
    found = {}
    for name, folder in runs.items():
        own = MSAPredictor.from_pretrained(folder, "cpu")
        own.set_volume(scan)
        found[name] = own.predict(**CLICK, return_logits=True, **kwargs)
        own.clear()
    return found


def test_an_answer_does_not_depend_on_who_was_asked_before(predictor, runs, scan):
    """Encoder, decoder, intensity window and slices are all of the adapter that is asked."""
    want = answers(runs, scan)
    assert np.abs(want["liver"] - want["brain"]).max() > 1e-2
    predictor.set_volume(scan)
    for name in ("liver", "brain", "brain", "liver"):
        np.testing.assert_allclose(predictor.predict(**CLICK, return_logits=True, adapter=name), want[name], atol=1e-4)
    np.testing.assert_allclose(predictor.predict(**CLICK, return_logits=True), want["liver"], atol=1e-4)
    predictor.model.set_adapter("brain")
    np.testing.assert_allclose(predictor.predict(**CLICK, return_logits=True), want["brain"], atol=1e-4)
    predictor.clear()


def test_a_scan_is_encoded_once_for_each_adapter(predictor, monkeypatch):
    calls = []
    original = MSAModel.encode.__wrapped__

    def counted(self, *args, **kwargs):
        calls.append(active_adapters(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MSAModel, "encode", counted)
    predictor.set_image(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8))
    for name in ("liver", "brain", "liver", "brain"):
        predictor.predict(points=[(5, 5)], adapter=name)
    assert calls == [["liver"], ["brain"]]
    predictor.set_image(np.zeros((40, 60), np.uint8), adapter="brain")
    predictor.predict(points=[(5, 5)], adapter="brain")
    assert calls == [["liver"], ["brain"], ["brain"]]


def test_an_encoded_scan_is_answered_by_its_own_adapter(predictor, runs, scan):
    """`predict_objects` on a scan that was encoded under one adapter, after the model was switched to another."""
    want = answers(runs, scan)
    encoded = {name: predictor.encode(scan, adapter=name) for name in runs}
    prompt = ObjectPrompt([(5.0, 5.0, 3.0)], [1])
    for active in ("brain", "liver"):
        predictor.model.set_adapter(active)
        for name in runs:
            got = predictor.predict_objects(encoded[name], [prompt])[0]
            np.testing.assert_allclose(got, want[name], atol=1e-4)
        assert active_adapters(predictor.model) == [active]


def test_the_plain_sam_can_be_asked(predictor, scan):
    plain = MSAPredictor(MSAModel.from_base("sam-tiny"), predictor.processor, "cpu")
    plain.set_volume(scan)
    predictor.set_volume(scan)
    want = plain.predict(**CLICK, return_logits=True, carry=False)
    got = predictor.predict(**CLICK, return_logits=True, carry=False, adapter=())
    np.testing.assert_allclose(got, want, atol=1e-4)
    plain.clear(), predictor.clear()


def test_each_adapter_has_the_processor_of_its_repo(predictor):
    assert predictor.processor_of().intensity == "percentile" == predictor.processor.intensity
    assert predictor.processor_of("brain").intensity == "ct:brain" and predictor.processor_of(()) is predictor.processor


def test_clicks_while_the_background_encodes_for_another(predictor, runs):
    """The background belongs to one adapter; a click on another waits for it and neither mixes with the other."""
    data = np.random.default_rng(0).integers(-200, 300, (14, 11, 40)).astype(np.int16)
    scan = nib.Nifti1Image(data, np.diag([1.0, 1, 3, 1]))
    want = answers(runs, scan, carry=False)
    predictor.set_volume(scan)
    for name in ("liver", "brain", "liver", "brain", "liver"):
        got = predictor.predict(**CLICK, return_logits=True, carry=False, adapter=name)
        np.testing.assert_allclose(got, want[name], atol=1e-4)
    embeddings = predictor.encoded.embeddings
    embeddings._background.join(60)
    assert embeddings.num_encoded == 40 and active_adapters(predictor.model) == ["liver"]
    predictor.clear()


def test_an_unknown_adapter_or_no_scan(predictor, scan):
    predictor.set_volume(scan)
    with pytest.raises(CheckpointError, match="no adapter 'heart'"):
        predictor.predict(**CLICK, adapter="heart")
    predictor.clear()
    assert predictor.encoded is None


def test_kept_features_of_one_adapter_are_not_given_to_another(shipped, make_run, tmp_path):
    from medsam_adapter.inference.feature_store import FeatureStore

    late, decoder = make_run("late", seed=3, encoder_layers=[2]), make_run("decoder", seed=4, use_encoder=False)
    picture = np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)
    model = MSAModel.from_pretrained(late, adapter_name="late")
    processor = MSAProcessor.from_model(model, intensity="percentile")  # as the other's: the same pixels
    predictor = MSAPredictor(model, processor, "cpu", FeatureStore(tmp_path / "store", model))
    model.load_adapter(decoder, adapter_name="decoder")
    predictor.set_image(picture)
    alone = MSAPredictor.from_pretrained(decoder, "cpu")
    alone.set_image(picture)
    want = alone.predict(points=[(5, 5)], return_logits=True)
    np.testing.assert_allclose(
        predictor.predict(points=[(5, 5)], return_logits=True, adapter="decoder"), want, atol=1e-4
    )


@pytest.mark.parametrize("name", ["liver", "brain"], ids=["the model's own", "one beside it"])
def test_another_adapter_under_an_old_name_sees_the_scan_anew(predictor, make_run, runs, scan, name):
    """Its own processor prepares the scan, and nothing that the adapter before it has encoded is kept."""
    other = make_run("msa-other", seed=7, labels=BRAIN, intensity="ct:lung")
    want = answers({"other": other}, scan)["other"]
    predictor.set_volume(scan)
    predictor.predict(**CLICK, adapter=name)
    predictor.model.delete_adapter(name)
    predictor.load_adapter(other, name)
    assert predictor.processor_of(name).intensity == "ct:lung"
    got = predictor.predict(**CLICK, return_logits=True, adapter=name)
    np.testing.assert_allclose(got, want, atol=1e-4)
    predictor.clear()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_scan_that_an_adapter_encoded_is_refused_to_its_successor(predictor, runs, make_run, scan, is_replaced):
    encoded = predictor.encode(scan, adapter="brain")
    predictor.model.delete_adapter("brain")
    if is_replaced:
        predictor.load_adapter(make_run("msa-other", seed=7), "brain")
    with pytest.raises(CheckpointError, match="'brain'"):
        predictor.predict_objects(encoded, [ObjectPrompt([(5.0, 5.0, 3.0)], [1])])
    with pytest.raises(CheckpointError, match="'brain'"):
        encoded.embeddings.encode_rest()


def test_what_is_known_of_a_deleted_adapter_is_forgotten(model):
    model.delete_adapter("brain")
    assert set(model.loaded_adapters) == {"liver"}
    model.add_msa_adapter(MSAAdapterConfig(bottleneck_ratio=0.25), "brain")
    assert model.loaded_adapters.get("brain") is None or model.loaded_adapters["brain"].source is None


def test_a_fresh_adapter_beside_a_loaded_one(model):
    model.add_msa_adapter(MSAAdapterConfig(bottleneck_ratio=0.25, use_depth=True, num_slices=6), "fresh")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".fresh." in name for name in trained) and model.active_adapters() == ["fresh"]
    assert model.config.num_slices == 6
    model.set_adapter("liver")
    assert model.config.num_slices == 1 and model.config.id2label == LIVER


SPLEEN, UNKNOWN = {0: "background", 1: "spleen"}, {0: "LABEL_0", 1: "LABEL_1"}


def test_no_adapter_shows_or_saves_the_labels_of_another(shipped, tmp_path):
    small = MSAAdapterConfig(bottleneck_ratio=0.25)
    model = MSAModel.from_base("sam-tiny", small, adapter_name="a", id2label=SPLEEN)
    model.add_msa_adapter(small, "b")
    assert model.config.id2label == UNKNOWN
    model.config.id2label = LIVER
    for name, labels in (("a", SPLEEN), ("b", LIVER), ("a", SPLEEN)):
        model.set_adapter(name)
        assert model.config.id2label == labels
    model.set_adapter(["b", "a"])
    model.set_adapter("a")
    assert model.config.id2label == SPLEEN
    model.save_pretrained(tmp_path, adapter_name="b")
    assert MSAModel.from_pretrained(tmp_path).config.id2label == LIVER
    model.delete_adapter("b")
    assert model.config.id2label == SPLEEN and model.active_adapters() == ["a"]
    model.add_msa_adapter(small, "b")
    assert model.config.id2label == UNKNOWN


def test_a_change_of_the_labels_is_saved_whatever_was_noted_before(model, tmp_path):
    model.config.id2label = SPLEEN
    model.save_pretrained(tmp_path)
    assert MSAModel.from_pretrained(tmp_path).config.id2label == SPLEEN
    model.set_adapter("brain"), model.set_adapter("liver")
    assert model.config.id2label == SPLEEN


@pytest.mark.parametrize("names", [["liver"], ["brain", "liver"], "liver"])
def test_what_is_deleted_is_forgotten(model, runs, names):
    model.delete_adapter(names)
    assert model.config.id2label == (BRAIN if names in ("liver", ["liver"]) else UNKNOWN)
    model.add_msa_adapter(MSAAdapterConfig(bottleneck_ratio=0.25), "liver")
    assert model.config.id2label == UNKNOWN and model.loaded_adapters["liver"].source is None
    with pytest.raises(CheckpointError, match="no adapter 'heart'"):
        model.delete_adapter("heart")


def test_an_adapter_without_a_config_has_labels_that_nobody_knows(model, make_run):
    from medsam_adapter.demo.models import Models

    folder = make_run("peft-only", seed=3)
    (folder / "config.json").unlink()
    menu = Models(MSAPredictor(model, device="cpu"), "sam-tiny", [str(folder)])
    assert menu.targets("peft-only") == [] and "liver" not in menu.describe("peft-only")
    model.set_adapter(menu.names("peft-only"))
    assert model.config.id2label == UNKNOWN
    model.set_adapter("brain")
    assert menu.targets("peft-only") == []


def test_two_predictors_of_one_model_take_turns(predictor, runs):
    """Each in a thread of its own: no answer is given by the other's adapter, nor by the one that is switched to."""
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    model, found = predictor.model, {name: [] for name in (*runs, None)}
    predictors = {name: MSAPredictor(model, predictor.processor, "cpu") for name in found}
    want = {}
    for name, each in predictors.items():
        each.set_image(image, adapter=name)
        want[name] = each.predict(points=[(30, 30)], return_logits=True, adapter=name)

    def ask(name) -> None:
        for _ in range(15):
            got = predictors[name].predict(points=[(30, 30)], return_logits=True, adapter=name)
            found[name].append(np.abs(got - want[name]).max())

    threads = [threading.Thread(target=ask, args=(name,)) for name in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.abs(want["liver"] - want["brain"]).max() > 1e-2
    assert [len(errors) for errors in found.values()] == [15, 15, 15]
    assert max(map(max, found.values())) < 1e-4
