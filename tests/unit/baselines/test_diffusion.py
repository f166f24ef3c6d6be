"""Diffusion: the noise that is taught, the masks that are drawn with a network that knows the answer, and the parts."""

from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from medsam_adapter.baselines.ensdiff import EnsDiff
from medsam_adapter.baselines.medsegdiff import FrequencyFilter, MedSegDiffModel, attend
from medsam_adapter.baselines.segdiff import SegDiffModel


class Knowing(nn.Module):
    """Knows the clean masks, and says what noise would have made these of them."""

    num_targets = 2

    def __init__(self, clean: torch.Tensor, train_steps: int, disturb: float = 0.0):
        super().__init__()
        self.clean, self.kept, self.disturb = clean, DDPMScheduler(train_steps).alphas_cumprod, disturb
        self.steps, self.encoded = [], []

    def forward(self, masks, steps, images):
        return self.denoise(masks, steps, self.encode(images))

    def encode(self, images):
        self.encoded.append(len(images))
        return images

    def denoise(self, masks, steps, encoded):
        self.steps.append(int(steps[0]))
        kept = self.kept[steps].view(-1, 1, 1, 1)
        clean = self.clean[: len(masks)] if len(self.clean) >= len(masks) else self.clean[:1].expand_as(masks)
        return (masks - kept**0.5 * clean) / (1 - kept) ** 0.5 + self.disturb * torch.sin(50 * masks)


def sampler(steps: int, masks: int, train_steps: int = 20) -> EnsDiff:
    class Sampler(EnsDiff):
        samplings = {"tiny": (steps, masks)}

    made = Sampler("tiny")
    made.train_steps = train_steps
    return made


@pytest.mark.parametrize("steps", [20, 4])
def test_a_network_that_knows_the_noise_draws_the_mask(steps):
    clean = torch.where(torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5, 1.0, -1.0)
    baseline, net = sampler(steps, masks=3), Knowing(clean, 20)
    logits = baseline.window_logits(net, torch.zeros(1, 1, 8, 8), torch.Generator().manual_seed(1))
    assert torch.equal(logits > 0, clean > 0) and logits.abs().min() > 3
    assert len(net.steps) == steps and net.steps == sorted(net.steps, reverse=True) and net.steps[-1] == 0
    assert net.encoded == [1]  # the image once, not at each step nor for each mask


def test_all_steps_draw_as_monai_s_scheduler_does():
    """With the noise left out, our steps are those of DDPMScheduler.step."""
    scheduler, generator = DDPMScheduler(20), torch.Generator().manual_seed(0)
    baseline = sampler(20, 1)
    for step in (19, 7, 1, 0):
        masks, predicted = (torch.randn(1, 2, 4, 4, generator=generator) for _ in range(2))
        mean = baseline._posterior_mean(scheduler, predicted, step, masks)
        theirs, _ = scheduler.step(predicted, step, masks, torch.Generator().manual_seed(5))
        noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(5))
        ours = mean + scheduler._get_variance(step) ** 0.5 * noise if step else mean
        torch.testing.assert_close(ours, theirs)


def test_the_answer_is_the_mean_of_the_masks():
    clean = torch.ones(4, 2, 4, 4)
    clean[0, :, :2] = -1  # one mask of four says no in the upper half
    logits = sampler(4, masks=4).window_logits(Knowing(clean, 20), torch.zeros(1, 1, 4, 4), torch.Generator())
    share = logits.sigmoid()
    assert share[0, :, :2].sub(0.75).abs().max() < 0.02 and share[0, :, 2:].min() > 0.98


def test_each_picture_gets_its_own_masks():
    clean = torch.stack([torch.ones(2, 4, 4)] * 3 + [-torch.ones(2, 4, 4)] * 3)
    logits = sampler(4, masks=3).window_logits(Knowing(clean, 20), torch.zeros(2, 1, 4, 4), torch.Generator())
    assert (logits[0] > 3).all() and (logits[1] < -3).all()


def test_a_perfect_network_has_no_loss_and_a_deaf_one_has_the_noise_s():
    baseline = sampler(4, 1, train_steps=50)
    targets = (torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    images, generator = torch.zeros(16, 1, 8, 8), torch.Generator().manual_seed(2)
    assert baseline.loss(Knowing(2 * targets - 1, 50), images, targets, generator).item() == pytest.approx(0, abs=1e-4)

    class Deaf(Knowing):
        def denoise(self, masks, steps, encoded):
            self.steps.extend(steps.tolist())
            return torch.zeros_like(masks)

    deaf = Deaf(2 * targets - 1, 50)
    assert baseline.loss(deaf, images, targets, generator).item() == pytest.approx(1, abs=0.1)
    assert len(set(deaf.steps)) > 8 and 0 <= min(deaf.steps) and max(deaf.steps) < 50


def test_the_frequency_filter_starts_as_none_and_can_mute_frequencies():
    features = torch.randn(2, 3, 6, 9)
    parser = FrequencyFilter(3, (6, 9))
    torch.testing.assert_close(parser(features), features)
    with torch.no_grad():
        parser.map.zero_()
        parser.map[:, 0, 0, 0] = 1  # only the constant is let through
    torch.testing.assert_close(parser(features), features.mean((2, 3), keepdim=True).expand_as(features))


def test_attention_is_strong_where_both_are():
    image, mask = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    image[..., 1, 1], image[..., 2, 2], mask[..., 1, 1] = 1, 1, 1
    out = attend(image, mask)
    assert out.argmax() == 5 and out[..., 1, 1] > 0 > out[..., 2, 2]
    normed = torch.nn.functional.layer_norm
    torch.testing.assert_close(out, normed(image, (1, 4, 4)) * normed(mask, (1, 4, 4)) * image)


def test_the_current_mask_changes_what_the_image_s_encoder_says():
    """Dynamic encoding: features of the image pass through those of the mask, in the middle two of six stages."""
    unet = {"attention_levels": 1, "num_heads": 1}
    deep = MedSegDiffModel(1, 1, (64, 64), (4,) * 6, 4, **unet)
    assert set(deep.filters) == {"2", "3"}
    net = MedSegDiffModel(1, 1, (16, 16), (8, 8, 8), 4, **unet).eval()
    fill(net)
    image, steps = torch.randn(1, 1, 16, 16), torch.tensor([3])
    masks = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        before = net(masks, steps, image)
        assert not torch.allclose(net(masks, steps, image + 1), before)
        for parser in net.filters.values():
            parser.map.zero_()
        assert not torch.allclose(net(masks, steps, image), before)


def fill(net: nn.Module) -> None:
    """Random weights: MONAI's last convolutions start at zero, and nothing before them would count."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)


def test_time_counts():
    unet = {"channels": (8, 8), "attention_levels": 1, "num_heads": 1, "groups": 4}
    net = SegDiffModel(1, 2, 1, 4, 2, **unet).eval()
    fill(net)
    masks, image = torch.randn(1, 2, 8, 8), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        one, other = (net(masks, torch.tensor([step]), image) for step in (2, 60))
    assert not torch.allclose(one, other)
