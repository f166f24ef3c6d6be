"""What every network without prompts keeps: it learns, answers on the scan's own grid, the same again, and can be kept.

All in size "tiny". `TRAINED` is a network after a few steps on one batch of the phantom.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from blobs import LPS, PERMUTED, blob, tilted
from medsam_adapter.baselines import BASELINES, PUBLISHED_ONLY, get_baseline
from medsam_adapter.baselines.predictor import NetworkPredictor
from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint
from medsam_adapter.data.patches.dataset import PatchCase, PatchDataset
from medsam_adapter.data.patches.grid import CaseGrid
from medsam_adapter.data.patches.plan import Plan
from medsam_adapter.errors import RecipeError
from medsam_adapter.processing_msa import MSAProcessor

SLICEWISE = {"transunet", "segdiff", "ensdiff", "medsegdiff"}
DIFFUSION = {"segdiff", "ensdiff", "medsegdiff"}
TARGETS = {"whole": (1, 2), "core": (2,)}
STEPS = 5
SCANS = {
    "volume": [blob(n, axes=axes) for n, axes in enumerate((LPS, tilted(PERMUTED)))],
    "picture": [blob(n, (1, 30, 26), axes=None, channels=3) for n in range(2)],
}
every_baseline = pytest.mark.parametrize("name", BASELINES)
every_kind = pytest.mark.parametrize("kind", SCANS)


def fingerprint(kind: str) -> Fingerprint:
    scan = SCANS[kind][0].scan
    channels = 1 if scan.array.ndim == 3 else scan.array.shape[-1]
    statistics = (ChannelStatistics(80, 240, 150, 40),) * channels
    shapes = (scan.shape_zyx,) * 40
    return Fingerprint(shapes, ((1.0, 1.0, 1.0),) * 40, channels, TARGETS, "LPS", kind == "picture", False, statistics)


def batch_of(kind: str, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    cases = []
    for sample in SCANS[kind]:
        grid = CaseGrid.of(sample.scan, plan)
        labels = grid.labels(sample.labels).short()
        spots = {"core": np.argwhere(labels.numpy() == 2)}
        cases.append(PatchCase(sample.case_id, grid.image(sample.scan, plan).half(), labels, spots))
    items = [PatchDataset(cases, plan, 2, seed=3)[index] for index in range(4)][: plan.batch_size]
    return torch.stack([i["image"] for i in items]), torch.stack([i["targets"] for i in items])


class Trained:
    """A tiny network of one method for one kind of scan, with its losses before each of a few steps."""

    def __init__(self, name: str, kind: str):
        self.baseline = get_baseline(name, "tiny")
        self.plan = self.baseline.plan(fingerprint(kind))
        torch.manual_seed(0)
        self.net = self.baseline.build(self.plan).train()
        images, targets = batch_of(kind, self.plan)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=3e-3)
        self.losses, self.moved = [], set()
        for _ in range(STEPS + 1):  # the same random numbers in each step, so that losses can be compared
            loss = self.baseline.loss(self.net, images, targets, torch.Generator().manual_seed(7))
            self.losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            self.moved |= {n for n, p in self.net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
            optimizer.step()


@pytest.fixture(scope="module")
def trained():
    made: dict[tuple[str, str], Trained] = {}

    def get(name: str, kind: str) -> Trained:
        if (name, kind) not in made:
            made[name, kind] = Trained(name, kind)
        return made[name, kind]

    return get


@every_kind
@every_baseline
def test_a_few_steps_lower_the_loss(trained, name, kind):
    run = trained(name, kind)
    assert np.isfinite(run.losses).all()
    assert run.losses[-1] < 0.97 * run.losses[0], run.losses
    assert run.losses[-1] == min(run.losses), run.losses


@every_baseline
def test_every_weight_is_trained(trained, name):
    run = trained(name, "picture" if name in SLICEWISE else "volume")
    idle = {n for n, p in run.net.named_parameters() if p.requires_grad} - run.moved
    # Of a batch, softmax and instance norm are deaf to constants: biases before them have no gradient but rounding.
    idle = {n for n in idle if not n.endswith("bias")}
    assert not idle, idle


@every_kind
@every_baseline
def test_a_whole_case_comes_back_on_its_own_grid(trained, name, kind):
    run = trained(name, kind)
    for sample in SCANS[kind]:
        masks = run.baseline.predict_scan(run.net, sample.scan, run.plan)
        assert masks.shape == (2, *sample.scan.shape_zyx) and masks.dtype == bool
    assert run.net.training  # as it was


@every_baseline
def test_it_can_be_saved_and_opened(trained, name, tmp_path):
    run = trained(name, "picture")
    NetworkPredictor(run.baseline, run.net, run.plan, MSAProcessor()).save_pretrained(tmp_path)
    opened, scan = NetworkPredictor.from_pretrained(tmp_path, "cpu"), SCANS["picture"][0].scan
    assert opened.plan == run.plan and opened.baseline.name == name
    assert np.array_equal(opened.masks(scan, ["core"])[0], run.baseline.predict_scan(run.net, scan, run.plan)[1])


@every_baseline
def test_the_same_question_has_the_same_answer(trained, name):
    run = trained(name, "picture")
    scan = SCANS["picture"][0].scan
    image = CaseGrid.of(scan, run.plan).image(scan, run.plan)
    torch.manual_seed(0)
    one = run.baseline.predict(run.net, image, run.plan)
    torch.manual_seed(1)
    assert torch.equal(run.baseline.predict(run.net, image, run.plan), one)
    assert one.shape == (2, *image.shape[1:]) and torch.isfinite(one).all()
    assert one.std() > 0
    other = run.baseline.predict(run.net, image, run.plan, seed=1)
    assert torch.equal(other, one) == (name not in DIFFUSION)  # drawn from noise, or not


@every_baseline
def test_the_loss_s_random_numbers_are_the_generator_s(trained, name):
    run = trained(name, "picture")
    images, targets = batch_of("picture", run.plan)
    net = copy.deepcopy(run.net).eval() if name in DIFFUSION else copy.deepcopy(run.net)
    for module in net.modules():  # dropout is the network's own
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def loss(seed):
        return run.baseline.loss(net, images, targets, torch.Generator().manual_seed(seed)).item()

    assert loss(1) == pytest.approx(loss(1), rel=1e-6)
    assert (loss(1) == pytest.approx(loss(2), rel=1e-6)) == (name not in DIFFUSION)


@every_baseline
def test_a_kept_network_answers_as_before(trained, name):
    run = trained(name, "picture")
    plan = Plan.from_json(json.loads(json.dumps(run.plan.to_json())))
    again = get_baseline(name, "tiny").build(plan)
    again.load_state_dict(run.net.state_dict())
    scan = SCANS["picture"][1].scan
    image = CaseGrid.of(scan, plan).image(scan, plan)
    torch.testing.assert_close(run.baseline.predict(again, image, plan), run.baseline.predict(run.net, image, run.plan))


@every_baseline
def test_sizes_and_names(name):
    sizes = {}
    for size in ("published", "small", "tiny"):
        baseline = get_baseline(name, size)
        assert baseline.name == name and baseline.title and baseline.source.startswith("https://")
        for kind in SCANS:
            plan = baseline.plan(fingerprint(kind))
            assert plan.spatial_dims == (2 if kind == "picture" or name in SLICEWISE else 3)
            step = baseline.divisor or 1
            assert not any(side % step for side in plan.network_patch)
        if size != "published":
            sizes[size] = sum(p.numel() for p in baseline.build(plan).parameters())
    assert sizes["tiny"] < sizes["small"] < 20e6
    with pytest.raises(RecipeError, match="no size 'huge'"):
        get_baseline(name, "huge")


def test_published_sizes_are_the_papers():
    """Parameters in millions, most built without memory; UNETR, MedNeXt-L and TransUNet as printed there."""
    plans = fingerprint("volume")
    big = Fingerprint(((200, 200, 200),) * 40, plans.spacings_mm, 1, TARGETS, "LPS", False, False, plans.statistics)
    wanted = {"nnunet": 31, "unetr": 93, "swin_unetr": 62, "mednext": 62, "transunet": 105, "transbts": 33}
    for name, millions in wanted.items():
        baseline = get_baseline(name)
        with torch.device("cpu" if name == "swin_unetr" else "meta"):  # MONAI's reads numbers from a tensor
            net = baseline.build(baseline.plan(big))
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.04), name


def test_unknown_names_are_answered():
    with pytest.raises(RecipeError, match="did you mean swin_unetr"):
        get_baseline("swinunetr")
    for name, system in PUBLISHED_ONLY.items():
        assert system.source and system.reason
        with pytest.raises(RecipeError, match="published figures only"):
            get_baseline(name)


def test_the_list_of_names_is_light():
    code = "import sys, medsam_adapter.baselines; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
