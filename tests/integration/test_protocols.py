"""`msa evaluate --protocol`, `--replay` and `--compare` on phantoms: tables, files, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from medsam_adapter.cli.evaluate_cases import choose_cases, picture_settings
from medsam_adapter.cli.main import run
from medsam_adapter.data.layouts import LAYOUTS, Dataset, open_dataset
from medsam_adapter.data.nifti import save_nifti
from medsam_adapter.data.phantom import make_phantom
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import CheckpointError, DataError
from medsam_adapter.evaluation.published.printed import printed_table
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.training.run_folder import data_facts

# BTCV's values of what phantoms show.
BTCV_VALUES = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6, "aorta": 8, "pancreas": 11}
COLUMNS = {"Spleen", "R.Kid", "L.Kid", "Liver", "Aorta", "Panc."}


def write_phantoms(root: Path, images: str, labels: str, image_name: str, label_name: str, count: int = 2) -> Path:
    for number in range(1, count + 1):
        sample = make_phantom(number, (12, 48, 48))
        values = np.zeros(max(sample.label_names) + 1, np.uint8)
        for value, name in sample.label_names.items():
            values[value] = BTCV_VALUES[name]
        for folder, name, array in (
            (images, image_name, sample.scan.array),
            (labels, label_name, values[sample.labels]),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            save_nifti(root / folder / name.format(number), array, sample.scan.affine)
    return root


@pytest.fixture(scope="module")
def folder_data(tmp_path_factory):
    root = write_phantoms(
        tmp_path_factory.mktemp("data") / "folder", "images", "labels", "case{}.nii.gz", "case{}.nii.gz"
    )
    (root / "labels.json").write_text(json.dumps({value: name for name, value in BTCV_VALUES.items()}))
    return root


@pytest.fixture(scope="module")
def first(folder_data, tmp_path_factory):
    """Output folder of an evaluation that several tests look at."""
    output = tmp_path_factory.mktemp("out") / "first"
    assert evaluate("sam-tiny --protocol btcv --intensity ct:soft-tissue", folder_data, output) == 0
    return output


def evaluate(options: str, data: Path | None, output: Path | None) -> int:
    words = options.split() + (["--data", str(data)] if data else []) + (["-o", str(output)] if output else [])
    return run(["evaluate", *words])


def refused(capsys, options: str, data: Path | None, output: Path) -> str:
    assert evaluate(options, data, output) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and not output.exists()
    return error


def table_of(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "table.csv").open(encoding="utf-8")))


def test_the_papers_table_has_its_twelve_rows_and_ours(first):
    rows = table_of(first)
    assert [row["Source"] for row in rows] == ["Published (Wu et al.)"] * 12 + ["Measured here"]
    printed = printed_table("btcv_dice").rows
    assert {row["Method"]: {name: row[name] for name in printed[row["Method"]]} for row in rows[:12]} == printed
    mine, result = rows[-1], EvaluationResult.load(first)
    assert {name for name in printed["MSA 1 point"] if mine[name]} == COLUMNS | {"Ave"}
    assert mine["Liver"] == f"{result.summary().targets['liver'].dice.mean:.3f}"
    assert mine["Ave"] == f"{np.mean([each.dice.mean for each in result.summary().targets.values()]):.3f}"
    assert mine["Notes"].startswith("Mean of the 6 measured columns, without Gall.")
    assert list(result.summary().targets) and result.settings["protocol"] == "1-point"


def test_every_run_leaves_its_files(first):
    names = {path.name for path in first.iterdir()}
    assert names == {
        "results.json", "results.csv", "prompts.json", "model_index.yaml", "best_median_worst.png", "table.md",
        "table.csv", "table.tex",
    }  # fmt: skip
    settings = EvaluationResult.load(first).settings
    assert len(settings["model_sha256"]) == 64 and settings["versions"]["medsam-adapter"]
    assert settings["paper_protocol"] == "btcv" and settings["layout"] == "folder"
    text = (first / "table.md").read_text()
    assert f"weights {settings['model_sha256'][:10]}." in text and "Not the paper's data: folder" in text
    assert "All 2 cases with a reference, as there is no split." in text
    assert "| Dice | liver |" in text and "n=2" in text
    assert yaml.safe_load((first / "model_index.yaml").read_text())["model-index"][0]["name"] == "sam-tiny"


def test_the_table_is_printed_with_what_is_below_it(folder_data, tmp_path, capsys):
    data = shutil.copytree(folder_data, tmp_path / "data")
    (data / "labels.json").write_text((data / "labels.json").read_text().replace("pancreas", "tumour"))
    options = "sam-tiny --protocol btcv --intensity ct:soft-tissue --max-cases 1 --prompts box"
    assert evaluate(options, data, tmp_path / "out") == 0
    measured = EvaluationResult.load(tmp_path / "out").summary().targets
    assert set(measured) == set(BTCV_VALUES) - {"pancreas"}, "only what the protocol asks for is evaluated"
    text = capsys.readouterr().out
    assert "Published (Wu et al.)" in text and "Measured here" in text and "sam-tiny, box" in text
    assert text.index("MSA 1 point") < text.index("Measured here") < text.index("the mean of its printed columns")
    assert "Not the paper's protocol: --max-cases 1; --prompts box." in " ".join(text.split())


@pytest.mark.skipif("btcv" not in LAYOUTS, reason="the layout btcv is not here")
def test_btcv_as_it_is_distributed(tmp_path, capsys):
    root = write_phantoms(
        tmp_path / "BTCV", "RawData/Training/img", "RawData/Training/label", "img{:04d}.nii.gz", "label{:04d}.nii.gz"
    )
    assert evaluate("sam-tiny --protocol btcv --json", root, tmp_path / "out") == 0
    facts = json.loads(capsys.readouterr().out)
    row = facts["rows"][0]
    assert {name for name, value in row["columns"].items() if value is not None} == COLUMNS | {"Ave"}
    assert not any("Not the paper's data" in note for note in facts["notes"])
    low, high = row["dice_interval"]
    assert low <= row["dice"] <= high
    assert len(table_of(tmp_path / "out")) == 13


def test_replay_gives_identical_figures(first, folder_data, tmp_path):
    options = f"sam-tiny --protocol btcv --intensity ct:soft-tissue --replay {first / 'prompts.json'}"
    assert evaluate(options, folder_data, tmp_path / "again") == 0
    before, after = (EvaluationResult.load(folder) for folder in (first, tmp_path / "again"))
    assert repr([(c.case_id, c.target, c.metrics, c.prompts) for c in before.cases]) == repr(
        [(c.case_id, c.target, c.metrics, c.prompts) for c in after.cases]
    )
    assert (first / "prompts.json").read_text() == (tmp_path / "again/prompts.json").read_text()
    # and the prompts of the file are what is asked, not such as would be drawn again
    content = json.loads((first / "prompts.json").read_text())
    content["cases"] = {"case2": {"liver": content["cases"]["case2"]["spleen"]}}
    content["seed"] = 9
    (tmp_path / "edited.json").write_text(json.dumps(content))
    options = f"sam-tiny --intensity ct:soft-tissue --replay {tmp_path / 'edited.json'}"
    assert evaluate(options, folder_data, tmp_path / "edited") == 0
    edited = EvaluationResult.load(tmp_path / "edited")
    [only] = edited.cases
    assert edited.settings["seed"] == 9 and edited.protocol == "1-point per volume"
    assert (only.case_id, only.target, only.prompts) == ("case2", "liver", content["cases"]["case2"]["liver"])
    assert only.metrics.dice not in [c.metrics.dice for c in before.cases]


def test_replay_of_numbered_objects(tmp_path):
    """Objects share one target, and each gets its own prompt again."""
    root = tmp_path / "objects"
    sample = make_phantom(3, (12, 48, 48))
    for folder, array in (("images", sample.scan.array), ("labels", sample.labels)):
        (root / folder).mkdir(parents=True)
        save_nifti(root / folder / "a.nii.gz", array, sample.scan.affine)
    (root / "labels.json").write_text('{"instances": true}')
    assert evaluate("sam-tiny --intensity ct:soft-tissue", root, tmp_path / "one") == 0
    options = f"sam-tiny --intensity ct:soft-tissue --replay {tmp_path / 'one'}"
    assert evaluate(options, root, tmp_path / "two") == 0
    one, two = (EvaluationResult.load(tmp_path / name).cases for name in ("one", "two"))
    assert [case.object for case in one] == [f"object {n}" for n in range(1, 7)]
    assert [(c.object, c.metrics, c.prompts) for c in one] == [(c.object, c.metrics, c.prompts) for c in two]


def test_two_models_are_compared_with_the_first(first, folder_data, tmp_path, capsys):
    other = tmp_path / "other" / "sam-tiny"
    shutil.copytree(_sam_tiny(), other)
    _disturb(other / "model.safetensors")
    options = f"sam-tiny {other} --protocol btcv --intensity ct:soft-tissue"
    assert evaluate(options, folder_data, tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "other/sam-tiny (other) against sam-tiny (reference)" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "sam-tiny_1-point", "other_sam-tiny_1-point", "table.md", "table.csv", "table.tex", "comparison.md",
        "comparison.csv", "comparison.tex",
    }  # fmt: skip
    rows = table_of(tmp_path / "out")
    assert [row["Method"] for row in rows[12:]] == ["sam-tiny, 1-point", "other/sam-tiny, 1-point"]
    results = [
        EvaluationResult.load(tmp_path / "out" / name) for name in ("sam-tiny_1-point", "other_sam-tiny_1-point")
    ]
    means = [result.summary().overall.dice.mean for result in results]
    assert means[0] != means[1] and results[0].settings["model_sha256"] != results[1].settings["model_sha256"]

    # the same from the stored results, without a model
    stored = [str(first), str(tmp_path / "out" / "other_sam-tiny_1-point")]
    assert run(["evaluate", "--compare", *stored, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    overall = next(each for each in found if (each["metric"], each["target"]) == ("dice", "Mean"))
    assert overall["difference"] == pytest.approx(means[1] - means[0], abs=1e-4) and overall["n"] == 2
    assert run(["evaluate", "--compare", *stored]) == 0
    assert "won/lost" in capsys.readouterr().out


def _sam_tiny() -> Path:
    from medsam_adapter.backbones import EMBEDDED

    return EMBEDDED["sam-tiny"]


def _disturb(file: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights, generator = load_file(file), torch.Generator().manual_seed(0)
    for name in list(weights):
        if "mask_decoder" in name and weights[name].is_floating_point():
            weights[name] = weights[name] + 0.05 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, file, metadata={"format": "pt"})


def test_results_of_other_prompts_are_not_compared(first, folder_data, tmp_path, capsys):
    assert evaluate("sam-tiny --intensity ct:soft-tissue --seed 4", folder_data, tmp_path / "other") == 0
    capsys.readouterr()
    assert run(["evaluate", "--compare", str(first), str(tmp_path / "other")]) == 2
    assert "another seed" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run_folder(folder_data, tmp_path_factory):
    """sam-tiny as a run folder with a split and a recipe: case2 is its test case."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    shutil.copytree(_sam_tiny(), folder)
    (folder / "split.json").write_text(json.dumps({"train": ["case1"], "val": [], "test": ["case2"]}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": {"path": str(folder_data), "layout": "folder"}}))
    return folder


def chosen(models, data=None, **options):
    found = choose_cases([str(model) for model in models], data, **options)
    return [case.case_id for case in found.cases], found.notes


def test_cases_are_those_of_the_runs_split(run_folder, folder_data):
    said = ["Cases: the 1 of the part test of the split of the run mine."]
    assert chosen([run_folder]) == (["case2"], said)
    assert chosen([run_folder], folder_data) == (["case2"], said)
    cases, notes = chosen([run_folder], folder_data, part="all")
    assert cases == ["case1", "case2"] and notes[0] == "All 2 cases with a reference."


def test_cases_that_a_run_has_seen_are_told(run_folder, folder_data, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"test": ["case1", "case2"]}))
    cases, notes = chosen([run_folder], folder_data, split=split)
    assert cases == ["case1", "case2"]
    assert notes == [
        f"Cases: the 2 of the part test of {split}.",
        "mine was trained or chosen on 1 of these 2 cases: its figures are too good.",
    ]


