"""Each objective alone: values by hand, what it learns, and where its gradient goes."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medsam_adapter import MSAAdapterConfig, MSAModel
from medsam_adapter.errors import RecipeError
from medsam_adapter.pretraining.emix import EMix, soft_target_loss
from medsam_adapter.pretraining.mae import MAE, masked_error, normalised_patches
from medsam_adapter.pretraining.shed import ShED, shuffle_tokens
from medsam_adapter.pretraining.stay import Stay, relative_distance
from medsam_adapter.pretraining.tokens import embed_patches, encode_patches

GRID, PATCH, WIDTH, CHANNELS = 8, 8, 32, 32  # of tiny_sam


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6) -> torch.Tensor:
    """Pictures whose patches can be told from their neighbours: smooth fields and noise, (B, 3, 64, 64)."""
    coarse = torch.randn(count, 3, 5, 5, generator=seeded(1))
    smooth = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic", align_corners=True)
    return smooth + 0.1 * torch.randn(count, 3, 64, 64, generator=seeded(2))


def objective(name: str, encoder):
    return {
        "emix": lambda: EMix(CHANNELS, width=16),
        "shed": lambda: ShED(CHANNELS, GRID),
        "mae": lambda: MAE(WIDTH, CHANNELS, GRID, PATCH, width=32, depth=1),
        "stay": lambda: Stay(encoder),
    }[name]()


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sam", "msa", "adapters"])
def test_the_two_halves_are_the_encoder(tiny_sam, randomise, kind):
    model = tiny_sam()
    if kind != "sam":
        model = MSAModel.from_base(model, MSAAdapterConfig(use_depth=True) if kind == "adapters" else None)
        randomise(model)
    encoder, pixels = model.vision_encoder, pictures()
    with torch.no_grad():
        patches = embed_patches(encoder, pixels)
        halves, whole = encode_patches(encoder, patches), encoder(pixels)[0]
        assert patches.shape == (6, GRID, GRID, WIDTH) and halves.shape == (6, CHANNELS, GRID, GRID)
        torch.testing.assert_close(halves, whole, atol=1e-6, rtol=0)
        encoder.pos_embed.add_(torch.randn(encoder.pos_embed.shape, generator=seeded()))
        assert (encode_patches(encoder, patches) - whole).abs().max() > 1e-2  # positions come in the second half


# -- values by hand ----------------------------------------------------------------------------------------------------


def test_emix_by_hand():
    """Two pictures, each the other's partner; similarities / t are [[2, 0], [1, 0]] with t = 1/2."""
    mixed = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    sources = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    share, partner = torch.tensor([0.75, 0.6]), torch.tensor([1, 0])
    first = 0.75 * math.log(1 + math.exp(-2)) + 0.25 * math.log(1 + math.exp(2))
    second = 0.6 * math.log(1 + math.exp(1)) + 0.4 * math.log(1 + math.exp(-1))
    found = soft_target_loss(mixed, sources, share, partner, 0.5)
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_emix_mixes_in_the_share_that_is_its_target(tiny_sam, monkeypatch):
    """What the encoder is shown is l x_i + (1 - l) x_s(i) with the l and s that the loss is told, l >= 1/2."""
    from medsam_adapter.pretraining import emix

    encoder, seen, told = tiny_sam().vision_encoder, [], []
    monkeypatch.setattr(emix, "encode_patches", lambda e, p: seen.append(p) or encode_patches(e, p))
    monkeypatch.setattr(emix, "soft_target_loss", lambda *given: told.append(given) or soft_target_loss(*given))
    patches = embed_patches(encoder, pictures())
    EMix(CHANNELS)(encoder, patches, pictures(), seeded(3))
    share, partner = told[0][2:4]
    assert (share >= 0.5).all() and (share <= 1).all() and share.unique().numel() == 6
    assert sorted(partner.tolist()) == list(range(6)) and partner.tolist() != list(range(6))
    for i in range(6):
        torch.testing.assert_close(seen[0][i], share[i] * patches[i] + (1 - share[i]) * patches[partner[i]])
    assert torch.equal(seen[1], patches)
    for rows in told[0][:2]:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))


