"""The menu of models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from demo_setup import adapted, write_run
from medsam_adapter.demo.models import PLAIN, Models
from medsam_adapter.errors import CheckpointError
from medsam_adapter.inference.predictor import MSAPredictor


@pytest.fixture(scope="module")
def runs(randomise, quiet, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    labels = {0: "background", 1: "liver", 2: "spleen"}
    return [
        str(write_run(root / "liver", adapted(randomise, 2), labels=labels)),
        str(write_run(root / "ct", adapted(randomise, 3), intensity="ct:soft-tissue")),
    ]


@pytest.fixture
def menu(randomise, runs):
    return Models(MSAPredictor(adapted(randomise), device="cpu"), "sam-tiny", runs)


def test_choices(menu, runs):
    assert menu.choices == ["sam-tiny", "liver", "ct", PLAIN]
    plain = MSAPredictor.from_pretrained("sam-tiny", device="cpu")
    assert Models(plain, "sam-tiny").choices == [PLAIN] and Models(plain, "sam-tiny", runs).choices == [
        "liver",
        "ct",
        PLAIN,
    ]


def test_names_and_sources(menu, runs):
    assert menu.names(PLAIN) == () and menu.names("sam-tiny") == ("default",)
    names = menu.names("ct")
    assert names == menu.names("ct") and names != menu.names("liver") and len(menu.names("liver")) == 1
    assert menu.source(PLAIN) == (None, True) and menu.source("sam-tiny") == (None, False)
    assert menu.source("liver") == (runs[0], False)


def test_the_plain_model_of_a_plain_model_is_itself():
    menu = Models(MSAPredictor.from_pretrained("sam-tiny", device="cpu"), "sam-tiny")
    assert menu.source(PLAIN) == (None, False)


@pytest.mark.parametrize("choice", ["", "nobody", "/etc", "../liver", None, "org/msa"])
def test_only_what_is_on_the_menu(menu, choice):
    with pytest.raises(CheckpointError, match="no such model"):
        menu.names(choice)


def test_a_path_is_not_on_the_menu(menu, runs):
    with pytest.raises(CheckpointError, match="no such model"):
        menu.names(runs[0])


def test_two_of_one_name(menu, runs, tmp_path):
    with pytest.raises(CheckpointError, match="one name"):
        Models(menu.predictor, "sam-tiny", [runs[0], runs[0]])
    (tmp_path / "liver").mkdir()
    with pytest.raises(CheckpointError, match="one name"):
        Models(menu.predictor, str(tmp_path / "liver"), [runs[0]])


def test_what_cannot_be_opened_is_told_when_it_is_chosen(menu, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = Models(menu.predictor, "sam-tiny", [str(tmp_path / "empty")])
    with pytest.raises(CheckpointError):
        broken.names("empty")
    with pytest.raises(CheckpointError):
        broken.names("empty")
    assert broken.names("sam-tiny") == ("default",)


def test_two_visitors_choose_one_first(menu):
    with ThreadPoolExecutor(6) as pool:
        names = list(pool.map(menu.names, ["liver", "ct"] * 3))
    assert names[::2] == [names[0]] * 3 and names[1::2] == [names[1]] * 3 and names[0] != names[1]


def test_descriptions(menu):
    assert "liver, spleen" in menu.describe("liver") and menu.targets("liver") == ["liver", "spleen"]
    assert "not adapted" in menu.describe(PLAIN) and "what the window shows" in menu.describe(PLAIN)
    assert "ct:soft-tissue" in menu.describe("ct") or "HU" in menu.describe("ct")
    assert not any(menu.takes_text(choice) for choice in menu.choices)


def test_texts(randomise, tiny_clip):
    model = adapted(randomise, use_text=True, text_model=tiny_clip, text_width=12)
    menu = Models(MSAPredictor(model, device="cpu"), "sam-tiny")
    assert menu.takes_text("sam-tiny") and menu.text_model("sam-tiny") == tiny_clip and not menu.takes_text(PLAIN)
