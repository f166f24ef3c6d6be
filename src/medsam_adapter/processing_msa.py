"""`MSAProcessor`: scans and prompts to tensors in the model frame, masks back onto the source grid.

It is an image processor of transformers (`preprocessor_config.json`), opened by `AutoProcessor` and
`AutoImageProcessor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.data.geometry import Letterbox, Turn, check_orientation, to_tensor
from medsam_adapter.data.in_memory import scan_of
from medsam_adapter.data.intensity import UnitScale, check_mode, unit_scale
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, PromptError, no_text_prompts
from medsam_adapter.processor_settings import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    checked_image_size,
    checked_normalisation,
    settings_told,
)
from medsam_adapter.prompts.batches import batched_boxes, batched_points
from medsam_adapter.prompts.text import embed_objects


class MSAProcessor(BaseImageProcessor):
    """Prepares images and volumes for `MSAModel`.

    Args:
        image_size: side S of the model frame in pixels.
        intensity: how values become [0, 1]: "rgb", "unit", "percentile", "window", "ct:soft-tissue", ...
            (data.intensity); None is enough for 8-bit pictures only.
        window_hu: (low, high) for "window".
        orientation: where x, y and z of a volume with an affine point, e.g. "LPS" for axial slices; "file" leaves the
            file's own axes, and so does None.
        image_mean, image_std: normalisation of values in [0, 1], SAM's by default.
        text_model: name of the text model that sentences are embedded with; None takes no texts.
    """

    model_input_names = ["pixel_values"]
    orientation: str | None = "LPS"  # transformers writes a None to the file only where the class says something else

    def __init__(
        self,
        image_size: int = 1024,
        intensity: str | None = None,
        window_hu: Sequence[float] | None = None,
        orientation: str | None = "LPS",
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        text_model: str | None = None,
        **kwargs,
    ):
        kwargs.pop("processor_class", None), kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        if window_hu is not None and intensity is None:
            intensity = "window"
        self.image_size, self.intensity, self.window_hu = image_size, intensity, window_hu
        self.orientation, self.image_mean, self.image_std = orientation, image_mean, image_std
        self.text_model = text_model
        self._check()

    def _check(self) -> None:
        """Take the settings as they will be used.

        Raises:
            DataError: one that cannot be.
        """
        check_mode(self.intensity, self.window_hu)
        check_orientation(self.orientation)
        self.image_size = checked_image_size(self.image_size)
        self.image_mean, self.image_std = checked_normalisation(self.image_mean, self.image_std)
        self.window_hu = None if self.window_hu is None else [float(v) for v in self.window_hu]

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """As in transformers, which sets some of `kwargs` after the constructor.

        Raises:
            DataError: values that cannot be.
        """
        made = super().from_dict(image_processor_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made)._check()
        return made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> MSAProcessor:
        """As in transformers.

        Raises:
            CheckpointError: a preprocessor_config.json that cannot be read, or with values that cannot be.
        """
        with settings_told(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_model(cls, model, **kwargs) -> MSAProcessor:
        """A processor for a model's image size and text model."""
        kwargs.setdefault("text_model", getattr(model, "text_model", None))
        return cls(image_size=model.config.vision_config.image_size, **kwargs)

    # -- images --------------------------------------------------------------------------------------------------------

    def to_scan(self, image: Any, kind: str | None = None) -> Scan:
        """Any accepted image as a `Scan` in the file frame.

        Args:
            image: PIL image, nibabel image, `Scan`, torch tensor or array: (H, W), (H, W, 3), (D, H, W), (D, H, W, 3).
            kind: "image" or "volume" where the shape leaves it open.

        Raises:
            DataError: a shape that is none of these, or one that could be two of them.
        """
        return scan_of(image, kind)

    def turn_of(self, scan: Scan) -> Turn:
        """The turn from a scan's file frame to the source frame."""
        shape_ijk = scan.shape_zyx[::-1]
        if scan.affine is None or self.orientation is None or self.orientation == "file":
            return Turn.none(shape_ijk)
        return Turn.to_codes(scan.affine, shape_ijk, self.orientation)

    def slices_to_model(self, array: np.ndarray) -> Tensor:
        """Source slices (D, H, W) or (D, H, W, 3), intensities in [0, 1], to normalised (D, 3, S, S)."""
        images = to_tensor(array)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        letterbox = Letterbox(array.shape[1:3], self.image_size)
        return self.normalise(letterbox.image_to_model(images), letterbox.resized_hw)

    def normalise(self, images: Tensor, resized_hw: tuple[int, int]) -> Tensor:
        """Slices of the model frame (D, 1 or 3, S, S) in [0, 1] as the encoder takes them, (D, 3, S, S).

        Args:
            resized_hw: the part of the frame that the picture fills; the rest becomes 0.
        """
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.image_mean, self.image_std))
        images = (images - mean) / std  # one channel becomes three here
        images[..., resized_hw[0] :, :], images[..., :, resized_hw[1] :] = 0, 0  # SAM pads after normalising
        return images

    def unit_intensities(self, scan: Scan) -> np.ndarray:
        """The scan's values in [0, 1] by this processor's intensity mode; errors as `unit_scale`."""
        return self.unit_scale(scan)(scan.array)

    def unit_scale(self, scan: Scan) -> UnitScale:
        """How the scan's values become [0, 1] by this processor's intensity mode; errors name the file.

        Raises:
            DataError: as `data.intensity.unit_scale`, or a number of channels that no SAM takes.
        """
        if scan.array.ndim == 4 and scan.array.shape[-1] not in (1, 3):
            raise DataError(
                "has a number of channels that a SAM does not take",
                file=scan.path,
                expected="1 (grey) or 3 (colours)",
                found=str(scan.array.shape[-1]),
                hint="choose one or three with data.channel",
            )
        try:
            return unit_scale(scan.array, self.intensity, self.window_hu)
        except DataError as error:
            raise DataError(
                error.problem, file=scan.path, expected=error.expected, found=error.found, hint=error.hint
            ) from error

    def __call__(
        self,
        images: Any,
        input_points: Sequence | None = None,
        input_labels: Sequence | None = None,
        input_boxes: Sequence | None = None,
        input_texts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        kind: str | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Tensors for `MSAModel`.

        Args:
            images: one image or volume, or a list of them (all images, or all volumes).
            input_points: for each image a list of objects, each a list of points (x, y), for volumes (x, y, z), in
                pixels of the source; a point outside the image is an error.
            input_labels: one for each point: 1 object, 0 ground, -1 a point that only fills up; all 1 by default.
            input_boxes: for each image a list of boxes x0 y0 x1 y1, one for each object; in volumes on every slice.
            input_texts: for each image a list of sentences, one for each object; `["the spleen"]` for one image.
            kind: "image" or "volume" where a shape leaves it open.

        Returns:
            pixel_values (B, 3, S, S) or (B, D, 3, S, S); input_points (B, P, K, 2) or (B, D, P, K, 2) with
            input_labels, filled up with label -1; input_boxes (B, P, 4) or (B, D, P, 4);
            input_texts (B, P, W), embeddings; original_sizes and reshaped_input_sizes (B, 2); slice_mask (B, D) for
            volumes.

        Raises:
            DataError: images that `to_scan` or `unit_scale` does not take, or both kinds in one batch.
            PromptError: prompts outside their image, or labels that do not fit the points.
        """
        if return_tensors != "pt":
            raise DataError("only PyTorch tensors are made", expected='return_tensors="pt"', found=repr(return_tensors))
        batch = list(images) if isinstance(images, (list, tuple)) else [images]
        scans = [self.to_scan(image, kind) for image in batch]
        is_volume = [scan.is_volume or kind == "volume" for scan in scans]
        if len(set(is_volume)) != 1:
            raise DataError("a batch holds either images or volumes", expected="one kind", found="both")
        turns = [self.turn_of(scan) for scan in scans]
        sources = [turn.array_to_source(self.unit_intensities(scan)) for turn, scan in zip(turns, scans, strict=True)]
        shapes_zyx = [source.shape for source in sources]
        letterboxes = [Letterbox(shape[1:3], self.image_size) for shape in shapes_zyx]
        pixels = [self.slices_to_model(source) for source in sources]
        data: dict[str, Any] = {
            "original_sizes": torch.tensor([box.size_hw for box in letterboxes]),
            "reshaped_input_sizes": torch.tensor([box.resized_hw for box in letterboxes]),
        }
        depths = [len(p) for p in pixels]
        if is_volume[0]:
            data["pixel_values"] = torch.stack([_fill_up(p, max(depths)) for p in pixels])
            data["slice_mask"] = torch.arange(max(depths))[None] < torch.tensor(depths)[:, None]
        else:
            data["pixel_values"] = torch.cat(pixels)
        depth = max(depths) if is_volume[0] else None
        if input_points is None and input_labels is not None:
            raise PromptError("there are labels without points", expected="input_points", found="input_labels alone")
        if input_points is not None:
            points, labels = batched_points(input_points, input_labels, shapes_zyx, letterboxes, depth)
            data["input_points"], data["input_labels"] = points, labels
        if input_boxes is not None:
            data["input_boxes"] = batched_boxes(input_boxes, shapes_zyx, letterboxes, depth)
        if input_texts is not None:
            if self.text_model is None:
                raise no_text_prompts()
            data["input_texts"] = embed_objects(input_texts, len(sources), self.text_model)
        return BatchFeature(data=data)

    # -- masks ---------------------------------------------------------------------------------------------------------

    def post_process_masks(
        self,
        masks: Tensor,
        original_sizes,
        reshaped_input_sizes=None,
        binarize: bool = True,
        slice_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Masks on the source grid.

        Args:
            masks: (B, P, M, h, w) or (B, D, P, M, h, w), logits of the model.
            original_sizes: (B, 2), heights and widths of the sources.
            binarize: bool masks at logit 0; otherwise logits.
            slice_mask: (B, D) of the batch, which says how many slices each volume has.

        Returns:
            for each image (P, M, H, W), for each volume (D, P, M, H, W); D is the volume's own with `slice_mask`, else
            that of the deepest in the batch, to which the others were filled up.
        """
        if slice_mask is not None:
            masks = [logits[: int(own.sum())] for logits, own in zip(masks, slice_mask, strict=True)]
        out = []
        for logits, size in zip(masks, torch.as_tensor(original_sizes).tolist(), strict=True):
            resized = Letterbox(tuple(size), self.image_size).logits_to_source(logits.flatten(0, -4).float())
            resized = resized.unflatten(0, logits.shape[:-3])
            out.append(resized > 0 if binarize else resized)
        return out


def _fill_up(slices: Tensor, depth: int) -> Tensor:
    return (
        torch.cat([slices, slices.new_zeros(depth - len(slices), *slices.shape[1:])]) if len(slices) < depth else slices
    )


AutoImageProcessor.register(MSAConfig, MSAProcessor, exist_ok=True)
AutoProcessor.register(MSAConfig, MSAProcessor, exist_ok=True)