def test_results_keep_which_model_has_seen_the_cases(run_folder, folder_data, tmp_path):
    options = f"{run_folder} sam-tiny --part train --target liver --intensity ct:soft-tissue"
    assert evaluate(options, folder_data, tmp_path) == 0
    mine, other = (EvaluationResult.load(tmp_path / f"{name}_1-point").settings for name in ("mine", "sam-tiny"))
    assert mine["seen_cases"] == "mine was trained or chosen on 1 of these 1 cases: its figures are too good."
    assert other["seen_cases"] is None and "model-index: []" in (tmp_path / "mine_1-point/model_index.yaml").read_text()


def test_the_current_folder_does_not_matter_to_what_a_run_has_seen(run_folder, folder_data, tmp_path, monkeypatch):
    """The recipe's path is relative; data.json says where the data lay when the run was started."""
    run = shutil.copytree(run_folder, tmp_path / "mine")
    (run / "recipe.yaml").write_text(yaml.safe_dump({"data": {"path": folder_data.name, "layout": "folder"}}))
    facts = data_facts(open_dataset(folder_data, "folder"), {})
    (run / "data.json").write_text(json.dumps(facts))
    monkeypatch.chdir(tmp_path)
    said = "mine was trained or chosen on 1 of these 2 cases: its figures are too good."
    assert chosen([run], folder_data, part="all")[1][-1] == said
    assert chosen([run])[0] == ["case2"], "without --data it is the run's own"
    other = shutil.copytree(folder_data, tmp_path / "elsewhere" / folder_data.name)
    assert said not in chosen([run], other)[1], "another folder of the same names"
    # Published, or on another machine: nobody knows where it lies.
    (run / "data.json").write_text(json.dumps(facts | {"path": folder_data.name}))
    assert chosen([run], folder_data, part="all")[1][-1] == (
        f"mine was trained or chosen on 1 of these 2 cases if its data, {facts['name']}, is this one: then its figures "
        "are too good."
    )
    (run / "data.json").write_text("[")
    with pytest.raises(CheckpointError, match="data.json cannot be read"):
        chosen([run], folder_data)


