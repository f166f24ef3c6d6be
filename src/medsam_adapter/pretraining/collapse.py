"""Is the encoder still telling pictures apart? Figures of the pooled embeddings of a fixed set of pictures.

- Effective rank, after RankMe (https://arxiv.org/abs/2210.02885): exp of the entropy of the normalised singular values;
  1 if pictures differ in one direction only or not at all, at most min(N - 1, C). Differs from RankMe in that features
  are centred: what SAM's pooled embeddings have in common is so large that it would hide the rest.
- Spread: standard deviation of the unit-length features, mean over channels, times sqrt(C); 0 if all pictures look the
  same, about 1 if they fill the sphere (SimSiam, https://arxiv.org/abs/2011.10566).
- Accuracy of nearest neighbours and of a linear probe, where the pictures are of two classes or more. A class is
  source/label, or the source alone where it has no labels.

None of them says that the encoder is good; all of them, beside the starting encoder's, say when it has collapsed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.pretraining.tokens import pool

RIDGE = 0.1
"""Weight of the probe's penalty, against centred features of mean squared length 1."""


def effective_rank(features: Tensor) -> float:
    """Effective rank of features (N, C); 1 for constant ones."""
    features = features.double()
    centred = features - features.mean(0)
    if centred.norm() <= 1e-5 * features.norm():  # rounding, which has any rank
        return 1.0
    values = torch.linalg.svdvals(centred)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def spread(features: Tensor) -> float:
    """Standard deviation of unit-length features (N, C), mean over channels, times sqrt(C)."""
    unit = F.normalize(features.double(), dim=1)
    return float(unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5)


def neighbour_accuracy(features: Tensor, classes: Tensor, neighbours: int = 5) -> float:
    """Leave-one-out accuracy of the vote of the nearest by cosine.

    Args:
        features: (N, C).
        classes: (N,) int64 from 0 on.
    """
    unit = F.normalize(features.double(), dim=1)
    similarity = unit @ unit.t()
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(neighbours, len(unit) - 1), 1).indices
    votes = F.one_hot(classes[nearest], int(classes.max()) + 1).sum(1).double()
    first = F.one_hot(classes[nearest[:, 0]], votes.shape[1])  # the very nearest decides between equal votes
    return float(((votes + 0.5 * first).argmax(1) == classes).double().mean())


def probe_accuracy(features: Tensor, classes: Tensor) -> float:
    """Accuracy of a linear classifier on pictures it has not seen: ridge regression on one-hot targets, two folds.

    Args:
        features: (N, C).
        classes: (N,) int64 from 0 on; of each class every second picture lies in the other fold.
    """
    fold = torch.empty_like(classes)
    order = classes.argsort(stable=True)
    fold[order] = torch.arange(len(order)) % 2
    targets = F.one_hot(classes).double()
    right = 0
    for held in (0, 1):
        fit, test = fold != held, fold == held
        mean = features[fit].double().mean(0)
        seen, unseen = features[fit].double() - mean, features[test].double() - mean
        scale = seen.square().sum(1).mean().clamp_min(1e-12)  # one for all channels: noise is not blown up
        kernel = seen @ seen.t() / scale
        centre = targets[fit].mean(0)
        solved = torch.linalg.solve(kernel + RIDGE * torch.eye(len(kernel)).double(), targets[fit] - centre)
        predicted = unseen @ seen.t() / scale @ solved + centre
        right += int((predicted.argmax(1) == classes[test]).sum())
    return right / len(classes)


@dataclass
class HeldPictures:
    """The pictures that are looked at again and again.

    They come from the sources that are trained on, so they are fixed rather than unseen.
    """

    pixel_values: list[Tensor] = field(default_factory=list)
    """Each (3, S, S), float16."""
    classes: list[str] = field(default_factory=list)
    """source/label, or the source."""

    def fill(self, batches, count: int, patience: int = 20) -> HeldPictures:
        """Keep the first `count` distinct pictures of a `Mixture`; stop after `patience` batches without a new one."""
        names: set[tuple[int, str]] = set()
        idle = 0
        for batch in batches:
            before = len(names)
            for index, name in enumerate(batch["names"]):
                source, label = int(batch["source"][index]), batch["labels"][index]
                if (source, name) in names or len(names) == count:
                    continue
                names.add((source, name))
                self.pixel_values.append(batch["pixel_values"][index].half())
                self.classes.append(f"{source}" if label is None else f"{source}/{label}")
            idle = idle + 1 if len(names) == before else 0
            if len(names) == count or idle == patience:
                break
        return self

    @torch.no_grad()
    def features(self, vision_encoder: nn.Module, batch_size: int) -> Tensor:
        """Pooled image embeddings (N, E) on the CPU; the encoder is in evaluation mode meanwhile."""
        was_training = vision_encoder.training
        vision_encoder.eval()
        weight = vision_encoder.patch_embed.projection.weight
        made = []
        for start in range(0, len(self.pixel_values), batch_size):
            pixels = torch.stack(self.pixel_values[start : start + batch_size]).to(weight.device, weight.dtype)
            made.append(pool(vision_encoder(pixels)[0]).cpu())
        vision_encoder.train(was_training)
        return torch.cat(made)


def measure(features: Tensor, classes: list[str]) -> dict[str, float]:
    """All figures of features (N, C): effective_rank, spread; with two classes or more knn, probe and chance.

    Only classes of at least two pictures count for the accuracies; chance is the share of the largest.
    """
    found = {"effective_rank": effective_rank(features), "spread": spread(features)}
    sizes = {name: size for name, size in Counter(classes).items() if size >= 2}
    if len(sizes) >= 2:
        kept = [index for index, name in enumerate(classes) if name in sizes]
        numbers = {name: number for number, name in enumerate(sorted(sizes))}
        targets = torch.tensor([numbers[classes[index]] for index in kept])
        found["knn"] = neighbour_accuracy(features[kept], targets)
        found["probe"] = probe_accuracy(features[kept], targets)
        found["chance"] = max(sizes.values()) / len(kept)
    return {name: round(value, 4) for name, value in found.items()}


def warning_of(now: dict[str, float], start: dict[str, float], fraction: float) -> str | None:
    """What to tell the user if effective rank or spread has fallen below `fraction` of the starting encoder's."""
    fallen = [name for name in ("effective_rank", "spread") if now[name] < fraction * start[name]]
    if not fallen:
        return None
    figures = ", ".join(f"{name.replace('_', ' ')} {now[name]:.3g}, was {start[name]:.3g}" for name in fallen)
    return (
        f"the encoder may be collapsing: {figures} at the start; next: lower learning_rate, raise weights.mae or stay"
    )
