"""The small text model: what it learns from, what it must not see, what its folder opens with."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medsam_adapter.cli.main import run
from medsam_adapter.pretraining import text_model
from medsam_adapter.pretraining.text_model import SentenceMaker, TextModelRecipe, make_tokenizer, train_text_model
from medsam_adapter.prompts.text import TextEncoder
from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.text_names import sentence_key


@pytest.fixture(scope="module")
def bank():
    return TextBank.load()


def test_sentences_name_their_targets_and_no_held_out_one_is_seen(bank):
    maker = SentenceMaker(bank, word_dropout=0.3)
    rng = np.random.default_rng(0)
    held_out = {sentence_key(t) for target in bank.targets.values() for t in target.held_out}
    held_out |= {sentence_key(t) for union in bank.unions for t in union.held_out}
    of_name = {name: {i} for i, target in enumerate(bank.targets.values()) for name in target.names}
    rows = {name: i for i, name in enumerate(bank.targets)}
    of_name |= {name: {rows[t] for t in union.targets} for union in bank.unions for name in union.names}
    seen = set()
    for _ in range(1500):
        text, meant = maker.draw(rng)
        assert set().union(*(of_name[name] for name in maker.named_in(text))) == meant, text
        seen.add(sentence_key(text))
    assert len(seen) > 500
    # A plain frame may happen to say what a held-out sentence says ("the spleen"); whole sentences must not.
    assert not {key for key in seen & held_out if len(key) > 40}


def test_words_are_varied(bank):
    maker, rng = SentenceMaker(bank, word_dropout=0.2), np.random.default_rng(0)
    text = max((t for t, _ in maker.fixed), key=len)
    assert len({maker._vary(text, rng) for _ in range(30)}) > 10
    maker.word_dropout = 0.0
    assert maker._vary(text, rng) == text


def test_any_text_can_be_written_in_the_tokenizer():
    tokenizer = make_tokenizer(["the spleen"], 300)
    for text in ("The SPLEEN", "脾脏 é ∑", "left-kidney?!"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 0 and ids[-1] == 1 and tokenizer.decode(ids[1:-1]).strip() == text.lower()


def test_a_short_training_opens_and_repeats(tmp_path):
    recipe = TextModelRecipe(vocabulary=400, hidden_size=32, num_layers=1, num_heads=2, steps=5, batch_size=8)
    seen = []
    shares = train_text_model(recipe, tmp_path / "a", lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)] and set(shares) == {"train", "held_out"}
    train_text_model(recipe, tmp_path / "b")
    one, two = (TextEncoder(str(tmp_path / name))(["the spleen", "脾脏"]) for name in "ab")
    assert one.shape == (2, 32) and torch.equal(one, two)
    facts = json.loads((tmp_path / "a" / "recipe.json").read_text())
    assert facts["exact"] == shares and facts["steps"] == 5


def test_the_shipped_model_is_what_its_recipe_says(bank):
    """Loaded as people load it, it stands by the figures in its folder."""
    from medsam_adapter.backbones import EMBEDDED_TEXT_MODELS

    facts = json.loads((EMBEDDED_TEXT_MODELS["clip-tiny"] / "recipe.json").read_text())
    held_out = sum(len(t.held_out) for t in bank.targets.values()) + sum(len(u.held_out) for u in bank.unions)
    assert facts["sentences"]["held_out"] == held_out, "the bank has changed: train clip-tiny again"
    assert facts["exact"]["held_out"] > 0.9 and TextEncoder("clip-tiny").width == facts["hidden_size"]


def test_cli_leaves_no_model_of_another_kind_in_the_folder(tmp_path, monkeypatch):
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text("steps: 1\n")
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "config.json"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(text_model, "train_text_model", lambda *args: {"train": 1.0, "held_out": 1.0})
    assert run(["pretrain", "text", str(recipe), "-o", str(folder)]) == 2 and len(list(folder.iterdir())) == 3
    assert run(["pretrain", "text", str(recipe), "-o", str(folder), "--overwrite"]) == 0
    assert not list(folder.iterdir())
