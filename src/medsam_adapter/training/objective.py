"""What one training step computes: encode, prompt (or say), correct, carry, and the loss of all of it.

Everything happens inside one module's forward, so that DDP sees every use of a parameter (two processes drift apart
silently otherwise). Several processes learn what one would learn from all their samples: what is one choice for a batch
(the kind of prompt, the number of corrections) is drawn from a seed that all share, what is an object's own from a seed
of that object, and a mean is one over the terms of all processes. Shapes: B samples, D slices, P objects, n = B P,
h = w side of the decoder's masks.
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
from medsam_adapter.training.processes import num_processes, sum_over_processes
from medsam_adapter.training.recipe import PROMPT_KINDS, LossSection, PromptSection

TERMS = ("prompted", "carried", "said", "dice", "dice_carried", "dice_text")
"""What a step takes means of: three losses, and the Dice of each."""
Terms = dict[str, tuple[Tensor, Tensor]]
"""Values and weights of some of `TERMS`, in this process."""


@dataclass
class _Batch:
    """Encoded samples and the n = B P objects to be segmented in them.

    Attributes:
        embeddings: (B, D, C, g, g).
        soft: (n, D, h, w) in [0, 1]; `hard` the same as bool, on the CPU.
        sample_of: (n,), the sample of each object.
        valid: (n,), slices of its sample that are not filling.
        weights: (n,) float32, 1 for objects of samples that count, else 0.
        own: a random generator of each object.
        stride: model-frame pixels to a mask pixel.
        texts: (n, W) or None.
    """

    embeddings: Tensor
    soft: Tensor
    hard: np.ndarray
    sample_of: np.ndarray
    valid: np.ndarray
    weights: Tensor
    own: list[np.random.Generator]
    stride: int
    texts: Tensor | None

    @classmethod
    def of(
        cls,
        embeddings: Tensor,
        targets: Tensor,
        slice_mask: Tensor,
        counts: Tensor,
        own: list[np.random.Generator],
        image_size: int,
        texts: Tensor | None = None,
    ) -> _Batch:
        """From targets (B, D, P, h, w), counts (B,) and texts (B, P, W)."""
        soft = targets.transpose(1, 2).flatten(0, 1)
        sample_of = np.repeat(np.arange(len(targets)), targets.shape[2])
        return cls(
            embeddings,
            soft,
            (soft > 0.5).cpu().numpy(),
            sample_of,
            slice_mask.sum(1).cpu().numpy()[sample_of],
            counts.float().repeat_interleave(targets.shape[2]),
            own,
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
        self._has_text_weights = any("msa_adapter_text" in name for name, _ in self._trained())

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
        samples: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and Dice of one batch, or of this process's part of it.

        Args:
            pixel_values: (B, D, 3, S, S); or give `frozen`, the features (B, D, ...) that `frozen_features` makes of
                them.
            targets: (B, D, P, h, w) in [0, 1].
            slice_mask: (B, D) bool, False for slices that fill up a short volume.
            seed: of the prompts; the same in all processes.
            texts: (B, P, W), a sentence for each of P further objects, and `text_targets` (B, D, P, h, w), what they
                mean; needed where the mix has kinds with a sentence.
            progress: share of the training that is done, for the ramp of corrections.
            samples: (B,) numbers of the samples, which their own draws depend on; 0 to B - 1 if None.
            counts: (B,) bool, False for samples that only fill up a process's part of a batch; all count if None.

        Returns:
            loss, `dice` of prompted slices, `dice_carried` of the others (NaN where none is carried), `dice_text` of
            slices that a sentence alone was said of (NaN where none was); over the samples of all processes. Only the
            gradient of `loss` is this process's part: the mean of the processes' gradients is that of the whole batch.
        """
        rng = np.random.default_rng(seed)
        numbers = range(len(targets)) if samples is None else samples.tolist()
        own = [np.random.default_rng((*seed, 1 + i, p)) for i in numbers for p in range(targets.shape[2])]
        counts = torch.ones(len(targets), device=targets.device) if counts is None else counts
        embeddings = self.model.encode(pixel_values, slice_mask, frozen)
        image_size = self.model.config.vision_config.image_size
        batch = _Batch.of(embeddings, targets, slice_mask, counts, own, image_size)
        kind = self.mix.draw(rng)
        start, seen = _start_slices(batch.hard, own)
        is_seen = _anywhere(batch, seen)
        if kind not in SPOKEN and texts is not None and not is_seen:
            kind = "text"  # slices drawn anywhere may show nothing to click on
        if kind in SPOKEN:
            batch = _Batch.of(embeddings, text_targets, slice_mask, counts, own, image_size, texts)
            start, seen = _start_slices(batch.hard, own)
            is_seen = _anywhere(batch, seen)
            if not is_seen:  # only absent targets were named: there is nothing to click on
                kind = "text"
        if kind == "text":
            return self._means(self._say(batch))
        if not seen.any():  # here, or in any process: it goes along with a part that counts for nothing
            batch.weights = torch.zeros_like(batch.weights)
            seen[0] = True
        out = self._means(self._prompt_and_carry(batch, kind, np.flatnonzero(seen), start[seen], progress, rng))
        if kind not in SPOKEN and self._has_text_weights:  # DDP wants every trained weight in every step
            texts_of_model = (weight for name, weight in self._trained() if "msa_adapter_text" in name)
            out["loss"] = out["loss"] + 0 * sum(weight.sum() for weight in texts_of_model)
        return out

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """Looked up anew: FSDP puts other parameters into the modules."""
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]

    def _num_corrections(self, rng: np.random.Generator, progress: float) -> int:
        prompts = self.prompts
        count = int(rng.integers(1, prompts.max_corrections + 1)) if prompts.max_corrections else 0
        ramp = min(1.0, progress / prompts.correction_ramp) if prompts.correction_ramp else 1.0
        return count if rng.random() < prompts.correction_probability * ramp else 0

    def _say(self, batch: _Batch) -> Terms:
        """Sentences alone, said of every slice; a slice without the target is to stay empty."""
        assert batch.texts is not None
        which, at = np.nonzero(np.arange(batch.hard.shape[1])[None] < batch.valid[:, None])
        logits, scores = self._decode_scored(batch, which, at, PromptSet.of_texts(batch.texts[which]))
        targets = batch.soft[which, at]
        is_empty = targets.flatten(1).amax(1) == 0
        loss = self._loss(logits, targets) + self.loss_weights.empty * is_empty * emptiness_loss(logits)
        # Prediction leaves out slices of a low score, so that what is absent is absent on every slice.
        loss = loss + self.loss_weights.score * (scores - hard_iou(logits.detach(), targets)).square()
        weights = batch.weights[which]
        return {"said": (loss, weights), "dice_text": (hard_dice(logits.detach(), targets), weights)}

    def _prompt_and_carry(
        self, batch: _Batch, kind: str, chosen: np.ndarray, at: np.ndarray, progress: float, rng: np.random.Generator
    ) -> Terms:
        """Prompt the objects `chosen` on the slices `at`, correct, and carry the masks to the other slices."""
        now, now_soft, weights = batch.hard[chosen, at], batch.soft[chosen, at], batch.weights[chosen]
        own = [batch.own[i] for i in chosen]
        prompts = opening_prompts(now, batch.stride, rng, kind, batch.texts_of(chosen), own)
        rounds = 1 + self._num_corrections(rng, progress)
        prompted_loss, dice = 0.0, None
        for number in range(rounds):
            logits = self._decode(batch, chosen, at, prompts)
            prompted_loss = prompted_loss + self._loss(logits, now_soft) / rounds
            dice = hard_dice(logits.detach(), now_soft) if dice is None else dice
            if number + 1 < rounds:
                prompts = correct(prompts, logits.detach().cpu().numpy(), now, batch.stride, rng)
        shown = logits.detach().cpu().numpy()
        terms = {"prompted": (prompted_loss, weights), "dice": (dice, weights)}

        hard, soft = batch.hard, batch.soft
        carried_losses, carried_dice, carried_weights = [], [], []
        walkers = [(i, z, step, shown[k]) for k, (i, z) in enumerate(zip(chosen, at, strict=True)) for step in (-1, 1)]
        for _ in range(self.prompts.carry_slices):
            walkers = [w for w in walkers if 0 <= w[1] + w[2] < batch.valid[w[0]]]
            if not walkers:
                break
            before = np.stack([self._prompt_mask(last, hard[i, z], batch.own[i]) for i, z, _, last in walkers])
            which = np.array([w[0] for w in walkers])
            at = np.array([w[1] + w[2] for w in walkers])
            logits = self._decode(batch, which, at, carried_prompts(before, batch.stride, batch.texts_of(which)))
            carried_losses.append(self._loss(logits, soft[which, at]))
            carried_dice.append(hard_dice(logits.detach(), soft[which, at]))
            carried_weights.append(batch.weights[which])
            shown = logits.detach().cpu().numpy()
            walkers = [  # the first slice without the object is learned too: it is where a walk has to end
                (i, z + step, step, shown[k]) for k, (i, z, step, _) in enumerate(walkers) if hard[i, z + step].any()
            ]
        if carried_losses:
            weights = torch.cat(carried_weights)
            terms |= {
                "carried": (torch.cat(carried_losses), weights),
                "dice_carried": (torch.cat(carried_dice), weights),
            }
        return terms

    def _means(self, terms: Terms) -> dict[str, Tensor]:
        """All that a step reports: means over the terms of all processes; what nobody did is NaN."""
        nothing = next(iter(terms.values()))[1].new_zeros(())
        sums = {name: (values * weights).sum() for name, (values, weights) in terms.items()}
        counts = [terms[name][1].sum() if name in terms else nothing for name in TERMS]
        here = torch.stack([torch.stack([sums.get(name, nothing).detach() for name in TERMS]), torch.stack(counts)], 1)
        total = dict(zip(TERMS, sum_over_processes(here), strict=True))
        share = {"prompted": 1.0, "carried": self.loss_weights.carry, "said": 1.0}
        # DDP and FSDP take the mean of the processes' gradients, and this is a sum: hence the number of processes.
        loss = sum(share[name] * sums[name] / total[name][1].clamp_min(1) for name in share if name in sums)
        if num_processes() > 1:
            whole = sum(share[name] * total[name][0] / total[name][1].clamp_min(1) for name in share)
            loss = num_processes() * loss
            loss = loss + (whole - loss).detach()  # its value is that of the whole batch, in every process
        means = {name: total[name][0] / total[name][1] for name in TERMS if name.startswith("dice")}
        return {"loss": loss, **means}

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


def _start_slices(hard: np.ndarray, own: list[np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
    """For each of n objects the slice to prompt, drawn by the root of its area, and whether it is seen at all."""
    areas = hard.sum((2, 3)).astype(float)
    start = np.zeros(len(areas), int)
    for i, area in enumerate(areas):
        if area.any():
            start[i] = own[i].choice(len(area), p=np.sqrt(area) / np.sqrt(area).sum())
    return start, areas.any(1)


def _anywhere(batch: _Batch, seen: np.ndarray) -> bool:
    """Whether an object that counts is seen in any process."""
    return bool(sum_over_processes((batch.weights * torch.as_tensor(seen, device=batch.weights.device)).sum()) > 0)