def test_notes_count_the_cases_that_are_evaluated(run_folder, folder_data, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"test": ["case2", "case1"]}))
    cases, notes = chosen([run_folder], folder_data, part="all", max_cases=1)
    assert cases == ["case1"] and notes == [
        "The first 1 of 2 cases with a reference.",
        "mine was trained or chosen on 1 of these 1 cases: its figures are too good.",
    ]
    cases, notes = chosen([run_folder], folder_data, split=split, max_cases=1)
    assert cases == ["case2"] and notes == [f"Cases: the first 1 of the 2 of the part test of {split}."]


def test_an_official_split_counts(folder_data, tmp_path, monkeypatch):
    def load(*arguments, real=LAYOUTS["folder"].load, **options):
        dataset = real(*arguments, **options)
        dataset.cases.append(Case("without reference", dataset.cases[0].image))
        dataset.official_split = {"train": ["case1"], "test": ["case2", "without reference"]}
        return dataset

    monkeypatch.setattr(LAYOUTS["folder"], "load", load)
    said = ["Cases: the 1 of the part test of the data set's official split."]
    assert chosen(["sam-tiny"], folder_data) == (["case2"], said)
    assert chosen(["sam-tiny"], folder_data, part="all")[0] == ["case1", "case2"]
    with pytest.raises(DataError, match=r"no val cases[\s\S]*train \(1\), test \(1\)"):
        chosen(["sam-tiny"], folder_data, part="val")


