"""`msa zoo`: published and local adapters, offline too."""

from __future__ import annotations

import json

import pytest

from medsam_adapter.cli.main import run as msa
from medsam_adapter.hub.publish import PushOptions, push_run
from medsam_adapter.hub.zoo import local_adapters, published_adapters


@pytest.fixture
def run(shipped, make_run):
    return make_run()


def put_card(hub, name: str, metadata: str, tmp_path) -> None:
    folder = tmp_path / name.replace("/", "_")
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{metadata}---\n\nA card.\n")
    hub.add(name, folder)


def test_published_adapters_with_all_that_is_asked_for(hub, run, add_result, tmp_path):
    add_result(run)
    push_run(run, PushOptions("org/liver"), private=True)
    put_card(hub, "org/llm", "tags: [text-generation]\n", tmp_path)
    [entry], why_not = published_adapters()
    assert why_not is None and entry.name == "org/liver" and entry.where == "hub" and entry.private
    assert entry.targets == ["liver", "spleen"] and entry.modality == "CT" and entry.base == "sam-tiny"
    assert entry.size_mb == round((run / "adapter_model.safetensors").stat().st_size / 1e6, 2)
    assert entry.dice == 0.7 and entry.dice_of == "Livers, 1-point per volume"


def test_without_results_the_validation_counts(hub, run):
    push_run(run, PushOptions("org/liver"))
    [entry], _ = published_adapters()
    assert entry.dice == 0.81 and entry.dice_of == "validation"


def test_figures_on_cases_it_was_trained_on_are_not_its_score(run, add_result):
    add_result(run, seen_cases="its figures are too good.")
    [entry], _ = local_adapters([run])
    assert (entry.dice, entry.dice_of) == (0.81, "validation")


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "msa: words\n",
        "msa: {targets: liver, modality: [x], size_mb: big, base: 3}\n",
        "model-index: nonsense\n",
        "model-index: [{name: x, results: [{metrics: [{type: dice, value: high}]}]}]\n",
        "base_model: [a, b]\nmodel-index: []\n",
    ],
)
def test_cards_of_others_do_not_break_it(hub, run, tmp_path, metadata):
    put_card(hub, "org/odd", f"tags: [msa-adapter]\n{metadata}", tmp_path)
    push_run(run, PushOptions("org/liver"))
    entries, why_not = published_adapters()
    assert {entry.name for entry in entries} == {"org/odd", "org/liver"} and why_not is None
    odd = next(entry for entry in entries if entry.name == "org/odd")
    assert odd.dice is None and odd.size_mb is None


def test_local_ones_at_several_depths(shipped, make_run, add_result, tmp_path):
    first, second = make_run("a", val_dice=None), make_run("b", use_depth=True)
    add_result(second, dice=0.5)
    add_result(second, model="sam-tiny", dice=0.9, sha256="0" * 64, folder="another")
    broken = make_run("c")
    (broken / "config.json").write_text("{")
    for folder in (tmp_path, tmp_path / "runs", second):
        entries, unread = local_adapters([folder])
        found = {entry.name: entry for entry in entries}
        assert str(second) in found and found[str(second)].dice == 0.5
        if folder != second:
            assert set(found) == {str(first), str(second)} and found[str(first)].dice is None
            assert len(unread) == 1 and str(broken) in unread[0]
    assert len(local_adapters([tmp_path, second])[0]) == 2  # none twice


def test_the_command(hub, run, tmp_path, capsys):
    push_run(run, PushOptions("org/liver"))
    assert msa(["zoo", str(tmp_path / "runs"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["where"] for row in out["adapters"]] == ["hub", "local"] and out["hub"] == "asked"
    assert msa(["zoo", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "org/liver" in shown and "0.810" in shown and "1 on the Hub, 1 here" in shown
    asked = len(hub.log)
    assert msa(["zoo", "--local", str(tmp_path / "runs"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["adapters"]) == 1 and len(hub.log) == asked


def test_offline_it_lists_what_is_here_and_says_so(run, tmp_path, capsys):
    assert msa(["zoo", str(tmp_path / "runs")]) == 0  # the tests' own HF_HUB_OFFLINE
    out = capsys.readouterr()
    assert "only local adapters" in out.err and "1 here" in out.out and "msa-liver" in out.out
    assert msa(["zoo", str(tmp_path / "runs"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["adapters"]) == 1 and "offline" in answer["hub"].lower()


def test_a_hub_out_of_reach(hub, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail = lambda method, path: 0
    assert msa(["zoo", str(tmp_path / "runs")]) == 0
    assert "only local adapters" in capsys.readouterr().err


def test_nothing_at_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert msa(["zoo"]) == 0
    assert "msa train" in capsys.readouterr().out
    assert msa(["zoo", "nowhere"]) == 2
