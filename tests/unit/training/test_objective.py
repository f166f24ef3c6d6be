"""The training step: prompts, carrying, gradients."""

import numpy as np
import pytest
import torch

from medsam_adapter import MSAAdapterConfig, MSAModel
from medsam_adapter.losses import emptiness_loss
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.training.objective import PromptedObjective, _start_slices
from medsam_adapter.training.recipe import PROMPT_KINDS, LossSection, PromptSection


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


@pytest.mark.parametrize("kind", [kind for kind in PROMPT_KINDS if "text" not in kind])
def test_no_target_at_all_teaches_nothing(objective, kind):
    """The one of several raters who was drawn may have marked nothing: the step counts for nothing."""
    shares = {name: float(name == kind) for name in PROMPT_KINDS}
    objective = PromptedObjective(objective.model, PromptSection(**shares, correction_probability=1.0), LossSection())
    pixels, targets, mask = batch()
    for seed in range(3):
        out = objective(pixels, targets * 0, mask, seed=(seed,))
        assert out["loss"] == 0 and torch.isnan(out["dice"]) and torch.isnan(out["dice_carried"])
        out["loss"].backward()
    gradients = [p.grad for p in objective.parameters() if p.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_start_slices_show_the_object():
    hard = np.zeros((3, 5, 8, 8), bool)
    hard[0, 2, :4], hard[1, 4, 1] = True, True
    start, seen = _start_slices(hard, [np.random.default_rng(0)] * 3)
    assert start[:2].tolist() == [2, 4] and seen.tolist() == [True, True, False]


# -- sentences ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def spoken(tiny_sam):
    """An objective of one kind of prompt on a model with texts of width 6."""

    def make(**weights):
        config = MSAAdapterConfig(use_depth=True, num_slices=4, bottleneck_ratio=0.25, use_text=True, text_width=6)
        model = MSAModel.from_base(tiny_sam(), config)
        none = dict.fromkeys(PROMPT_KINDS, 0.0)
        return PromptedObjective(model, PromptSection(**{**none, **weights}), LossSection())

    return make


def said(absent=False):
    pixels, targets, mask = batch()
    texts = torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(1))
    return dict(
        pixel_values=pixels, targets=targets, slice_mask=mask, texts=texts, text_targets=targets * (0 if absent else 1)
    )


def test_a_sentence_alone_is_said_of_every_valid_slice(spoken, monkeypatch):
    calls = []
    original = PromptedObjective._decode_scored

    def spy(self, batch, which, slices, prompts):
        calls.append((sorted(zip(which.tolist(), slices.tolist(), strict=True)), prompts))
        return original(self, batch, which, slices, prompts)

    monkeypatch.setattr(PromptedObjective, "_decode_scored", spy)
    inputs = said()
    inputs["slice_mask"][:, 3:] = False
    out = spoken(text=1)(**inputs, seed=(0,))
    ((pairs, prompts),) = calls
    assert pairs == [(i, z) for i in (0, 1) for z in (0, 1, 2)]
    assert prompts.points.shape[1] == 0 and prompts.boxes is None and prompts.masks is None
    assert torch.equal(prompts.texts, inputs["texts"][0].repeat_interleave(3, 0))
    assert torch.isnan(out["dice"]) and torch.isfinite(out["loss"]) and torch.isfinite(out["dice_text"])


def test_sentences_mean_their_own_targets(spoken):
    """The loss follows text_targets, not the targets of clicks."""
    objective = spoken(text=1)
    inputs = said()
    with torch.no_grad():
        loss = objective(**inputs, seed=(0,))["loss"]
        assert torch.equal(loss, objective(**{**inputs, "targets": inputs["targets"] * 0}, seed=(0,))["loss"])
        assert not torch.equal(loss, objective(**said(absent=True), seed=(0,))["loss"])


def test_a_sentence_and_a_click_stay_together(spoken, monkeypatch):
    seen = []
    original = PromptedObjective._decode
    monkeypatch.setattr(
        PromptedObjective, "_decode", lambda *args: seen.append((args[2], args[4].texts)) or original(*args)
    )
    inputs = said()
    spoken(text_and_click=1)(**inputs, seed=(1,))
    assert len(seen) > 1  # carried slices as well
    for which, texts in seen:
        assert torch.equal(texts, inputs["texts"][0][which])


def test_absent_targets_cannot_be_clicked_but_named(spoken):
    out = spoken(text_and_click=1)(**said(absent=True), seed=(0,))
    assert torch.isnan(out["dice"]) and torch.isfinite(out["dice_text"])


@pytest.mark.parametrize("kind", ["text", "text_and_click", "click"])
def test_every_trained_weight_gets_a_gradient_in_every_step(spoken, kind):
    """Else DDP waits for it; with clicks the gradient of the text projection is zero."""
    objective = spoken(**{kind: 1})
    objective(**said(), seed=(0,))["loss"].backward()
    for name, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == ("msa_adapter_" in name), name
        if "msa_adapter_text" in name:
            assert (parameter.grad.abs().max() > 0) == (kind != "click"), name


def test_the_ramp_of_corrections():
    section = PromptSection(max_corrections=2, correction_probability=0.8, correction_ramp=0.5)
    objective = PromptedObjective(torch.nn.Identity(), section, LossSection())
    rng = np.random.default_rng(0)
    shares = [np.mean([objective._num_corrections(rng, p) > 0 for _ in range(2000)]) for p in (0.0, 0.25, 0.5, 1.0)]
    np.testing.assert_allclose(shares, [0, 0.4, 0.8, 0.8], atol=0.04)
    section.max_corrections = 0
    assert objective._num_corrections(rng, 1.0) == 0


def test_what_is_not_there_costs_by_its_mass_and_its_score(spoken):
    objective, inputs = spoken(text=1), said(absent=True)
    losses = {}
    for name in ("empty", "score", "none"):
        objective.loss_weights = LossSection(empty=float(name == "empty"), score=float(name == "score"))
        with torch.no_grad():
            losses[name] = objective(**inputs, seed=(0,))["loss"].item()
    with torch.no_grad():
        embeddings = objective.model.encode(inputs["pixel_values"], inputs["slice_mask"])
        texts = inputs["texts"].expand(4, -1, -1)
        logits, scores = decode_masks(objective.model, embeddings[0], input_texts=texts)
    assert losses["empty"] - losses["none"] == pytest.approx(emptiness_loss(logits[:, :, 0]).mean().item(), abs=1e-5)
    assert losses["score"] - losses["none"] == pytest.approx(scores.square().mean().item(), abs=1e-5)


def test_slices_drawn_anywhere_may_show_nothing_to_click(spoken):
    """Then the sentences of the batch are said instead; without sentences the step counts for nothing."""
    objective, inputs = spoken(click=1), said()
    inputs["targets"] = inputs["targets"] * 0
    assert torch.isfinite(objective(**inputs, seed=(0,))["dice_text"])
    assert objective(inputs["pixel_values"], inputs["targets"], inputs["slice_mask"], seed=(0,))["loss"] == 0