def test_a_row_against_each_rater(folder_data, tmp_path, monkeypatch):
    def load(*arguments, real=LAYOUTS["folder"].load, **options):
        dataset = real(*arguments, **options)
        # The second rater has marked another body.
        dataset.cases[0].raters = {"one": dataset.cases[0].label, "two": dataset.cases[1].label}
        return dataset

    monkeypatch.setattr(LAYOUTS["folder"], "load", load)
    options = "sam-tiny --protocol btcv --intensity ct:soft-tissue --max-cases 1 --raters"
    assert evaluate(options, folder_data, tmp_path / "out") == 0
    measured = [row for row in table_of(tmp_path / "out") if row["Source"] == "Measured here"]
    names = [f"sam-tiny, 1-point{whom}" for whom in ("", ", against one", ", against two")]
    assert [row["Method"] for row in measured] == names
    assert measured[0]["Liver"] == measured[1]["Liver"] != measured[2]["Liver"]
    assert EvaluationResult.load(tmp_path / "out").raters.keys() == {"one", "two"}


def test_a_plain_sam_is_shown_what_is_given_or_saved_or_advised(tmp_path):
    dataset = Dataset("set", tmp_path, [], intensity="ct:soft-tissue", orientation="LIP")
    nothing = {"intensity": None, "window": None, "orientation": None}
    assert picture_settings(["sam-tiny"], dataset, nothing) == {
        **nothing,
        "intensity": "ct:soft-tissue",
        "orientation": "LIP",
    }
    given = {**nothing, "window": "0,80"}
    assert picture_settings(["sam-tiny"], dataset, given) == {**given, "orientation": "LIP"}
    saved = {"intensity": "window", "window_hu": [-160.0, 240.0], "orientation": "LPS"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(saved))
    beside = picture_settings(["sam-tiny", str(tmp_path)], dataset, nothing)
    assert beside == {"intensity": None, "window": "-160.0,240.0", "orientation": "LPS"}


