"""What one training step computes: encode, prompt (or say), correct, carry, and the loss of all of it.

Everything happens inside one module's forward, so that DDP sees every use of a parameter (two processes drift apart
silently otherwise). Shapes: B samples, D slices, P objects, n = B P, h = w side of the decoder's masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medsam_adapter.losses import bce_loss, dice_loss, emptiness_loss, focal_loss, hard_dice, hard_iou
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.prompts.carry import carried_prompts
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.simulate import SPOKEN, PromptMix, PromptSet, correct, neighbour_mask, opening_prompts
from medsam_adapter.training.recipe import PROMPT_KINDS, LossSection, PromptSection


@dataclass
class _Batch:
    """Encoded samples and the n = B P objects to be segmented in them.

    Attributes:
        embeddings: (B, D, C, g, g).
        soft: (n, D, h, w) in [0, 1]; `hard` the same as bool, on the CPU.
        sample_of: (n,), the sample of each object.
        valid: (n,), slices of its sample that are not filling.
        stride: model-frame pixels to a mask pixel.
        texts: (n, W) or None.
    """

    embeddings: Tensor
    soft: Tensor
    hard: np.ndarray
    sample_of: np.ndarray
    valid: np.ndarray
    stride: int
    texts: Tensor | None

    @classmethod
    def of(cls, embeddings, targets: Tensor, slice_mask: Tensor, image_size: int, texts: Tensor | None = None):
        """From targets (B, D, P, h, w) and texts (B, P, W)."""
        soft = targets.transpose(1, 2).flatten(0, 1)
        sample_of = np.repeat(np.arange(len(targets)), targets.shape[2])
        return cls(
            embeddings,
            soft,
            (soft > 0.5).cpu().numpy(),
            sample_of,
            slice_mask.sum(1).cpu().numpy()[sample_of],
            image_size // targets.shape[-1],
            None if texts is None else texts.flatten(0, 1),
        )

    def texts_of(self, which: np.ndarray) -> Tensor | None:
        return None if self.texts is None else self.texts[which]


class PromptedObjective(nn.Module):
    """An `MSAModel` with the simulated person who trains it."""

    def __init__(self, model: MSAModel, prompts: PromptSection, loss: LossSection):
        super().__init__()
        self.model, self.prompts, self.loss_weights = model, prompts, loss
        self.mix = PromptMix(**{name: getattr(prompts, name) for name in PROMPT_KINDS})
        named = model.named_parameters()
        self._text_weights = [p for name, p in named if "msa_adapter_text" in name and p.requires_grad]

    def forward(
        self,
        pixel_values: Tensor | None,
        targets: Tensor,
        slice_mask: Tensor,
        seed: tuple[int, ...],
        frozen: Tensor | None = None,
        texts: Tensor | None = None,
        text_targets: Tensor | None = None,
        progress: float = 1.0,
    ) -> dict[str, Tensor]:
        """Loss and Dice of one batch.

        Args:
            pixel_values: (B, D, 3, S, S); or give `frozen`, the features (B, D, ...) that `frozen_features` makes of
                them.
            targets: (B, D, P, h, w) in [0, 1].
            slice_mask: (B, D) bool, False for slices that fill up a short volume.
            seed: of the prompts.
            texts: (B, P, W), a sentence for each of P further objects, and `text_targets` (B, D, P, h, w), what they
                mean; needed where the mix has kinds with a sentence.
            progress: share of the training that is done, for the ramp of corrections.

        Returns:
            loss, `dice` of prompted slices, `dice_carried` of the others (NaN where none is carried), `dice_text` of
            slices that a sentence alone was said of (NaN where none was).
        """
        rng = np.random.default_rng(seed)
        embeddings = self.model.encode(pixel_values, slice_mask, frozen)
        image_size = self.model.config.vision_config.image_size
        batch = _Batch.of(embeddings, targets, slice_mask, image_size)
        start, seen = _start_slices(batch.hard, rng)
        kind = self.mix.draw(rng)
        if kind not in SPOKEN and texts is not None and not seen.any():
            kind = "text"  # slices drawn anywhere may show nothing to click on
        if kind in SPOKEN:
            batch = _Batch.of(embeddings, text_targets, slice_mask, image_size, texts)
            start, seen = _start_slices(batch.hard, rng)
            if not seen.any():  # only absent targets were named: there is nothing to click on
                kind = "text"
        if kind == "text":
            return self._say(batch)
        if not seen.any():
            raise ValueError("no target is visible in any sample of this batch")
        out = self._prompt_and_carry(batch, kind, np.flatnonzero(seen), start[seen], progress, rng)
        if kind not in SPOKEN:  # DDP wants every trained weight in every step
            out["loss"] = out["loss"] + 0 * sum(weight.sum() for weight in self._text_weights)
        return out

    def _num_corrections(self, rng: np.random.Generator, progress: float) -> int:
        prompts = self.prompts
        count = int(rng.integers(1, prompts.max_corrections + 1)) if prompts.max_corrections else 0
        ramp = min(1.0, progress / prompts.correction_ramp) if prompts.correction_ramp else 1.0
        return count if rng.random() < prompts.correction_probability * ramp else 0

    def _say(self, batch: _Batch) -> dict[str, Tensor]:
        """Sentences alone, said of every slice; a slice without the target is to stay empty."""
        which, at = np.nonzero(np.arange(batch.hard.shape[1])[None] < batch.valid[:, None])
        logits, scores = self._decode_scored(batch, which, at, PromptSet.of_texts(batch.texts[which]))
        targets = batch.soft[which, at]
        is_empty = targets.flatten(1).amax(1) == 0
        loss = self._loss(logits, targets) + self.loss_weights.empty * is_empty * emptiness_loss(logits)
        # Prediction leaves out slices of a low score, so that what is absent is absent on every slice.
        loss = loss + self.loss_weights.score * (scores - hard_iou(logits.detach(), targets)).square()
        return _outcome(loss.mean(), dice_text=hard_dice(logits.detach(), targets).mean())

    def _prompt_and_carry(
        self, batch: _Batch, kind: str, chosen: np.ndarray, at: np.ndarray, progress: float, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Prompt the objects `chosen` on the slices `at`, correct, and carry the masks to the other slices."""
        now, now_soft = batch.hard[chosen, at], batch.soft[chosen, at]
        prompts = opening_prompts(now, batch.stride, rng, kind, batch.texts_of(chosen))
        rounds = 1 + self._num_corrections(rng, progress)
        prompted_loss, dice = 0.0, None
        for number in range(rounds):
            logits = self._decode(batch, chosen, at, prompts)
            prompted_loss = prompted_loss + self._loss(logits, now_soft).mean() / rounds
            dice = hard_dice(logits.detach(), now_soft).mean() if dice is None else dice
            if number + 1 < rounds:
                prompts = correct(prompts, logits.detach().cpu().numpy(), now, batch.stride, rng)
        shown = logits.detach().cpu().numpy()

        hard, soft = batch.hard, batch.soft
        carried_losses, carried_dice = [], []
        walkers = [(i, z, step, shown[k]) for k, (i, z) in enumerate(zip(chosen, at, strict=True)) for step in (-1, 1)]
        for _ in range(self.prompts.carry_slices):
            walkers = [w for w in walkers if 0 <= w[1] + w[2] < batch.valid[w[0]]]
            if not walkers:
                break
            before = np.stack([self._prompt_mask(last, hard[i, z], rng) for i, z, _, last in walkers])
            which = np.array([w[0] for w in walkers])
            at = np.array([w[1] + w[2] for w in walkers])
            logits = self._decode(batch, which, at, carried_prompts(before, batch.stride, batch.texts_of(which)))
            carried_losses.append(self._loss(logits, soft[which, at]))
            carried_dice.append(hard_dice(logits.detach(), soft[which, at]))
            shown = logits.detach().cpu().numpy()
            walkers = [  # the first slice without the object is learned too: it is where a walk has to end
                (i, z + step, step, shown[k]) for k, (i, z, step, _) in enumerate(walkers) if hard[i, z + step].any()
            ]
        if not carried_losses:
            return _outcome(prompted_loss, dice=dice)
        loss = prompted_loss + self.loss_weights.carry * torch.cat(carried_losses).mean()
        return _outcome(loss, dice=dice, dice_carried=torch.cat(carried_dice).mean())

    def _decode(self, batch: _Batch, which: np.ndarray, slices: np.ndarray, prompts: PromptSet) -> Tensor:
        """(n, h, w) logits of n objects, each on its own slice."""
        return self._decode_scored(batch, which, slices, prompts)[0]

    def _decode_scored(
        self, batch: _Batch, which: np.ndarray, slices: np.ndarray, prompts: PromptSet
    ) -> tuple[Tensor, Tensor]:
        """(n, h, w) logits, and (n,) what the model takes their IoU with the truth to be."""
        picked = batch.embeddings[torch.as_tensor(batch.sample_of[which]), torch.as_tensor(slices)]
        logits, scores = decode_masks(self.model, picked, **prompts.tensors(picked.device, (-1, 1)))
        return logits[:, 0, 0].float(), scores[:, 0, 0].float()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weights, total = self.loss_weights, logits.new_zeros(len(logits))
        for weight, loss in ((weights.dice, dice_loss), (weights.bce, bce_loss), (weights.focal, focal_loss)):
            if weight:
                total = total + weight * loss(logits, targets)
        return total

    @staticmethod
    def _prompt_mask(shown: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What is carried on: the model's mask, or a mask like the target where the model has lost the object."""
        return neighbour_mask(target, rng)[0] if target.any() and not (shown > 0).any() else shown


def _start_slices(hard: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each of n objects the slice to prompt, drawn by the root of its area, and whether it is seen at all."""
    areas = hard.sum((2, 3)).astype(float)
    start = np.zeros(len(hard), int)
    for i, area in enumerate(areas):
        if area.any():
            start[i] = rng.choice(len(area), p=np.sqrt(area) / np.sqrt(area).sum())
    return start, areas.any(1)


def _outcome(loss: Tensor, **dice: Tensor) -> dict[str, Tensor]:
    """All that a step reports; what it did not do is NaN."""
    nothing = torch.full((), float("nan"), device=loss.device)
    return {"loss": loss} | {name: dice.get(name, nothing) for name in ("dice", "dice_carried", "dice_text")}
