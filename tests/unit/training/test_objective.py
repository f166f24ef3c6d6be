"""The training step: prompts, carrying, gradients."""

import numpy as np
import pytest
import torch

from medsam_adapter import MSAAdapterConfig, MSAModel
from medsam_adapter.training.objective import PromptedObjective, _start_slices
from medsam_adapter.training.recipe import LossSection, PromptSection


def batch(slices=4, objects=2):
    targets = torch.zeros(1, slices, objects, 32, 32)
    targets[:, : slices - 1, 0, 5:15, 5:15] = 1
    targets[:, 1:, -1, 18:28, 12:30] = 1
    pixels = torch.randn(1, slices, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return pixels, targets, torch.ones(1, slices, dtype=torch.bool)


@pytest.fixture
def objective(tiny_sam):
    model = MSAModel.from_base(tiny_sam(), MSAAdapterConfig(use_depth=True, num_slices=4, bottleneck_ratio=0.25))
    return PromptedObjective(model, PromptSection(), LossSection())


def test_steps_on_one_batch_lower_the_loss():
    """On sam-tiny: the frozen decoder of a random SAM cannot draw anything, whatever its adapters do."""
    model = MSAModel.from_base("sam-tiny", MSAAdapterConfig(use_depth=True, num_slices=4, bottleneck_ratio=0.25))
    objective = PromptedObjective(model, PromptSection(), LossSection())
    targets = torch.zeros(1, 4, 2, 64, 64)
    targets[:, :3, 0, 10:30, 10:30] = 1
    targets[:, 1:, 1, 36:56, 24:60] = 1
    pixels = torch.randn(1, 4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        out = objective(pixels, targets, torch.ones(1, 4, dtype=torch.bool), seed=(0,))
        out["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_same_seed_gives_the_same_loss_and_another_seed_another(objective):
    with torch.no_grad():
        first, again, other = (objective(*batch(), seed=(s,))["loss"].item() for s in (1, 1, 2))
    assert first == again != other


def test_only_adapters_get_gradients(objective):
    objective(*batch(), seed=(3,))["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == ("msa_adapter_" in name), name


def test_pictures_have_nothing_to_carry(objective):
    pixels, targets, mask = batch()
    out = objective(pixels[:, :1], targets[:, :1, :1], mask[:, :1], seed=(0,))
    assert torch.isnan(out["dice_carried"]) and torch.isfinite(out["loss"])


def test_slices_that_fill_up_are_never_decoded(objective):
    """Rubbish on padded slices changes neither loss nor Dice."""
    pixels, targets, mask = batch()
    mask[:, 3:] = False
    targets[:, 3:] = 0
    with torch.no_grad():
        clean = objective(pixels, targets, mask, seed=(5,))["loss"]
        pixels[:, 3:] = 50.0
        dirty = objective(pixels, targets, mask, seed=(5,))["loss"]
    assert torch.equal(clean, dirty)


def test_the_walk_includes_the_first_slice_without_the_object(objective, monkeypatch):
    decoded = []
    original = PromptedObjective._decode

    def spy(self, embeddings, sample, slices, prompts):
        decoded.extend(zip(sample.tolist(), slices.tolist(), strict=True))
        return original(self, embeddings, sample, slices, prompts)

    monkeypatch.setattr(PromptedObjective, "_decode", spy)
    pixels, targets, mask = batch(slices=6, objects=1)
    targets[:, :, 0] = 0
    targets[:, 1:3, 0, 5:15, 5:15] = 1
    objective(pixels, targets, mask, seed=(0,))
    assert {z for _, z in decoded} == {0, 1, 2, 3}  # 4 and 5 lie beyond the end


def test_no_target_at_all_is_an_error(objective):
    pixels, targets, mask = batch()
    with pytest.raises(ValueError, match="no target"):
        objective(pixels, targets * 0, mask, seed=(0,))


def test_start_slices_show_the_object():
    hard = np.zeros((3, 5, 8, 8), bool)
    hard[0, 2, :4], hard[1, 4, 1] = True, True
    start, seen = _start_slices(hard, np.random.default_rng(0))
    assert start[:2].tolist() == [2, 4] and seen.tolist() == [True, True, False]
