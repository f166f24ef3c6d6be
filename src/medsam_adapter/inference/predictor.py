"""`MSAPredictor`: encode a picture or a volume once, then answer each click with a decoder call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from medsam_adapter.backbones import resolve_base
from medsam_adapter.data.geometry import Letterbox
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import PromptError, no_text_prompts
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.inference.prompted_slices import (
    Encoded,
    TextRules,
    decode_every_slice,
    decode_prompted_slices,
    foreground_clicks,
)
from medsam_adapter.inference.slices import SliceEmbeddings
from medsam_adapter.inference.volume import CarryRules, anchors_only, carry_masks, keep_clicked
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.text import load_text_encoder
from medsam_adapter.prompts.types import ObjectPrompt


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

    `text_rules` says when a sentence alone has found nothing; it may be changed at any time.
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
        self.text_rules = TextRules()
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
        text: str = "",
        carry: bool = True,
        rules: CarryRules | None = None,
        return_logits: bool = False,
    ) -> np.ndarray:
        """The mask of one object in the scan that was set.

        Args:
            points: (x, y) in a picture, (x, y, z) in a volume: voxels (i, j, k) of the file.
            labels: 1 object, 0 ground; all 1 by default.
            boxes: (x0, y0, x1, y1) in a picture; (x0, y0, z0, x1, y1, z1) in a volume, on one slice.
            text: a sentence that names the object; alone, it is said of every slice.
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
        prompt = ObjectPrompt(points, list(labels) if labels is not None else [1] * len(points), boxes, text)
        logits = self.predict_objects(self.encoded, [prompt], carry, rules)[0]
        if not flat and not prompt.is_text_alone:
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
            logits: list[np.ndarray | None] = [None] * len(prompts)
            for group in _alike(prompts):
                found = self._predict_alike(encoded, [prompts[i] for i in group], carry, rules, progress, should_stop)
                for i, volume in zip(group, found, strict=True):
                    logits[i] = volume
        out = []
        for volume in logits:
            source = encoded.letterbox.logits_to_source(torch.from_numpy(volume)[:, None])[:, 0].numpy()
            out.append(encoded.turn.array_to_file(source))
        return np.stack(out)

    def _predict_alike(self, encoded, prompts, carry, rules, progress, should_stop) -> np.ndarray:
        """(n, D, h, w) logits of objects whose prompts are of one kind, so that they share the decoder's calls."""
        texts = None
        if prompts[0].text:
            if self.model.text_model is None:
                raise no_text_prompts()
            texts = load_text_encoder(self.model.text_model)([prompt.text for prompt in prompts])
            if prompts[0].is_text_alone:
                return decode_every_slice(self.model, encoded.embeddings, texts, progress, should_stop, self.text_rules)
        anchors = [
            decode_prompted_slices(self.model, encoded, prompt, None if texts is None else texts[i])
            for i, prompt in enumerate(prompts)
        ]
        if not carry:
            return anchors_only(anchors, len(encoded.embeddings))
        logits = carry_masks(self.model, encoded.embeddings, anchors, rules, progress, should_stop, texts)
        if encoded.is_picture:
            return logits
        return np.stack(
            [
                keep_clicked(volume, foreground_clicks(encoded, prompt, volume.shape))
                for volume, prompt in zip(logits, prompts, strict=True)
            ]
        )

    def _first_slice(self, prompt: ObjectPrompt) -> int:
        """The slice of the source that a prompt starts on."""
        return int(round(self.encoded.turn.points_to_source((prompt.points + [b[:3] for b in prompt.boxes])[0])[2]))


def _alike(prompts: Sequence[ObjectPrompt]) -> list[list[int]]:
    """Indices of the prompts: those of text alone, those with text, those without."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((bool(prompt.text), prompt.is_text_alone), []).append(i)
    return list(groups.values())
