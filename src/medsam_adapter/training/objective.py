"""What one training step computes: encode, prompt, correct, carry, and the loss of all of it.

Everything happens inside one module's forward, so that DDP sees every use of a parameter (two processes drift apart
silently otherwise). Shapes: B samples, D slices, P objects, n = B P, h = w side of the decoder's masks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medsam_adapter.losses import bce_loss, dice_loss, focal_loss, hard_dice
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.prompts.carry import carried_prompts
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.simulate import PromptMix, correct, neighbour_mask, opening_prompts
from medsam_adapter.training.recipe import LossSection, PromptSection


class PromptedObjective(nn.Module):
    """An `MSAModel` with the simulated person who trains it."""

    def __init__(self, model: MSAModel, prompts: PromptSection, loss: LossSection):
        super().__init__()
        self.model, self.prompts, self.loss_weights = model, prompts, loss
        self.mix = PromptMix(prompts.click, prompts.clicks, prompts.box, prompts.box_and_click, prompts.neighbour)

    def forward(
        self,
        pixel_values: Tensor | None,
        targets: Tensor,
        slice_mask: Tensor,
        seed: tuple[int, ...],
        frozen: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and Dice of one batch.

        Args:
            pixel_values: (B, D, 3, S, S); or give `frozen`, the features (B, D, ...) that `frozen_features` makes of
                them.
            targets: (B, D, P, h, w) in [0, 1].
            slice_mask: (B, D) bool, False for slices that fill up a short volume.
            seed: of the prompts.

        Returns:
            loss, `dice` of prompted slices, `dice_carried` of the others (NaN for pictures).
        """
        rng = np.random.default_rng(seed)
        samples, depth, objects = targets.shape[:3]
        embeddings = self.model.encode(pixel_values, slice_mask, frozen)
        stride = self.model.config.vision_config.image_size // targets.shape[-1]
        soft = targets.transpose(1, 2).flatten(0, 1)  # (n, D, h, w)
        hard = (soft > 0.5).cpu().numpy()
        sample_of = np.repeat(np.arange(samples), objects)
        valid = slice_mask.sum(1).cpu().numpy()[sample_of]
        start, seen = _start_slices(hard, rng)
        if not seen.any():
            raise ValueError("no target is visible in any sample of this batch")

        chosen, at = np.flatnonzero(seen), start[seen]
        now, now_soft = hard[chosen, at], soft[chosen, at]
        prompts = opening_prompts(now, stride, rng, self.mix)
        corrections = int(rng.integers(1, self.prompts.max_corrections + 1)) if self.prompts.max_corrections else 0
        rounds = 1 + (corrections if rng.random() < self.prompts.correction_probability else 0)
        prompted_loss, dice = 0.0, None
        for number in range(rounds):
            logits = self._decode(embeddings, sample_of[chosen], at, prompts)
            prompted_loss = prompted_loss + self._loss(logits, now_soft).mean() / rounds
            dice = hard_dice(logits.detach(), now_soft).mean() if dice is None else dice
            if number + 1 < rounds:
                prompts = correct(prompts, logits.detach().cpu().numpy(), now, stride, rng)
        shown = logits.detach().cpu().numpy()

        carried_losses, carried_dice = [], []
        walkers = [(i, z, step, shown[k]) for k, (i, z) in enumerate(zip(chosen, at, strict=True)) for step in (-1, 1)]
        for _ in range(self.prompts.carry_slices):
            walkers = [w for w in walkers if 0 <= w[1] + w[2] < valid[w[0]]]
            if not walkers:
                break
            before = np.stack([self._prompt_mask(last, hard[i, z], rng) for i, z, _, last in walkers])
            which = np.array([w[0] for w in walkers])
            at = np.array([w[1] + w[2] for w in walkers])
            logits = self._decode(embeddings, sample_of[which], at, carried_prompts(before, stride))
            carried_losses.append(self._loss(logits, soft[which, at]))
            carried_dice.append(hard_dice(logits.detach(), soft[which, at]))
            shown = logits.detach().cpu().numpy()
            walkers = [  # the first slice without the object is learned too: it is where a walk has to end
                (i, z + step, step, shown[k]) for k, (i, z, step, _) in enumerate(walkers) if hard[i, z + step].any()
            ]
        loss = prompted_loss
        if carried_losses:
            loss = loss + self.loss_weights.carry * torch.cat(carried_losses).mean()
        nothing = torch.full((), float("nan"), device=dice.device)
        return {"loss": loss, "dice": dice, "dice_carried": torch.cat(carried_dice).mean() if carried_dice else nothing}

    def _decode(self, embeddings: Tensor, sample: np.ndarray, slices: np.ndarray, prompts) -> Tensor:
        """(n, h, w) logits of n objects, each on its own slice."""
        picked = embeddings[torch.as_tensor(sample), torch.as_tensor(slices)]
        logits, _ = decode_masks(self.model, picked, **prompts.tensors(embeddings.device, (-1, 1)))
        return logits[:, 0, 0].float()

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