REFUSED = {
    "unknown protocol": ("sam-tiny --protocol btvc", "did you mean 'btcv'", "optic-cup"),
    "prompts as a protocol": ("sam-tiny --protocol box", "there is no protocol 'box'", "--prompts"),
    "no matching target": ("sam-tiny --protocol thyroid", "expected: thyroid nodule", "found: spleen, right kidney"),
    "unknown target": ("sam-tiny --protocol btcv --target river", "river"),
    "no model": ("--protocol btcv", "no model to evaluate", "MODEL"),
    "no prompts there": ("sam-tiny --replay nowhere.json", "nowhere.json", "no prompts here"),
    "replay and prompts": ("sam-tiny --replay FIRST/prompts.json --prompts box --seed 1", "found: --prompts, --seed"),
    "compare and a model": ("sam-tiny --compare FIRST FIRST", "--compare", "found: MODEL"),
    "no results there": ("--compare FIRST nowhere", "nowhere", "no results here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_use_is_refused(first, folder_data, tmp_path, capsys, name):
    options, *said = REFUSED[name]
    data = None if name.startswith("no results") else folder_data
    error = refused(capsys, options.replace("FIRST", str(first)), data, tmp_path / "out")
    assert all(text in error for text in said), error


def test_prompts_of_other_cases_are_refused(first, folder_data, tmp_path, capsys):
    content = json.loads((first / "prompts.json").read_text())
    content["cases"]["case7"] = content["cases"]["case1"]
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    error = refused(capsys, f"sam-tiny --replay {tmp_path / 'prompts.json'}", folder_data, tmp_path / "out")
    assert "prompts.json: holds prompts of cases" in error and "found: case7" in error
