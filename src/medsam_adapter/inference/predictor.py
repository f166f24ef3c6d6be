"""`MSAPredictor`: encode a picture or a volume once, then answer each click with a decoder call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medsam_adapter.backbones import resolve_base
from medsam_adapter.data.geometry import Letterbox, Turn
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import PromptError
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.inference.slices import SliceEmbeddings
from medsam_adapter.inference.volume import CarryRules, anchors_only, carry_masks, keep_clicked
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor, check_point
from medsam_adapter.prompts.clicks import PADDING
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.types import ObjectPrompt


@dataclass
class Encoded:
    """A scan at the encoder: all that further clicks need.

    Attributes:
        embeddings: (D, C, g, g), encoded when they are asked for.
        letterbox: source slice <-> model frame.
        turn: file frame <-> source frame.
        shape_zyx: of the source.
        is_picture: prompts and masks have no slice axis; a volume may have one slice, too.
    """

    embeddings: SliceEmbeddings
    letterbox: Letterbox
    turn: Turn
    shape_zyx: tuple[int, int, int]
    is_picture: bool = False


class MSAPredictor:
    """Interactive segmentation.

    Example:
        predictor = MSAPredictor.from_pretrained("org/msa-btcv")
        predictor.set_volume(nibabel.load("ct.nii.gz"))
        mask = predictor.predict(points=[(120, 88, 14)])      # (D, H, W) bool, array[k, j, i] of the file

    Args:
        model: an `MSAModel`; moved to `device` (the first accelerator, else the CPU).
        processor: how scans become tensors; made from the model's image size if not given.
        store: keeps the features of the frozen part of the encoder on disk.
    """

    def __init__(
        self,
        model: MSAModel,
        processor: MSAProcessor | None = None,
        device: str | torch.device | None = None,
        store: FeatureStore | None = None,
    ):
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device).eval()
        self.processor = processor or MSAProcessor.from_model(model)
        self.store = store
        self.encoded: Encoded | None = None

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device | None = None, **kwargs) -> MSAPredictor:
        """Model and processor of a run folder, a Hub repo or a base."""
        model = MSAModel.from_pretrained(name, **kwargs)
        try:
            settings, _ = MSAProcessor.get_image_processor_dict(resolve_base(name))
        except (OSError, ValueError):
            settings = {}
        # A plain SAM has no processor, or SAM's own, which knows neither intensities nor volumes.
        is_ours = settings.get("image_processor_type") == MSAProcessor.__name__
        return cls(model, MSAProcessor.from_dict(settings) if is_ours else None, device)

    @torch.no_grad()
    def encode(self, image, kind: str | None = None, progress: Callable[[int, int], None] | None = None) -> Encoded:
        """Get a picture or volume (anything `MSAProcessor` takes) ready for clicks.

        A picture is encoded at once. The slices of a volume are encoded when a click or a mask reaches them, or all of
        them now if `progress` is given, which is called with (slices done, D).
        """
        scan = self.processor.to_scan(image, kind)
        turn = self.processor.turn_of(scan)
        source = turn.array_to_source(self.processor.unit_intensities(scan))
        is_picture = not (scan.is_volume or kind == "volume")
        num_slices = 1 if is_picture else max(self.model.config.num_slices, 1)
        # Without a depth branch a chunk is a matter of speed: on a CPU one slice costs as much in a batch as alone.
        chunk = num_slices if num_slices > 1 or self.model.device.type == "cpu" else 8
        embeddings = SliceEmbeddings(
            self.model,
            len(source),
            lambda first, last: self.processor.slices_to_model(source[first:last]),
            chunk,
            sees_neighbours=num_slices > 1,
            store=self.store,
        )
        if is_picture or progress:
            embeddings.encode_rest(progress=progress)
        letterbox = Letterbox(source.shape[1:3], self.processor.image_size)
        return Encoded(embeddings, letterbox, turn, source.shape[:3], is_picture)

    def set_image(self, image) -> None:
        """Encode a picture: (H, W), (H, W, 3), PIL image or `Scan`."""
        self.clear()
        self.encoded = self.encode(image, None if isinstance(image, Scan) else "image")

    def set_volume(self, volume, progress: Callable[[int, int], None] | None = None) -> None:
        """Take a volume: (D, H, W), nibabel image or `Scan`.

        The first click has the slices round it encoded first and the others behind it, in the background; `progress`
        has all of them encoded now.
        """
        self.clear()
        self.encoded = self.encode(volume, None if isinstance(volume, Scan) else "volume", progress)

    def clear(self) -> None:
        """Forget the scan, and stop encoding it."""
        if self.encoded is not None:
            self.encoded.embeddings.close()
        self.encoded = None

    def predict(
        self,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        boxes: Sequence[Sequence[float]] | None = None,
        carry: bool = True,
        rules: CarryRules | None = None,
        return_logits: bool = False,
    ) -> np.ndarray:
        """The mask of one object in the scan that was set.

        Args:
            points: (x, y) in a picture, (x, y, z) in a volume: voxels (i, j, k) of the file.
            labels: 1 object, 0 ground; all 1 by default.
            boxes: (x0, y0, x1, y1) in a picture; (x0, y0, z0, x1, y1, z1) in a volume, on one slice.
            carry: in a volume, carry the mask to the other slices; otherwise only prompted slices get one.
            return_logits: logits on the file's grid instead of a mask.

        Returns:
            (H, W) for a picture, (D, H, W) in file order for a volume; bool, or float32 logits.

        Raises:
            PromptError: no prompt, a prompt outside the scan, or no scan set.
        """
        if self.encoded is None:
            raise PromptError("no scan is set", expected="set_image or set_volume first", found="nothing")
        flat = self.encoded.is_picture
        points = [(*p, 0) if flat and len(p) == 2 else tuple(p) for p in points or []]
        boxes = [(b[0], b[1], 0, b[2], b[3], 0) if flat and len(b) == 4 else tuple(b) for b in boxes or []]
        prompt = ObjectPrompt(points, list(labels) if labels is not None else [1] * len(points), boxes)
        logits = self.predict_objects(self.encoded, [prompt], carry, rules)[0]
        if not flat:
            self.encoded.embeddings.encode_rest_in_background(self._first_slice(prompt))
        out = logits if return_logits else logits > 0
        return out[0] if flat else out

    def predict_objects(
        self,
        encoded: Encoded,
        prompts: Sequence[ObjectPrompt],
        carry: bool = True,
        rules: CarryRules | None = None,
        progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> np.ndarray:
        """Logits (n, D, H, W) on the file's grid for n objects prompted in the file frame."""
        with encoded.embeddings.in_front():
            return self._predict_objects(encoded, prompts, carry, rules, progress, should_stop)

    def _predict_objects(self, encoded, prompts, carry, rules, progress, should_stop) -> np.ndarray:
        anchors = [self.decode_prompted_slices(encoded, prompt) for prompt in prompts]
        if carry:
            logits = carry_masks(self.model, encoded.embeddings, anchors, rules, progress, should_stop)
            if not encoded.is_picture:
                logits = np.stack(
                    [keep_clicked(m, self._clicks(encoded, p, m.shape)) for m, p in zip(logits, prompts, strict=True)]
                )
        else:
            logits = anchors_only(anchors, len(encoded.embeddings))
        out = []
        for volume in logits:
            source = encoded.letterbox.logits_to_source(torch.from_numpy(volume)[:, None])[:, 0].numpy()
            out.append(encoded.turn.array_to_file(source))
        return np.stack(out)

    @staticmethod
    def _clicks(encoded: Encoded, prompt: ObjectPrompt, shape: tuple[int, ...]) -> np.ndarray:
        """(n, 3) foreground clicks (z, y, x) on the decoder's grid (D, h, w)."""
        points = [p for p, label in zip(prompt.points, prompt.labels, strict=True) if label == 1]
        if not points:
            return np.zeros((0, 3), int)
        xyz = encoded.turn.points_to_source(np.asarray(points, float))
        scale = encoded.letterbox.image_size / shape[-1]
        xy = (encoded.letterbox.points_to_model(xyz[:, :2]) + 0.5) / scale - 0.5
        zyx = np.stack([xyz[:, 2], xy[:, 1], xy[:, 0]], 1).round().astype(int)
        return np.clip(zyx, 0, np.array(shape) - 1)

    def _first_slice(self, prompt: ObjectPrompt) -> int:
        """The slice of the source that a prompt starts on."""
        return int(round(self.encoded.turn.points_to_source((prompt.points + [b[:3] for b in prompt.boxes])[0])[2]))

    @torch.no_grad()
    def decode_prompted_slices(self, encoded: Encoded, prompt: ObjectPrompt) -> dict[int, np.ndarray]:
        """{slice of the source: logits (h, w)} for the slices of one object that hold a click or a box."""
        by_slice: dict[int, dict] = {}
        if not prompt.points and not prompt.boxes:
            raise PromptError(
                "there is no prompt", expected="a point or a box", found="none", hint="click into the object"
            )
        if len(prompt.points) != len(prompt.labels):
            raise PromptError(
                "each point has one label", expected=f"{len(prompt.points)} labels", found=str(len(prompt.labels)),
                hint="1 is the object, 0 the ground",
            )  # fmt: skip
        for point, label in zip(prompt.points, prompt.labels, strict=True):
            # Checked in the file frame, so that an error speaks of the numbers that were given.
            check_point(_three(point), encoded.turn.shape_ijk[::-1], True)
            xyz = encoded.turn.points_to_source(point)
            entry = by_slice.setdefault(int(round(xyz[2])), {"points": [], "labels": [], "box": None})
            entry["points"].append(encoded.letterbox.points_to_model(xyz[:2]))
            entry["labels"].append(int(label))
        for box in prompt.boxes:
            if len(box) != 6:
                raise PromptError(
                    "a box of a volume has six numbers", expected="x0, y0, z0, x1, y1, z1",
                    found=", ".join(f"{v:g}" for v in box), hint="both corners lie on one slice",
                )  # fmt: skip
            corners = np.asarray(box, float).reshape(2, 3)
            last = np.array(encoded.turn.shape_ijk) - 1
            if not ((corners >= 0) & (corners <= last)).all():
                raise PromptError(
                    "a box does not fit the image: a corner lies outside",
                    expected=", ".join(f"0 <= {name} <= {most}" for name, most in zip("xyz", last, strict=True)),
                    found=", ".join(f"{v:g}" for v in box), hint="boxes are x0, y0, z0, x1, y1, z1, counted from 0",
                )  # fmt: skip
            corners = encoded.turn.points_to_source(corners)
            low, high = corners.min(0), corners.max(0)
            flat = np.array([*low[:2], *high[:2]])
            if low[2] != high[2]:
                raise PromptError("a box lies on one slice", expected="two corners of one slice", found=str(tuple(box)))
            entry = by_slice.setdefault(int(low[2]), {"points": [], "labels": [], "box": None})
            entry["box"] = encoded.letterbox.boxes_to_model(flat)
        if not any(1 in entry["labels"] or entry["box"] is not None for entry in by_slice.values()):
            raise PromptError("only background clicks", expected="a foreground click or a box", found="none")
        out = {}
        for z, entry in by_slice.items():
            device = encoded.embeddings.device
            points = entry["points"] or [np.zeros(2, np.float32)]
            logits, _ = decode_masks(
                self.model,
                encoded.embeddings[z : z + 1],
                input_points=torch.tensor(np.stack(points), device=device)[None, None],
                input_labels=torch.tensor(entry["labels"] or [PADDING], device=device)[None, None],
                input_boxes=None if entry["box"] is None else torch.tensor(entry["box"], device=device)[None, None],
            )
            out[z] = logits[0, 0, 0].float().cpu().numpy()
        return out


def _three(point: Sequence[float]) -> np.ndarray:
    if len(point) != 3:
        raise PromptError(
            "a point of a volume has three numbers",
            expected="x, y, z",
            found=", ".join(f"{v:g}" for v in point),
            hint="z is the slice, counted from 0",
        )
    return np.asarray(point, float)
