"""Which sentence is said of a training sample, and which labels it means.

A sentence may name what the sample shows, what it does not show, several labels at once (their union supervises) or
something that is surely in no image of the data set (an empty mask supervises). Shapes: W width of the text model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medsam_adapter.prompts.text_bank import LabelTexts


@dataclass
class TextShares:
    """How often a sentence is one of these; the rest names a label that the sample shows."""

    elsewhere: float = 0.2
    """One of the data set's labels, whether the sample shows it or not."""
    union: float = 0.15
    """Several labels, if the bank has such a sentence for the data set."""
    absent: float = 0.1
    """A target of another body region."""


class TextSampler:
    """Draws sentences of the bank's training part for samples with a label map.

    Args:
        texts: what the bank says about the data set's labels (`TextBank.for_labels`).
        values: {name of a target of the data set: the label values that make it up}.
        encode: sentences -> (n, W), e.g. a `TextEncoder`; asked once, for every sentence.
    """

    def __init__(
        self,
        texts: LabelTexts,
        values: Mapping[str, tuple[int, ...]],
        encode: Callable[[Sequence[str]], Tensor],
        shares: TextShares | None = None,
    ):
        self.shares = shares or TextShares()
        sentences: list[str] = []

        def enter(new: Sequence[str]) -> np.ndarray:
            sentences.extend(new)
            return np.arange(len(sentences) - len(new), len(sentences))

        self._of_target = {values[name]: enter(target.train) for name, target in texts.targets.items()}
        self._unions = [({v for name in u.targets for v in values[name]}, enter(u.train)) for u in texts.unions]
        self._absent = enter(texts.absent.train)
        self.sentences = sentences
        self.embeddings = encode(sentences)

    def draw(self, shown: Collection[tuple[int, ...]], rng: np.random.Generator) -> tuple[set[int], int]:
        """A sentence for a sample.

        Args:
            shown: targets that the sample shows, by their label values.

        Returns:
            the label values that the sentence means, and its row in `embeddings`.
        """
        shares, kind = self.shares, rng.random()
        if kind < shares.absent and len(self._absent):
            return set(), int(rng.choice(self._absent))
        kind -= shares.absent
        if 0 <= kind < shares.union and self._unions:
            meant, rows = self._unions[rng.integers(len(self._unions))]
            return set(meant), int(rng.choice(rows))
        kind -= shares.union
        candidates = sorted(set(shown) & set(self._of_target))
        if 0 <= kind < shares.elsewhere or not candidates:
            candidates = sorted(self._of_target)
        target = candidates[rng.integers(len(candidates))]
        return set(target), int(rng.choice(self._of_target[target]))

    def mask(self, labels: Tensor, meant: Collection[int]) -> Tensor:
        """The mask of a sentence on a label map: bool, of its shape."""
        return torch.isin(labels, torch.tensor(sorted(meant), dtype=labels.dtype))
