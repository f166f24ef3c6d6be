"""`MSAProcessor`: scans and prompts to tensors in the model frame, masks back onto the source grid.

It is an image processor of transformers (`preprocessor_config.json`), opened by `AutoProcessor` and
`AutoImageProcessor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from medsam_adapter.adapters.reading import damage_told
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.data.geometry import Letterbox, Turn, check_orientation, to_tensor
from medsam_adapter.data.intensity import UnitScale, check_mode, unit_scale
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, PromptError, no_text_prompts
from medsam_adapter.prompts.clicks import PADDING
from medsam_adapter.prompts.text import embed_objects

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        size, mean, std = self.image_size, _three(self.image_mean), _three(self.image_std)
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise DataError("the image size is not usable", expected="image_size, pixels above 0", found=repr(size))
        if mean is None or std is None or min(std) <= 0:
            raise DataError(
                "the normalisation is not usable",
                expected="image_mean of three numbers and image_std of three above 0",
                found=f"{self.image_mean} and {self.image_std}",
            )
        self.window_hu = None if self.window_hu is None else [float(v) for v in self.window_hu]
        self.image_size, self.image_mean, self.image_std = int(size), mean, std

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
        if isinstance(image, Scan):
            return image
        if isinstance(image, Image.Image):
            image = np.asarray(
                image.convert("RGB") if image.mode in ("P", "RGBA", "CMYK", "LA", "YCbCr", "1") else image
            )
        if isinstance(image, nib.spatialimages.SpatialImage):
            data = np.asanyarray(image.dataobj)
            data = data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data
            if data.ndim != 3:
                raise _bad_shape(data.shape, "a NIfTI image of three axes")
            data = data.transpose(2, 1, 0)
            if data.dtype.names:  # NIfTI's RGB24 and RGBA32 are records
                data = np.stack([data[name] for name in "RGB"], axis=-1)
            x_mm, y_mm, z_mm = (float(size) for size in nib.affines.voxel_sizes(image.affine))
            return Scan(data, (z_mm, y_mm, x_mm), np.asarray(image.affine))
        array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
        is_colour = array.ndim >= 3 and array.shape[-1] == 3
        if array.ndim == 2:
            return Scan(array[None])
        if array.ndim == 3 and kind is None and array.shape[0] == 3 and not is_colour:
            raise DataError(
                "an array of shape (3, H, W) is either three slices or a picture with its channels first",
                expected="(H, W, 3) for a picture, or kind='volume'",
                found=str(array.shape),
                hint="transpose the picture to (H, W, 3), or pass kind='volume'",
            )
        if array.ndim == 3 and kind is None and array.shape[-1] in (1, 2, 4):
            channels = array.shape[-1]
            raise DataError(
                f"an array of shape (H, W, {channels}) is either a picture with channels or a volume {channels} wide",
                expected="(H, W) or (H, W, 3) for a picture, or kind='volume'",
                found=str(array.shape),
                hint=f"take array[..., {':3' if channels == 4 else '0'}] of the picture, or pass kind='volume'",
            )
        if array.ndim == 3 and kind != "volume" and is_colour:
            return Scan(array[None])
        if array.ndim == 3 and kind != "image":
            return Scan(array)
        if array.ndim == 4 and is_colour and kind != "image":
            return Scan(array)
        raise _bad_shape(
            array.shape, "(H, W), (H, W, 3), (D, H, W) or (D, H, W, 3)" + (f" for kind={kind!r}" if kind else "")
        )

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
        boxes_of = [Letterbox(source.shape[1:3], self.image_size) for source in sources]
        pixels = [self.slices_to_model(source) for source in sources]
        data: dict[str, Any] = {
            "original_sizes": torch.tensor([b.size_hw for b in boxes_of]),
            "reshaped_input_sizes": torch.tensor([b.resized_hw for b in boxes_of]),
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
            points, labels = self._points(input_points, input_labels, sources, boxes_of, depth)
            data["input_points"], data["input_labels"] = points, labels
        if input_boxes is not None:
            data["input_boxes"] = self._boxes(input_boxes, sources, boxes_of, depth)
        if input_texts is not None:
            if self.text_model is None:
                raise no_text_prompts()
            data["input_texts"] = embed_objects(input_texts, len(sources), self.text_model)
        return BatchFeature(data=data)

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _points(self, points, labels, sources, letterboxes, depth) -> tuple[Tensor, Tensor]:
        _same_length("input_points", points, sources)
        objects, most = max(len(p) for p in points), max((len(k) for p in points for k in p), default=0)
        if not most:
            raise PromptError("input_points holds no point", expected="[image][object][point]", found=str(points))
        if labels is not None:
            _check_labels(labels, points)
        lead = (len(points), objects) if depth is None else (len(points), depth, objects)
        out = np.zeros((*lead, most, 2), np.float32)
        out_labels = np.full((*lead, most), PADDING, np.int64)
        for b, image_points in enumerate(points):
            for p, object_points in enumerate(image_points):
                for k, point in enumerate(object_points):
                    label = 1 if labels is None else int(labels[b][p][k])
                    check_point(point, sources[b].shape, depth is not None)
                    at = (b, p, k) if depth is None else (b, int(round(point[2])), p, k)
                    out[at], out_labels[at] = letterboxes[b].points_to_model(point[:2]), label
        return torch.from_numpy(out), torch.from_numpy(out_labels)

    def _boxes(self, boxes, sources, letterboxes, depth) -> Tensor:
        _same_length("input_boxes", boxes, sources)
        if len({len(image_boxes) for image_boxes in boxes}) != 1 or not len(boxes[0]):
            raise PromptError(
                "each image of a batch has as many boxes as the others", expected=f"{len(boxes[0]) or 1} each",
                found=", ".join(str(len(image_boxes)) for image_boxes in boxes),
                hint="SAM has no empty box to fill up with",
            )  # fmt: skip
        rows = []
        for source, letterbox, image_boxes in zip(sources, letterboxes, boxes, strict=True):
            for box in image_boxes:
                check_box(box, source.shape)
            rows.append(torch.from_numpy(letterbox.boxes_to_model(np.asarray(image_boxes))))
        stacked = torch.stack(rows)
        return stacked if depth is None else stacked[:, None].expand(-1, depth, -1, -1).clone()

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


@contextmanager
def settings_told(name: str | Path) -> Iterator[None]:
    """Makes a CheckpointError of settings that cannot be read, or cannot be, from a folder or Hub repo."""
    expected = "image_size above 0, image_mean and image_std of three numbers, an intensity and axes that there are"
    with damage_told(name, "preprocessor_config.json", expected):
        try:
            yield
        except DataError as error:
            raise ValueError(f"{error.problem}: {error.found}") from error


def check_point(point: Sequence[float] | np.ndarray, shape: tuple[int, ...], is_volume: bool) -> None:
    """Raise a `PromptError` unless the point (x, y) or (x, y, z) lies in a (D, H, W) image."""
    wanted = 3 if is_volume else 2
    if len(point) != wanted:
        raise PromptError(
            f"a point of this {'volume' if is_volume else 'image'} has {wanted} numbers",
            expected="x, y, z" if is_volume else "x, y",
            found=", ".join(f"{v:g}" for v in point),
            hint="z is the slice, counted from 0" if is_volume else "leave the slice out",
        )
    limits = (shape[2], shape[1], shape[0])
    if any(not 0 <= value <= limit - 1 for value, limit in zip(point, limits, strict=False)):
        raise PromptError(
            "a point lies outside the image",
            expected=", ".join(f"0 <= {n} <= {s - 1}" for n, s in zip("xyz"[:wanted], limits, strict=False)),
            found=", ".join(f"{v:g}" for v in point),
            hint="points are x (column), y (row), z (slice), counted from 0",
        )


def check_box(box: Sequence[float], shape: tuple[int, ...]) -> None:
    """Raise a `PromptError` unless x0 y0 x1 y1 is a box in a (D, H, W) image."""
    if len(box) != 4 or not (0 <= box[0] <= box[2] <= shape[2] - 1 and 0 <= box[1] <= box[3] <= shape[1] - 1):
        raise PromptError(
            "a box does not fit the image",
            expected=f"x0 <= x1 <= {shape[2] - 1} and y0 <= y1 <= {shape[1] - 1}",
            found=", ".join(f"{v:g}" for v in box),
            hint="boxes are x0, y0, x1, y1 in pixels, counted from 0; MSAPredictor takes boxes on one slice",
        )


def _three(values: Any) -> list[float] | None:
    """Three finite numbers; None for anything else."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == 3 and np.isfinite(numbers).all() else None


