"""The frozen text encoder: embeddings that are computed once, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from medsam_adapter.errors import CheckpointError, PromptError
from medsam_adapter.prompts.text import TextEncoder, embed_objects, load_text_encoder


def test_embeddings_are_the_models_own_whatever_the_batch(tiny_clip):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    texts = ["the spleen", "Where is the left kidney?", "脾脏"]
    got = TextEncoder(tiny_clip)(texts)
    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    assert got.shape == (3, 12) and not got.requires_grad
    for text, row in zip(texts, got, strict=True):
        with torch.no_grad():
            alone = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).text_embeds[0]
        torch.testing.assert_close(row, alone / alone.norm(), rtol=1e-4, atol=1e-5)


def test_each_sentence_is_computed_once(tiny_clip, monkeypatch):
    encoder = TextEncoder(tiny_clip)
    seen = []
    forward = encoder.model.forward
    monkeypatch.setattr(encoder.model, "forward", lambda **k: seen.append(len(k["input_ids"])) or forward(**k))
    first = encoder(["the spleen", "the liver", "the spleen"])
    again = encoder(["the liver", "the spleen"])
    assert seen == [2] and torch.equal(first[[1, 0]], again)
    assert load_text_encoder(tiny_clip) is load_text_encoder(tiny_clip)


def test_the_window(tiny_clip):
    encoder = TextEncoder(tiny_clip)
    fits = "".join(chr(0x4E00 + i) for i in range(40))
    while len(encoder.tokenizer(fits)["input_ids"]) > 24:
        fits = fits[:-1]
    fits += "a" * (24 - len(encoder.tokenizer(fits)["input_ids"]))  # a token a letter
    assert len(encoder.tokenizer(fits)["input_ids"]) == 24 and encoder([fits]).isfinite().all()
    with pytest.raises(PromptError, match="at most 24 tokens") as error:
        encoder(["the liver", fits + "z"])
    assert error.value.found.startswith("25 tokens")


@pytest.mark.parametrize("text", ["", "  ", None, 3])
def test_no_text(tiny_clip, text):
    with pytest.raises(PromptError, match="empty"):
        TextEncoder(tiny_clip)([text])


def test_what_is_no_text_model(tmp_path, tiny_base, tiny_clip):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "nowhere", tiny_base):
        with pytest.raises(CheckpointError, match="text model") as error:
            TextEncoder(str(place))
        assert str(place) in str(error.value) and "clip-tiny" in str(error.value)


def test_a_tokenizer_beside_other_weights_is_no_text_model(tmp_path, tiny_base, tiny_clip):
    import shutil
    from pathlib import Path

    for file in Path(tiny_clip).iterdir():
        shutil.copy(file, tmp_path / file.name)
    shutil.copy(tiny_base / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no CLIP text model"):
        TextEncoder(str(tmp_path))


def test_objects_of_images(tiny_clip):
    flat = embed_objects(["the spleen", "the liver"], 1, tiny_clip)
    nested = embed_objects([["the spleen"], ["the liver"]], 2, tiny_clip)
    assert flat.shape == (1, 2, 12) and nested.shape == (2, 1, 12)
    assert torch.equal(flat[0], nested[:, 0])


def test_clip_tiny_knows_the_names_of_the_bank():
    """It ships, opens offline, and a held-out wording lies nearest to the name it contains."""
    from medsam_adapter.prompts.text_bank import TextBank

    bank, encoder = TextBank.load(), load_text_encoder("clip-tiny")
    names = list(bank.targets)
    centres = torch.stack([encoder(bank.targets[name].train).mean(0) for name in names])
    right = total = 0
    for row, name in enumerate(names):
        nearest = (encoder(bank.targets[name].held_out) @ torch.nn.functional.normalize(centres, dim=1).T).argmax(1)
        right, total = right + int((nearest == row).sum()), total + len(nearest)
    assert right / total > 0.9
