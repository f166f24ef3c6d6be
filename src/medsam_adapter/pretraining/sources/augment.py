"""Random views of one image for self-supervised training: crop, flip, brightness, contrast, gamma, blur and noise."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from medsam_adapter.data.geometry import Letterbox, to_tensor

MIN_CROP_AREA = 0.4
MAX_STRETCH = 4 / 3


def augment(image: np.ndarray, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A random view, resized so that its longer side is `image_size`; all channels change alike, so grey stays grey.

    Args:
        image: (H, W) or (H, W, 3) in [0, 1].
        rng: decides everything; the same state gives the same view.

    Returns:
        (h, w) or (h, w, 3) float32 in [0, 1].
    """
    image = _resized(_crop(image, rng), image_size)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    contrast, brightness, gamma = rng.uniform(0.7, 1.3), rng.uniform(-0.15, 0.15), math.exp(rng.uniform(-0.35, 0.35))
    mean = float(image.mean(dtype=np.float64))
    image = np.clip((image - mean) * contrast + mean + brightness, 0, 1) ** gamma
    if rng.random() < 0.2:
        sigma = rng.uniform(0.4, 1.2)
        image = gaussian_filter(image, (sigma, sigma, 0)[: image.ndim])
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(0, 0.04), image.shape[:2])
        image = np.clip(image + (noise if image.ndim == 2 else noise[..., None]), 0, 1)
    return np.ascontiguousarray(image, dtype=np.float32)


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    area = rng.uniform(MIN_CROP_AREA, 1)
    stretch = math.exp(rng.uniform(-math.log(MAX_STRETCH), math.log(MAX_STRETCH)))
    new_height = min(height, max(1, round(height * math.sqrt(area / stretch))))
    new_width = min(width, max(1, round(width * math.sqrt(area * stretch))))
    top, left = rng.integers(0, height - new_height + 1), rng.integers(0, width - new_width + 1)
    return image[top : top + new_height, left : left + new_width]


def _resized(image: np.ndarray, image_size: int) -> np.ndarray:
    tensor = to_tensor(image)
    tensor = tensor[None, None] if image.ndim == 2 else tensor.permute(2, 0, 1)[None]
    size_hw = Letterbox(image.shape[:2], image_size).resized_hw
    tensor = F.interpolate(tensor, size_hw, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    return tensor[0, 0].numpy() if image.ndim == 2 else tensor[0].permute(1, 2, 0).numpy()
