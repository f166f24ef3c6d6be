"""The card of a run: every number from a file of the run, and nothing that was not measured."""

from __future__ import annotations

import json

import pytest
import yaml

from medsam_adapter.errors import CheckpointError
from medsam_adapter.hub.card import card_text, write_card
from medsam_adapter.hub.card_sections import Publication
from medsam_adapter.hub.licences import base_licence, licence_metadata
from medsam_adapter.hub.parameter_counts import count_parameters
from medsam_adapter.hub.run_facts import RunFacts
from medsam_adapter.modeling_msa import MSAModel

PUBLICATION = Publication("org/msa-liver", "mit", "sam-tiny", "apache-2.0", size_mb=0.5)


@pytest.fixture
def run(shipped, make_run):
    return make_run(use_depth=True)


def metadata_of(text: str) -> dict:
    return yaml.safe_load(text.split("---")[1])


def card(run, publication=PUBLICATION) -> str:
    facts = RunFacts.read(run)
    return card_text(facts, [result for _, result in facts.stored_results()], publication)


def test_it_says_what_a_reader_asks_for(run, add_result):
    add_result(run)
    add_result(run, model="sam-tiny", dice=0.2, sha256="0" * 64, folder="evaluation/base")
    text = card(run)
    for said in (
        "segments liver, spleen in CT", "3-D", "`sam-tiny`", "steered by clicks or boxes",
        "data: Livers (cases: train 2, val 1)",
        "licence of the data: CC BY 4.0", "cite the data: Doe 2020", "licence apache-2.0", "## Licence\n\nmit",
        'MSAPredictor.from_pretrained("org/msa-liver")', "msa predict org/msa-liver scan.nii.gz --point x,y,z",
        "msa evaluate org/msa-liver --data FOLDER",
        "| Dice | msa-liver | 1-point per volume | **0.800** | **0.600** | **0.700** |",
        "| Dice | sam-tiny |", "Best validation Dice, 1-point per volume: 0.810 (epoch 2)",
        "msa-liver, 1-point per volume: dataset Livers, part test, seed 3, 0.5 s a mask",
        "training: 90 min on 2 CPU cores (Test), 3 epochs", "carbon: not measured", "**not a medical device**",
        "torch 2.13.0", "bottleneck ratio 0.25", "arxiv.org/abs/2304.12620",
    ):  # fmt: skip
        assert said in text, said
    facts = metadata_of(text)
    assert facts["license"] == "mit" and {"msa-adapter", "peft", "medical"} <= set(facts["tags"])
    assert facts["msa"] == {
        "targets": ["liver", "spleen"], "modality": "CT", "base": "sam-tiny", "size_mb": 0.5, "val_dice": 0.81
    }  # fmt: skip
    metrics = [m for result in facts["model-index"][0]["results"] for m in result["metrics"]]
    assert {m["value"] for m in metrics if m["type"] == "dice"} == {
        0.7,
        0.8,
        0.6,
    }  # not 0.2
    assert "co2_eq_emissions" not in facts


def test_figures_on_cases_it_was_trained_on_are_named_so_and_are_no_model_index(run, add_result):
    said = "msa-liver was trained or chosen on 1 of these 1 cases: its figures are too good."
    add_result(run, seen_cases=said)
    text = card(run)
    assert said in text[text.index("## Numbers") : text.index("## Made with")]
    assert "model-index" not in metadata_of(text) and "| Dice | msa-liver |" in text
    add_result(run, dice=0.6, folder="evaluation/test")
    metrics = [m for result in metadata_of(card(run))["model-index"][0]["results"] for m in result["metrics"]]
    assert {m["value"] for m in metrics if m["type"] == "dice"} == {0.6, 0.7, 0.5}


def test_trained_share_is_that_of_the_model(run):
    total, trained = count_parameters(RunFacts.read(run))
    model = MSAModel.from_pretrained(run, is_trainable=True)
    parameters = dict(model.named_parameters())
    assert total == sum(p.numel() for p in parameters.values())
    assert trained == sum(p.numel() for name, p in parameters.items() if "msa_adapter_" in name)
    assert f"{trained:,} trained of {total:,} ({100 * trained / total:.2g} %)" in card(run)