def test_shed_moves_what_it_says():
    patches = torch.arange(2 * 9 * 4).float().view(2, 3, 3, 4)
    shuffled, is_moved = shuffle_tokens(patches, 4, seeded())
    assert is_moved.sum((1, 2)).tolist() == [4, 4]  # a cycle: none of the four stays where it was
    assert torch.equal(shuffled[~is_moved], patches[~is_moved])
    assert (shuffled[is_moved] != patches[is_moved]).all()
    for before, after in zip(patches, shuffled, strict=True):  # the same tokens, whole
        assert torch.equal(after.flatten(0, 1).sort(0).values, before.flatten(0, 1))
    assert not torch.equal(is_moved[0], is_moved[1])  # each picture has its own


def test_shed_does_not_ask_for_what_nobody_can_see():
    patches = torch.zeros(1, 2, 2, 3)
    patches[0, 0, 0] = 1
    shuffled, is_moved = shuffle_tokens(patches, 4, seeded())
    assert is_moved.sum() == 2 and torch.equal(is_moved, (shuffled != patches).any(-1))


def test_shed_by_hand(tiny_sam):
    """A classifier that says log 3 (probability 3/4) everywhere: cross-entropies -log 3/4 and -log 1/4."""
    shed, encoder = ShED(CHANNELS, GRID, 0.25), tiny_sam().vision_encoder
    torch.nn.init.zeros_(shed.head.weight), torch.nn.init.constant_(shed.head.bias, math.log(3))
    loss = shed(encoder, embed_patches(encoder, pictures()), pictures(), seeded())
    assert loss.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4), abs=1e-6)


def test_shed_refuses_to_shuffle_one_token():
    assert ShED(CHANNELS, GRID, 2 / 64).count == 2
    with pytest.raises(RecipeError, match="too few tokens") as caught:
        ShED(CHANNELS, GRID, 1.4 / 64)
    assert "1 of 8 x 8" in str(caught.value)


def test_mae_targets_by_hand():
    """Two 2 x 2 patches of a 2 x 4 strip in a 4 x 4 picture: mean 2.5 and variance 1.25; a flat one becomes zeros."""
    pixels = torch.full((1, 1, 4, 4), 7.0)
    pixels[0, 0, :2, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    target = normalised_patches(pixels, 2)
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5]) / math.sqrt(1.25 + 1e-6)
    torch.testing.assert_close(target[0, :, 0, 0], expected)
    assert target.shape == (1, 4, 2, 2) and (target[0, :, 1, 1] == 0).all() and (target[0, :, 0, 1] == 0).all()


def test_mae_counts_masked_patches_only():
    target, predicted = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    predicted[0, :, 0, 0] = torch.tensor([1.0, 3.0])  # masked: mean square 5
    predicted[0, :, 1, 1] = 100.0  # not masked
    is_masked = torch.tensor([[[True, True], [False, False]]])
    assert masked_error(predicted, target, is_masked).item() == pytest.approx(5 / 2)


def test_mae_hides_what_it_asks_for(tiny_sam):
    """The loss's gradient with respect to patch embeddings is zero exactly where the mask token stands."""
    encoder, mae = tiny_sam().vision_encoder, MAE(WIDTH, CHANNELS, GRID, PATCH, ratio=0.25, depth=1)
    patches = embed_patches(encoder, pictures()).detach().requires_grad_()
    mae(encoder, patches, pictures(), seeded()).backward()
    assert mae.count == 16 and ((patches.grad == 0).all(-1).sum((1, 2)) == 16).all()
    assert mae.mask_token.grad.abs().max() > 0


def test_stay_by_hand():
    """Teacher -1 and 1 in channel 0 (variance 1), 5 in channel 1 (variance 0); off by 1 in one of four numbers."""
    teacher = torch.tensor([[[[-1.0]], [[5.0]]], [[[1.0]], [[5.0]]]])
    embeddings = teacher.clone()
    embeddings[0, 0] += 1
    assert relative_distance(embeddings, teacher).item() == pytest.approx((1 / 4) / (1 / 2))
    mean = teacher.mean((0, 2, 3), keepdim=True).expand_as(teacher)
    assert relative_distance(mean, teacher).item() == pytest.approx(1)


