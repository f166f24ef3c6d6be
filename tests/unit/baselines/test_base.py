"""Whole cases: windows, slices and the way back, with a network whose answer is known; and the loss."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from blobs import LPS, PERMUTED, RAS, blob, tilted
from medsam_adapter.baselines.base import Baseline, Size, dice_bce_loss
from medsam_adapter.baselines.nnunet import NNUNet
from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint
from medsam_adapter.errors import DataError


class Bright(Baseline):
    """Says of each voxel whether it is brighter than the mean, and than one standard deviation above."""

    name, title, source = "bright", "Bright", "https://example.org"
    divisor = 4
    sizes = {"published": Size(16, 16, {}, max_batch=3)}

    def _network(self, plan):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1))
                self.seen = []

            def forward(self, images):
                self.seen.append(tuple(images.shape))
                assert not self.training
                return self.weight * torch.cat([images[:, :1], images[:, :1] - 1], 1)

        return Net()


class BrightSlices(Bright):
    slicewise = True


def plan_for(baseline, shape=(14, 22, 18), is_picture=False, channels=1):
    fingerprint = Fingerprint(
        (shape,) * 9, ((1.0, 1.0, 1.0),) * 9, channels, {"whole": (1, 2), "core": (2,)}, "LPS", is_picture, False,
        (ChannelStatistics(0, 1, 0, 1),) * channels,
    )  # fmt: skip
    return baseline.plan(fingerprint)


@pytest.mark.parametrize("axes", [LPS, RAS, PERMUTED, tilted(LPS), tilted(PERMUTED)])
def test_windows_of_a_volume_are_put_back_where_they_were(axes):
    scan = blob(1, axes=axes).scan
    baseline = Bright()
    plan = plan_for(baseline)
    net = baseline.build(plan)
    masks = baseline.predict_scan(net, scan, plan)
    level = (scan.array - scan.array.mean()) / scan.array.std()
    clear = np.abs(level) > 1e-4
    assert np.array_equal(masks[0][clear], (level > 0)[clear])
    assert np.array_equal(masks[1], level > 1)
    assert len(net.seen) > 1 and all(shape[2:] == plan.patch_size for shape in net.seen)
    assert max(shape[0] for shape in net.seen) <= plan.batch_size


@pytest.mark.parametrize("axes", [LPS, tilted(PERMUTED)])
def test_slices_are_asked_for_one_by_one(axes):
    sample = blob(2, (14, 16, 12), axes=axes)
    baseline = BrightSlices()
    plan = plan_for(baseline, (14, 16, 12))
    net = baseline.build(plan)
    masks = baseline.predict_scan(net, sample.scan, plan)
    ball = sample.labels > 0
    assert all(len(shape) == 4 for shape in net.seen) and masks.shape == (2, 14, 16, 12)
    # Slices of the other orientation are scaled to fit.
    assert 2 * (masks[1] & ball).sum() / (masks[1].sum() + ball.sum()) > (0.9 if axes is LPS else 0.8)


def test_a_picture_comes_back_at_its_own_size():
    scan = blob(3, (1, 47, 33), axes=None, channels=3).scan
    baseline = Bright()
    plan = plan_for(baseline, (1, 47, 33), is_picture=True, channels=3)
    masks = baseline.predict_scan(baseline.build(plan), scan, plan)
    assert masks.shape == (2, 1, 47, 33)
    bright = blob(3, (1, 47, 33), axes=None).labels > 0
    assert 2 * (masks[0] & bright).sum() / (masks[0].sum() + bright.sum()) > 0.85


def test_a_network_that_was_not_training_stays_so():
    baseline = Bright()
    plan = plan_for(baseline)
    net = baseline.build(plan).eval()
    baseline.predict(net, torch.zeros(1, 5, 6, 7), plan)
    assert not net.training
    net.train()
    net.weight = None
    with pytest.raises(TypeError):
        baseline.predict(net, torch.zeros(1, 5, 6, 7), plan)
    assert net.training  # also after an error


def test_the_loss_is_dice_over_the_batch_and_cross_entropy():
    targets = torch.zeros(2, 2, 4, 4)
    targets[0, 0, :2] = 1  # of four masks, one is not empty
    logits = torch.zeros_like(targets)
    expected = (1 - 2 * 4 / (16 + 8) + 1 - 0) / 2 + math.log(2)  # 1: 0.5 each over 32 pixels, 8 of them true
    assert dice_bce_loss(logits, targets).item() == pytest.approx(expected, abs=1e-4)
    right, wrong = dice_bce_loss(9 * (targets - 0.5), targets), dice_bce_loss(-9 * (targets - 0.5), targets)
    assert right < 0.6 < 3 < wrong


def test_deep_supervision_weighs_by_halves():
    baseline = NNUNet("tiny")
    images, targets = torch.randn(2, 1, 8, 8), (torch.rand(2, 2, 8, 8) > 0.5).float()
    outputs = torch.randn(2, 3, 2, 8, 8)

    class Net(nn.Module):
        def forward(self, images):
            return outputs

    loss = baseline.loss(Net(), images, targets, torch.Generator())
    each = [dice_bce_loss(outputs[:, level], targets) for level in range(3)]
    torch.testing.assert_close(loss, (each[0] + each[1] / 2 + each[2] / 4) / 1.75)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "einops", None)
    with pytest.raises(DataError, match=r"medsam-adapter\[baselines\]"):
        Bright().build(plan_for(Bright()))
