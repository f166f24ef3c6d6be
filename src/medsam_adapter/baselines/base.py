"""What every network without prompts has in common: how it is planned, built, trained and asked for a whole case.

Shapes: B patches, C channels, K targets; `images` (B, C, d, h, w) and `targets` (B, K, d, h, w), or without d where the
plan is 2-D. Each target has a sigmoid of its own, so that targets may overlap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam_adapter.data.fingerprint import Fingerprint
from medsam_adapter.data.patches.grid import CaseGrid
from medsam_adapter.data.patches.plan import Plan, make_plan
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, RecipeError

OVERLAP = 0.5
"""Of neighbouring windows of a whole case (nnU-Net)."""


@dataclass(frozen=True)
class Size:
    """One size of a network.

    Attributes:
        volume_side: of the cube that has as many voxels as a patch of a volume may have.
        picture_side: of the square for pictures and slices.
        width: what the network's own constructor takes.
        max_batch: upper limit of the batch; None for what nnU-Net's rule says.
        learning_rate: for AdamW, at its highest.
    """

    volume_side: int
    picture_side: int
    width: dict[str, Any]
    max_batch: int | None = None
    learning_rate: float = 1e-3


class Baseline(ABC):
    """A method that segments all targets of a scan without being asked for one.

    Args:
        size: "published" (as in the paper), "small" (minutes on a CPU) or "tiny" (tests).

    Attributes:
        name: on the command line.
        title: in a table.
        source: paper.
        divisor: each side of a patch is a multiple of it; None where the plan's topology says.
        slicewise: takes the slices of a volume as pictures, as in its paper.
        weight_decay: for AdamW.
        sizes: by name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    divisor: int | None = None
    slicewise: ClassVar[bool] = False
    weight_decay: ClassVar[float] = 1e-5
    sizes: ClassVar[dict[str, Size]]

    def __init__(self, size: str = "published"):
        if size not in self.sizes:
            raise RecipeError(f"{self.name} has no size {size!r}", expected=", ".join(self.sizes), found=size)
        self.size = size

    @property
    def learning_rate(self) -> float:
        """For AdamW, at its highest: a small network in a short run takes larger steps than a published one."""
        return self.sizes[self.size].learning_rate

    def plan(self, fingerprint: Fingerprint) -> Plan:
        """Grid, patch and batch for a data set."""
        size = self.sizes[self.size]
        return make_plan(
            fingerprint,
            side=size.picture_side if fingerprint.is_picture or self.slicewise else size.volume_side,
            divisor=self.divisor,
            slicewise=self.slicewise,
            max_batch=size.max_batch,
        )

    def build(self, plan: Plan) -> nn.Module:
        """A fresh network; the caller seeds torch.

        Raises:
            DataError: if a package is missing that MONAI's networks need.
        """
        _need_einops()
        net = self._network(plan, **self.sizes[self.size].width)
        for module in net.modules():  # MONAI's blocks keep a norm that only cross-attention uses; DDP wants none idle
            if isinstance(getattr(module, "norm_cross_attn", None), nn.Module) and not module.with_cross_attention:
                module.norm_cross_attn = nn.Identity()
        return net

    @abstractmethod
    def _network(self, plan: Plan, *_: Any, **width: Any) -> nn.Module:
        """The network for patches of the plan; each takes what its sizes say by name."""

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """What is made smaller, a scalar.

        Args:
            targets: of 0 and 1.
            generator: where the loss is random; on the CPU.
        """
        return dice_bce_loss(net(images), targets)

    def window_logits(self, net: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """(B, K, ...) logits of windows of the size of a patch."""
        return net(images)

    @torch.no_grad()
    def predict(self, net: nn.Module, image: Tensor, plan: Plan, seed: int = 0) -> Tensor:
        """(K, d, h, w) logits of a whole case (C, d, h, w) on the plan's grid, by windows that overlap by half.

        Args:
            seed: for methods whose answer is drawn.
        """
        from monai.inferers import sliding_window_inference

        was_training, generator = net.training, torch.Generator().manual_seed(seed)
        net.eval()
        batch = image.transpose(0, 1) if plan.spatial_dims == 2 else image[None]  # slices are a batch of pictures
        try:
            logits = sliding_window_inference(
                batch,
                plan.network_patch,
                plan.batch_size,
                lambda windows: self.window_logits(net, windows, generator),
                overlap=OVERLAP,
                mode="gaussian",
            )
        finally:
            net.train(was_training)
        return logits.transpose(0, 1) if plan.spatial_dims == 2 else logits[0]

    def predict_scan(self, net: nn.Module, scan: Scan, plan: Plan, seed: int = 0) -> np.ndarray:
        """(K, D, H, W) bool masks of a scan in its file frame, targets in the plan's order."""
        grid = CaseGrid.of(scan, plan)
        image = grid.image(scan, plan).to(next(net.parameters()).device)
        return grid.masks_to_file(self.predict(net, image, plan, seed))


def dice_bce_loss(logits: Tensor, targets: Tensor, smooth: float = 1e-5) -> Tensor:
    """Soft Dice of each target over the whole batch, plus binary cross-entropy: nnU-Net's loss for regions.

    Over the batch, because Dice of a patch that does not show the target says nothing.
    """
    probabilities, axes = logits.sigmoid(), (0, *range(2, logits.ndim))
    overlap = (probabilities * targets).sum(axes)
    total = probabilities.sum(axes) + targets.sum(axes)
    dice = (2 * overlap + smooth) / (total + smooth)
    return (1 - dice).mean() + F.binary_cross_entropy_with_logits(logits, targets)


def _need_einops() -> None:
    try:
        import einops  # noqa: F401
    except ImportError as error:
        raise DataError(
            "a package is missing that MONAI's networks need", expected="einops", found="not installed",
            hint="pip install 'medsam-adapter[baselines]'",
        ) from error  # fmt: skip