@pytest.mark.parametrize("method", ["full", "decoder"])
def test_a_run_that_trained_sams_own_weights(shipped, make_run, tiny_base, method):
    run = make_run()
    (run / "adapter_config.json").unlink(), (run / "adapter_model.safetensors").unlink()
    model = MSAModel.from_base("sam-tiny", id2label={0: "background", 1: "liver"})
    model.save_pretrained(run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["model"]["method"] = method
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = card(run)
    assert metadata_of(text)["base_model_relation" if "base_model" in metadata_of(text) else "library_name"]
    assert "fine-tuned" in text and "msa-adapter" not in metadata_of(text)["tags"] and "PEFT adapter" not in text
    total, trained = count_parameters(RunFacts.read(run))
    assert total == sum(p.numel() for p in model.parameters()) and 0 < trained < total
    assert (trained > total / 2) == (method == "full")


def test_what_was_not_recorded_is_not_made_up(run):
    for name in ("data.json", "versions.json", "metrics.jsonl"):
        (run / name).unlink()
    text = card(run)
    for said in (
        "data: scans\n", "not said by the data set", "training: not recorded on hardware that was not recorded",
        "segments liver, spleen, steered",
    ):  # fmt: skip
        assert said in text, said
    assert "/home/doctor" not in text


def test_a_resumed_run_counts_all_its_sessions(run):
    rows = [{"epoch": 1, "seconds": 100.0}, {"epoch": 2, "seconds": 200.0}, {"epoch": 3, "seconds": 70.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert RunFacts.read(run).hours == pytest.approx(270 / 3600)


def test_carbon_only_if_it_was_measured(run):
    header = "timestamp,project_name,duration,emissions,country_name\n"
    (run / "emissions.csv").write_text(header + "t,p,60,0.0012,France\nt,p,60,0.0003,France\n")
    text = card(run)
    assert metadata_of(text)["co2_eq_emissions"] == {
        "emissions": 1.5, "source": "CodeCarbon", "training_type": "fine-tuning", "geographical_location": "France",
        "hardware_used": "2 CPU cores (Test)",
    }  # fmt: skip
    assert "1.5 g CO2eq, measured with CodeCarbon" in text
    (run / "emissions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CheckpointError, match="not a file of CodeCarbon"):
        card(run)


def test_text_prompts_have_their_commands(shipped, make_run):
    run = make_run(use_text=True, text_model="clip-tiny", text_width=64)
    text = card(run)
    assert "boxes or sentences" in text and 'msa predict org/msa-liver scan.nii.gz --text "the liver"' in text


def test_published_forms_are_named(run):
    full = Publication("org/x", "mit", "sam-tiny", None, is_full=True, size_mb=375.0)
    assert "published with its base (375 MB)" in card(run, full) and "PEFT adapter" not in card(run, full)
    short = Publication("org/x", "mit", "org/base", None, dtype="bf16", size_mb=1.5)
    assert "published in bf16 (1.5 MB)" in card(run, short) and "rounded to bf16" in card(run, short)
    assert 'SamModel.from_pretrained("org/base").load_adapter("org/x")' in card(run, short)


def test_the_card_in_the_run_folder(run):
    text = write_card(run).read_text()
    assert text.startswith("---\n") and "# msa-liver" in text and "## Licence" not in text


def test_licences(tiny_base, tmp_path):
    assert base_licence("sam-tiny") == base_licence("facebook/sam-vit-huge") == "apache-2.0"
    assert base_licence(str(tiny_base)) is None and base_licence("org/unknown") is None  # offline
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: sam-license\n---\n")
    assert base_licence(str(tmp_path)) == "sam-license"
    assert licence_metadata("Apache-2.0") == {"license": "apache-2.0"} == licence_metadata("apache 2.0")
    assert licence_metadata("SAM Licence") == {"license": "other", "license_name": "sam-licence"}