# -- learning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["emix", "shed", "mae", "stay"])
def test_the_loss_falls_and_the_gradient_goes_where_it_should(tiny_sam, name):
    model = MSAModel.from_base(tiny_sam())
    encoder = model.vision_encoder.requires_grad_(True).train()
    module, pixels = objective(name, encoder), pictures()
    if name == "stay":  # from where it starts it has nothing to mend
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded()))
    trained = [p for p in [*encoder.parameters(), *module.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 2e-3)
    losses = []
    for _ in range(30):
        loss = module(encoder, embed_patches(encoder, pixels), pixels, seeded())
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            reached = [*encoder.named_parameters(), *(x for x in module.named_parameters() if "teacher" not in x[0])]
            silent = [n for n, p in reached if p.grad is None or not p.grad.abs().max() > 0]
            assert not silent, silent
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    untouched = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    if name == "stay":
        untouched += list(module.teacher.parameters())
        assert not any(p.requires_grad for p in module.teacher.parameters()) and not module.train().teacher.training
    assert all(p.grad is None for p in untouched)


def test_the_sources_of_emix_get_no_gradient(tiny_sam, monkeypatch):
    """The encoder is asked twice; only the answer for the mixes has a gradient, also in the head."""
    from medsam_adapter.pretraining import emix

    told = []
    monkeypatch.setattr(emix, "soft_target_loss", lambda *given: told.append(given) or soft_target_loss(*given))
    encoder = tiny_sam().vision_encoder
    EMix(CHANNELS)(encoder, embed_patches(encoder, pictures()), pictures(), seeded())
    assert told[0][0].requires_grad and not told[0][1].requires_grad


@pytest.mark.parametrize("name", ["emix", "shed", "mae", "stay"])
def test_with_adapters_only_they_and_the_heads_learn(tiny_sam, randomise, name):
    base = tiny_sam()
    model = MSAModel.from_base(copy.deepcopy(base), MSAAdapterConfig(bottleneck_ratio=0.25))
    module = objective(name, model.vision_encoder)
    randomise(model)  # at zero, half of an adapter has no gradient
    before = {n: p.clone() for n, p in model.named_parameters() if "msa_adapter" not in n}
    optimizer = torch.optim.AdamW([p for p in [*model.parameters(), *module.parameters()] if p.requires_grad], 1e-3)
    loss = module(model.vision_encoder, embed_patches(model.vision_encoder, pictures()), pictures(), seeded())
    loss.backward()
    for n, p in model.vision_encoder.named_parameters():
        assert ("msa_adapter" in n) == (p.grad is not None), n
    assert all(p.grad is not None for n, p in module.named_parameters() if "teacher" not in n)
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)


@pytest.mark.parametrize("name", ["emix", "shed", "mae", "stay"])
def test_the_generator_decides_everything(tiny_sam, name):
    encoder = tiny_sam().vision_encoder
    module, patches = objective(name, tiny_sam(seed=1).vision_encoder), embed_patches(encoder, pictures())
    with torch.no_grad():
        first, again, other = (module(encoder, patches, pictures(), seeded(s)).item() for s in (4, 4, 5))
    assert first == again and (first != other or name == "stay")


@pytest.mark.parametrize("name", ["emix", "shed", "mae", "stay"])
def test_in_bf16_the_loss_is_float32_and_near(tiny_sam, name):
    encoder = MSAModel.from_base(tiny_sam()).vision_encoder.requires_grad_(True)
    module = objective(name, tiny_sam(seed=1).vision_encoder)
    plain = module(encoder, embed_patches(encoder, pictures()), pictures(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(encoder, embed_patches(encoder, pictures()), pictures(), seeded())
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(plain.item(), rel=0.05)


def test_bf16_does_not_round_similarities():
    mixed, sources = (torch.nn.functional.normalize(torch.randn(5, 16, generator=seeded(s)), dim=1) for s in (1, 2))
    given = (mixed, sources, torch.full((5,), 0.7), torch.tensor([1, 2, 3, 4, 0]), 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_target_loss(*given)
    assert torch.equal(loss, soft_target_loss(*given))
