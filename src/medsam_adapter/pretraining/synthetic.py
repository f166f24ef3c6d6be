"""Domain-randomised pictures with objects to click on: what the embedded backbone learns from, instead of real data.

A scene is a label map (smooth regions, blobs, ellipses, tubes, crescents, nests, swarms of small cells) filled with
random intensities and textures, then blurred, shaded, made noisy and cropped, so that nothing but "what belongs
together" is common to all scenes. `level` in [0, 1] is the curriculum: at 0 two compact objects lie on a plain ground.
The idea that labels with random contrast teach segmentation of any contrast is SynthSeg's / SynthMorph's
(https://arxiv.org/abs/2107.09559, https://arxiv.org/abs/2004.10282).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Scene:
    """pixel_values (3, S, S) normalised; targets (P, S, S) bool, one object for each prompt."""

    pixel_values: Tensor
    targets: Tensor


class Dice:
    """Random numbers of one scene: everything drawn from one seeded generator."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def noise(self, count: int, size: int, cells: int) -> Tensor:
        """(count, size, size) smooth noise of unit variance or less with about `cells` bumps across the picture."""
        coarse = self.normal(count, 1, cells, cells)
        return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)[:, 0]


def make_scene(seed: int, size: int = 128, level: float = 1.0, num_prompts: int = 4) -> Scene:
    """One scene, the same for the same arguments.

    Args:
        seed: of everything random in it.
        size: side of the picture in pixels.
        level: difficulty from 0 to 1.
        num_prompts: P, how many objects are chosen as targets (an object may be chosen twice).
    """
    dice = Dice(seed)
    labels, first_object = _label_map(dice, size, level)
    image = _finish(dice, _paint(dice, labels, level), level)
    height, width = (size, size)
    if dice.chance(
        0.4 * level
    ):  # as the processor pads a picture that is not square: right and bottom, after normalising
        short = int(size * dice.uniform(0.5, 0.98))
        height, width = (short, size) if dice.chance(0.5) else (size, short)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    pixel_values = (image - mean) / std
    pixel_values[:, height:], pixel_values[:, :, width:] = 0, 0
    labels = labels.clone()
    labels[height:], labels[:, width:] = -1, -1
    return Scene(pixel_values, _targets(dice, labels.numpy(), first_object, num_prompts))


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-1, 1, size)
    return torch.meshgrid(axis, axis, indexing="ij")


def _label_map(dice: Dice, size: int, level: float) -> tuple[Tensor, int]:
    """(S, S) label map and the first label that is an object rather than ground."""
    yy, xx = _grid(size)
    labels = torch.zeros(size, size, dtype=torch.long)
    if dice.chance(0.6 * level):
        labels = dice.noise(dice.integer(2, 7), size, dice.integer(2, 7)).argmax(0)
    if dice.chance(0.4 * level):  # a body on an empty ground
        body = (xx / dice.uniform(0.6, 1.1)) ** 2 + (yy / dice.uniform(0.6, 1.1)) ** 2 + 0.1 * dice.noise(1, size, 4)[
            0
        ] < 1
        labels = torch.where(body, labels + 1, torch.zeros_like(labels))
    first_object = int(labels.max()) + 1
    next_label = first_object
    if dice.chance(0.1 * level):  # cells
        centres = dice.integer(15, 50)
        radius, u = dice.uniform(0.04, 0.1), torch.rand(centres, 2, generator=dice.generator) * 2 - 1
        for cx, cy in u.tolist():
            shape = ((xx - cx) / dice.uniform(0.7, 1.3)) ** 2 + ((yy - cy) / dice.uniform(0.7, 1.3)) ** 2 < radius**2
            labels[shape] = next_label
            next_label += 1
    for _ in range(dice.integer(2, 2 + round(10 * level))):
        field = _shape_field(dice, xx, yy, level)  # < 1 inside
        labels[field < 1] = next_label
        next_label += 1
        if dice.chance(0.3 * level):  # a nest: wall and core
            labels[field < dice.uniform(0.2, 0.7)] = next_label
            next_label += 1
    return labels, first_object


