"""A small CLIP text model for the words of the bank of texts (`msa pretrain text RECIPE`).

CLIP brings a sentence near the picture it belongs to. Here a set of targets stands for the picture: a sentence is drawn
to the learned vectors of the targets it names and pushed off all others, pair by pair through a sigmoid (the loss of
SigLIP, https://arxiv.org/abs/2303.15343). The vectors are dropped afterwards. Learned from the training sentences of
the bank only; the held-out third measures what came of it. Such a model is for offline work and tests: it knows the
names of the bank and no other words.

Shapes: n sentences, T targets, W width of the embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.text_names import Finder
from medsam_adapter.training.recipe_reading import load_yaml
from medsam_adapter.writing import naming_write_errors, write_text

START, END = "<|startoftext|>", "<|endoftext|>"
WINDOW = 77
FRAMES = ("{}", "the {}", "Segment the {}.", "Where is the {}?", "{} on this scan", "a picture of the {}", "分割{}")


@dataclass
class TextModelRecipe:
    """All that makes a small text model."""

    vocabulary: int = 1500
    """Most tokens of the tokenizer."""
    hidden_size: int = 128
    """Width of the transformer and of the embeddings."""
    num_layers: int = 2
    """Blocks of the transformer."""
    num_heads: int = 4
    """Attention heads."""
    steps: int = 800
    """Optimisation steps."""
    batch_size: int = 128
    """Sentences in a step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; a cosine to zero follows."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    word_dropout: float = 0.2
    """Chance of each word that is no name to be left out, and of one from another sentence to stand in its place."""
    seed: int = 0
    """Seed of weights and sentences."""


def load_text_model_recipe(path: Path) -> TextModelRecipe:
    """Read a recipe. Raises `RecipeError` as `training.recipe` does."""
    return load_yaml(TextModelRecipe, path)


def make_tokenizer(sentences: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, lower case, with CLIP's two special tokens; any text can be written in it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, model_max_length=WINDOW
    )


class SentenceMaker:
    """Sentences and the targets they name: those of the bank, and names put into plain frames, alone or together."""

    def __init__(self, bank: TextBank, word_dropout: float):
        self.targets, self.word_dropout = list(bank.targets), word_dropout
        row = {name: i for i, name in enumerate(self.targets)}
        self.fixed = [(text, {row[name]}) for name, target in bank.targets.items() for text in target.train]
        self.fixed += [(text, {row[name] for name in u.targets}) for u in bank.unions for text in u.train]
        self.named_in = Finder(
            [name for target in bank.targets.values() for name in target.names]
            + [name for union in bank.unions for name in union.names]
        )
        said = " \n ".join(text for text, _ in self.fixed).casefold()
        self.names = [[n for n in t.names if n.casefold() in said] or [t.names[0]] for t in bank.targets.values()]
        words = [word for text, _ in self.fixed for word in text.split()]
        self.fillers = [word for word in dict.fromkeys(words) if not self.named_in(word)]

    def draw(self, rng: np.random.Generator) -> tuple[str, set[int]]:
        if rng.random() < 0.6:
            text, meant = self.fixed[rng.integers(len(self.fixed))]
            return self._vary(text, rng), meant
        chosen = rng.choice(len(self.targets), int(rng.choice([1, 1, 2, 2, 3])), replace=False)
        names = [self.names[i][rng.integers(len(self.names[i]))] for i in chosen]
        joined = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
        return FRAMES[rng.integers(len(FRAMES))].format(joined), {int(i) for i in chosen}

    def _vary(self, text: str, rng: np.random.Generator) -> str:
        """The sentence with some words left out or exchanged; what it names stays."""
        words = text.split()
        kept = []
        for word in words:
            chance = rng.random() / max(self.word_dropout, 1e-9)
            if chance >= 1:
                kept.append(word)
            elif chance >= 0.5:
                kept.append(self.fillers[rng.integers(len(self.fillers))])
        varied = " ".join(kept)
        return varied if varied and self.named_in(varied) == self.named_in(text) else text


def train_text_model(
    recipe: TextModelRecipe, folder: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Train a text model and write it to `folder`, to be opened by `CLIPTextModelWithProjection` and `AutoTokenizer`.

    Returns:
        shares of sentences whose targets are named exactly, in the training part and in the held-out part.
    """
    bank = TextBank.load()
    maker = SentenceMaker(bank, recipe.word_dropout)
    tokenizer = make_tokenizer([text for text, _ in maker.fixed], recipe.vocabulary)
    torch.manual_seed(recipe.seed)
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=4 * recipe.hidden_size,
            projection_dim=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=recipe.num_heads,
            max_position_embeddings=WINDOW,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    vectors = nn.Parameter(torch.randn(len(maker.targets), recipe.hidden_size) / recipe.hidden_size**0.5)
    sharpness = nn.Parameter(torch.tensor([np.log(10.0), -5.0], dtype=torch.float32))  # log factor and offset
    parameters = [*model.parameters(), vectors, sharpness]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)

    def scores(texts: Sequence[str]) -> Tensor:
        """(n, T): above 0 where a sentence names a target."""
        inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=WINDOW, return_tensors="pt")
        embeddings = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds
        return F.normalize(embeddings, dim=-1) @ F.normalize(vectors, dim=-1).T * sharpness[0].exp() + sharpness[1]

    rng = np.random.default_rng(recipe.seed)
    model.train()
    for step in range(recipe.steps):
        texts, meant = zip(*(maker.draw(rng) for _ in range(recipe.batch_size)), strict=True)
        loss = F.binary_cross_entropy_with_logits(scores(texts), _many_hot(meant, len(maker.targets)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, recipe.steps)
    model.eval()
    row = {name: i for i, name in enumerate(maker.targets)}
    held_out = [(text, {row[name]}) for name, target in bank.targets.items() for text in target.held_out]
    held_out += [(text, {row[name] for name in u.targets}) for u in bank.unions for text in u.held_out]
    with torch.no_grad():
        shares = {
            name: round(float(((scores([t for t, _ in part]) > 0) == (_many_hot([m for _, m in part], len(row)) > 0))
            .all(1).float().mean()), 4)
            for name, part in (("train", maker.fixed), ("held_out", held_out))
        }  # fmt: skip
    with naming_write_errors(folder):
        _save(model, tokenizer, folder)
    facts = asdict(recipe) | {"exact": shares, "sentences": {"train": len(maker.fixed), "held_out": len(held_out)}}
    write_text(folder / "recipe.json", json.dumps(facts, indent=1) + "\n")
    return shares


def _many_hot(meant: Sequence[set[int]], width: int) -> Tensor:
    out = torch.zeros(len(meant), width)
    for i, columns in enumerate(meant):
        out[i, list(columns)] = 1
    return out


def _save(model: CLIPTextModelWithProjection, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in half precision, to be loaded in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = torch.float32
    model.config.architectures = ["CLIPTextModelWithProjection"]
    model.config.save_pretrained(folder)
