"""Sentences to embeddings: the frozen half of text prompts (paper, "Training with prompts").

A sentence that names the target ("the optic disc") goes through a frozen CLIP text model; its embedding becomes a
prompt token by a small projection that is trained and saved with the adapters (`adapters/prompt_encoder.py`).

Shapes: n sentences, W width of the text model's embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from medsam_adapter.backbones import resolve_text_model
from medsam_adapter.errors import CheckpointError, PromptError


class TextEncoder:
    """A frozen `CLIPTextModelWithProjection` of transformers. Each sentence is embedded once and then remembered.

    Args:
        name: Hub id such as "openai/clip-vit-base-patch16", a folder, or "clip-tiny" (ships with the package).

    Raises:
        CheckpointError: no such model, or one without a text tower.
    """

    def __init__(self, name: str):
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        self.name, place = name, resolve_text_model(name)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(place)
            model, loading = CLIPTextModelWithProjection.from_pretrained(place, output_loading_info=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                "the text model cannot be opened",
                file=name,
                expected="a CLIP on the Hub or in a folder, such as openai/clip-vit-base-patch16, or clip-tiny",
                found=(str(error).strip().splitlines() or [type(error).__name__])[0],
                hint="check the name and the network; clip-tiny needs none",
            ) from error
        if loading["missing_keys"]:  # another kind of model: transformers would fill it with random numbers
            raise CheckpointError(
                "this is no CLIP text model",
                file=name,
                expected="the weights of CLIPTextModelWithProjection",
                found=f"{len(loading['missing_keys'])} weights missing, e.g. {sorted(loading['missing_keys'])[0]}",
                hint="take openai/clip-vit-base-patch16, or clip-tiny",
            )
        self.model = model.eval().requires_grad_(False)
        self._known: dict[str, Tensor] = {}

    @property
    def width(self) -> int:
        """W."""
        return self.model.config.projection_dim

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Embeddings (n, W), float32 on the CPU, of unit length.

        Raises:
            PromptError: no text, or one that is longer than the model's window.
        """
        new = [text for text in dict.fromkeys(sentences) if text not in self._known]
        for text in new:
            self._check(text)
        for first in range(0, len(new), 64):
            batch = new[first : first + 64]
            inputs = self.tokenizer(batch, padding=True, return_tensors="pt")
            out = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds
            self._known.update(zip(batch, torch.nn.functional.normalize(out.float(), dim=-1), strict=True))
        return torch.stack([self._known[text] for text in sentences])

    def _check(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise PromptError("a text prompt is empty", expected='a sentence such as "the spleen"', found=repr(text))
        window = self.model.config.max_position_embeddings
        length = len(self.tokenizer(text, truncation=False, verbose=False)["input_ids"])
        if length > window:
            raise PromptError(
                "a text prompt is longer than the text model's window",
                expected=f"at most {window} tokens",
                found=f"{length} tokens: {text[:60]}...",
                hint="name the target in one short sentence",
            )


@functools.lru_cache(maxsize=4)
def load_text_encoder(name: str) -> TextEncoder:
    """The text encoder of that name, opened once in a process."""
    return TextEncoder(name)


def embed_objects(texts: Sequence[str] | Sequence[Sequence[str]], num_images: int, name: str) -> Tensor:
    """Sentences for the objects of a batch of images, as `input_texts` of the model.

    Args:
        texts: for each image a list of sentences, one for each object; for a single image also just that list.
        num_images: B.
        name: of the text model.

    Returns:
        (B, P, W).

    Raises:
        PromptError: another number of images, or images with different numbers of sentences.
    """
    if isinstance(texts, str):
        raise PromptError(
            "input_texts is one sentence",
            expected='a list with a sentence for each object, such as ["the spleen"]',
            found=repr(texts),
        )
    nested = [list(texts)] if texts and isinstance(texts[0], str) else [list(each) for each in texts]
    if len(nested) != num_images or len({len(each) for each in nested}) != 1 or not nested[0]:
        raise PromptError(
            "input_texts has for each image a list of as many sentences as the others",
            expected=f"{num_images} lists of one length",
            found=", ".join(str(len(each)) for each in nested) or "none",
            hint='for two images: [["the spleen"], ["the liver"]]',
        )
    flat = load_text_encoder(name)([text for each in nested for text in each])
    return flat.reshape(num_images, len(nested[0]), -1)
