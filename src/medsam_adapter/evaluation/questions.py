"""What a model is asked about one case: a prompt for each target, drawn from the reference or from the bank of texts.

Prompts of a case depend on the seed and the case alone, so that every method is asked the same. Sentences are those the
bank holds out of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.errors import PromptError
from medsam_adapter.evaluation.protocol import SPOKEN, draw_prompt
from medsam_adapter.prompts.text_bank import LabelTexts
from medsam_adapter.prompts.types import ObjectPrompt

NUM_ABSENT = 4
"""Sentences about something of another body region that `text-absent` says of each case."""


@dataclass
class Question:
    """One mask that is asked for.

    Attributes:
        target: its name in the results.
        values: the label values whose union is the reference.
        prompt: None where the target cannot be prompted, because the case does not show it.
    """

    target: str
    values: tuple[int, ...]
    prompt: ObjectPrompt | None


def questions(
    case_id: str,
    labels: np.ndarray,
    targets: Mapping[str, tuple[int, ...]],
    turn: Turn,
    protocol: str,
    per: str,
    seed: int,
    texts: LabelTexts | None = None,
) -> list[Question]:
    """All questions about one case.

    Args:
        labels: (D, H, W) in the source frame.
        targets: {name: label values} of what is wanted.
        texts: what the bank says about these names; needed by the protocols with sentences.

    Raises:
        PromptError: `text-union` without a sentence for several of the targets.
    """
    case_seed = np.frombuffer(case_id.encode(), np.uint8).tolist()
    if protocol in SPOKEN:
        assert texts is not None
        return _spoken(targets, protocol, texts, np.random.default_rng([seed, *case_seed]))
    asked = []
    for name, values in targets.items():
        target, rng = np.isin(labels, values), np.random.default_rng([seed, *values, *case_seed])
        asked.append(Question(name, values, draw_prompt(target, turn, protocol, per, rng) if target.any() else None))
    return asked


def _spoken(
    values: Mapping[str, tuple[int, ...]], protocol: str, texts: LabelTexts, rng: np.random.Generator
) -> list[Question]:
    if protocol == "text":
        return [Question(n, v, ObjectPrompt(text=_one(texts.targets[n].held_out, rng))) for n, v in values.items()]
    if protocol == "text-absent":
        if not texts.absent.held_out:
            raise PromptError(
                "nothing is known to be absent", expected="targets that the bank of texts knows",
                found=", ".join(values), hint="use --prompts text",
            )  # fmt: skip
        return [
            Question(f"absent {i}", (), ObjectPrompt(text=_one(texts.absent.held_out, rng)))
            for i in range(1, NUM_ABSENT + 1)
        ]
    if not texts.unions:
        raise PromptError(
            "the bank has no sentence that names several of the targets", expected="a union of two targets",
            found=", ".join(values), hint="add one to a bank file and give it with --bank",
        )  # fmt: skip
    return [
        Question(
            " + ".join(u.targets),
            tuple(value for target in u.targets for value in values[target]),
            ObjectPrompt(text=_one(u.held_out, rng)),
        )
        for u in texts.unions
    ]


def _one(sentences: tuple[str, ...], rng: np.random.Generator) -> str:
    return sentences[int(rng.integers(len(sentences)))]