def _shape_field(dice: Dice, xx: Tensor, yy: Tensor, level: float) -> Tensor:
    size = xx.shape[0]
    cx, cy, angle = dice.uniform(-0.85, 0.85), dice.uniform(-0.85, 0.85), dice.uniform(0, math.pi)
    radius = math.exp(dice.uniform(math.log(0.3 - 0.22 * level), math.log(0.55)))
    aspect = dice.uniform(0.35, 1.0)
    dx, dy = xx - cx, yy - cy
    u, v = dx * math.cos(angle) + dy * math.sin(angle), -dx * math.sin(angle) + dy * math.cos(angle)
    kind = dice.uniform() if level > 0.2 else 0.0
    wobble = (0.05 + dice.uniform(0, 0.45) * level) * dice.noise(1, size, dice.integer(3, 8))[0]
    if kind < 0.62:  # ellipse to blob
        return (u / radius) ** 2 + (v / (radius * aspect)) ** 2 + wobble
    if kind < 0.80:  # tube: a bent band
        bend, wave = dice.uniform(-1.5, 1.5), dice.uniform(0, 0.15)
        middle = bend * u**2 + wave * torch.sin(u * dice.uniform(2, 9) + dice.uniform(0, 6))
        half_width, half_length = dice.uniform(0.035, 0.13), dice.uniform(0.3, 1.2)
        return torch.maximum(((v - middle) / half_width).abs(), (u / half_length).abs()) + 0.5 * wobble
    if kind < 0.92:  # crescent: an ellipse less another
        outer = (u / radius) ** 2 + (v / (radius * aspect)) ** 2 + 0.5 * wobble
        shift = dice.uniform(0.3, 0.8) * radius
        inner = (u / radius) ** 2 + ((v - shift * aspect) / (radius * aspect)) ** 2
        return torch.where(inner < dice.uniform(0.5, 0.9), torch.full_like(outer, 9.0), outer)
    return torch.maximum((u / radius).abs(), (v / (radius * aspect)).abs()) + 0.3 * wobble  # block


def _paint(dice: Dice, labels: Tensor, level: float) -> Tensor:
    """(3, S, S) intensities: a mean for each label, textures shared between labels, both grey or coloured."""
    size, count = labels.shape[0], int(labels.max()) + 1
    spread = torch.randperm(count, generator=dice.generator).float() / max(1, count - 1)
    free = torch.rand(count, generator=dice.generator)
    means = torch.lerp(spread, free, 0.7 * level)[:, None].repeat(1, 3)
    if dice.chance(0.25 * level):
        means = means + dice.uniform(0.05, 0.5) * (torch.rand(count, 3, generator=dice.generator) - 0.5)
    image = means[labels].permute(2, 0, 1)
    textures = torch.cat(
        [
            dice.noise(1, size, dice.integer(5, 14)),
            dice.noise(1, size, dice.integer(15, 60)),
            dice.normal(1, size, size),
        ]
    )
    strength = dice.uniform(0, 0.2 * level) * torch.rand(count, 3, generator=dice.generator) ** 2
    texture = (strength[labels].permute(2, 0, 1) * textures).sum(0)
    ramp = 0.15 * level * (dice.normal(count, 1)[labels][..., 0]) * dice.noise(1, size, 2)[0]
    return image + texture + ramp


def _finish(dice: Dice, image: Tensor, level: float) -> Tensor:
    """What a scanner or camera adds; intensities end in [0, 1]."""
    size = image.shape[-1]
    image = _blur(image, dice.uniform(0.4, 0.5 + 1.6 * level))
    if dice.chance(0.4 * level):  # a scan with few pixels, enlarged
        small = dice.integer(36, size)
        image = F.interpolate(image[None], size=(small, small), mode="bilinear", antialias=True)
        image = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)[0]
    if dice.chance(0.5 * level):
        image = image * torch.exp(0.35 * dice.uniform() * dice.noise(1, size, dice.integer(2, 4)))
    if dice.chance(0.15 * level):  # speckle
        image = image * (1 + dice.uniform(0.1, 0.5) * _blur(dice.normal(1, size, size), dice.uniform(0.3, 1.0)))
    grain = dice.uniform(0, 0.1) * (0.2 + 0.8 * level)
    noise = dice.normal(1, size, size)
    image = image + grain * (_blur(noise, dice.uniform(0.5, 1.2)) * 1.8 if dice.chance(0.4) else noise)
    sample = image.flatten()[::5].sort().values  # every fifth value stands for all: sorting is the dearest step
    low, high = sample[int(dice.uniform(0, 0.03) * len(sample))], sample[int(dice.uniform(0.97, 1) * (len(sample) - 1))]
    image = ((image - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
    return image ** math.exp(dice.uniform(-0.5, 0.5) * level)


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    x = torch.arange(-radius, radius + 1).float()
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    image = F.pad(image[:, None], (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(image, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]


def _targets(dice: Dice, labels: np.ndarray, first_object: int, num_prompts: int) -> Tensor:
    """(P, S, S): connected regions; an object's chance grows with its diameter; now and then a region of the ground."""
    sizes = np.bincount(labels[labels >= 0].ravel())
    objects = [k for k in range(first_object, len(sizes)) if sizes[k] >= 24]
    grounds = [k for k in range(min(first_object, len(sizes))) if 24 <= sizes[k] < 0.6 * labels.size]
    targets = []
    for _ in range(num_prompts):
        from_ground = grounds and (not objects or dice.chance(0.12))
        candidates = grounds if from_ground else objects or [int(sizes.argmax())]
        chosen = torch.multinomial(torch.from_numpy(sizes[candidates]).sqrt(), 1, generator=dice.generator).item()
        region, _ = ndimage.label(labels == candidates[chosen])
        areas = np.bincount(region.ravel())[1:]
        parts = np.flatnonzero(areas >= max(min(24, areas.max()), 0.3 * areas.max())) + 1
        targets.append(region == parts[dice.integer(0, len(parts) - 1)])
    return torch.from_numpy(np.stack(targets))