def _bad_shape(shape: tuple[int, ...], expected: str) -> DataError:
    return DataError(
        "this is no image or volume", expected=expected, found=f"shape {tuple(shape)}", hint="check the axes"
    )


def _same_length(name: str, given: Sequence, sources: list) -> None:
    if len(given) != len(sources):
        raise PromptError(f"{name} has one entry for each image", expected=str(len(sources)), found=str(len(given)))


def _check_labels(labels: Sequence, points: Sequence) -> None:
    """Raise a `PromptError` unless each point has one label, and that is a label."""

    def counts(nested: Sequence) -> list[list[int]]:
        return [[len(of_object) for of_object in of_image] for of_image in nested]

    try:
        is_alike = counts(labels) == counts(points)
    except TypeError:  # not nested so deep
        is_alike = False
    if not is_alike:
        raise PromptError("each point has one label", expected="input_labels nested as input_points", found=str(labels))
    if any(label not in (1, 0, PADDING) for image in labels for of_object in image for label in of_object):
        raise PromptError(
            "a point has an unknown label", expected="1 (object), 0 (ground) or -1 (no point)", found=str(labels)
        )


def _fill_up(slices: Tensor, depth: int) -> Tensor:
    return (
        torch.cat([slices, slices.new_zeros(depth - len(slices), *slices.shape[1:])]) if len(slices) < depth else slices
    )


AutoImageProcessor.register(MSAConfig, MSAProcessor, exist_ok=True)
AutoProcessor.register(MSAConfig, MSAProcessor, exist_ok=True)
