"""`MSAPredictor`: encode a picture or a volume once, then answer each click with a decoder call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam_adapter.adapters.switching import active_adapters, loaded_as
from medsam_adapter.data.geometry import Letterbox
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import PromptError, no_text_prompts
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.inference.processors import read_processor
from medsam_adapter.inference.prompted_slices import (
    Encoded,
    TextRules,
    correct_slices,
    decode_every_slice,
    decode_prompted_slices,
    mask_as_prompt,
    prompted_places,
    source_mask,
)
from medsam_adapter.inference.prompts_by_slice import anchors_and_corrections, check_prompt
from medsam_adapter.inference.slices import SliceEmbeddings
from medsam_adapter.inference.source_grid import on_source_grid
from medsam_adapter.inference.turns import turns_of
from medsam_adapter.inference.volume import CarryRules, anchors_only, carry_masks, keep_prompted
from medsam_adapter.model_opening import HUB_ARGUMENTS
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
        model: an `MSAModel`; moved to `device` (by default a CUDA GPU, else the CPU; "mps" is taken if asked for).
        processor: how scans become tensors. Without one it is made from the model's image size and knows no intensity,
            for scans that are prepared already; `from_pretrained` takes the one that was saved with the model.
        store: keeps the features of the frozen part of the encoder on disk.

    `text_rules` says when a sentence alone has found nothing; it may be changed at any time.

    A model with several adapters answers each call with the active one, or with the one that is named:

        predictor.model.load_adapter("org/msa-amos22", adapter_name="amos22")
        mask = predictor.predict(points=[(120, 88, 14)], adapter="amos22")

    The scan is encoded once for each adapter that is asked, prepared as that adapter's repo says, and never decoded by
    another, nor by one that has been loaded under its name since. Predictors of one model take turns, whatever threads
    they are used from.

    It cannot be sent to other processes (it holds locks and embeddings): open it in each worker.
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
        self._scan: tuple[Any, str | None] | None = None
        self._encoded: dict[tuple[str, ...], Encoded] = {}
        own = active_adapters(model)
        # The adapters that `processor` and `store` are made for, with what stands under their names.
        self._own = dict(zip(own, loaded_as(model, own), strict=True))
        self._processors: dict[str, tuple[object, MSAProcessor]] = {}  # with what stood under the name
        self._turns = turns_of(model)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device | None = None, **kwargs) -> MSAPredictor:
        """Model and processor of a run folder, a Hub repo or a base."""
        model = MSAModel.from_pretrained(name, **kwargs)
        source = {key: kwargs[key] for key in (*HUB_ARGUMENTS, "revision", "subfolder") if kwargs.get(key)}
        return cls(model, read_processor(name, model, **source), device)

    def load_adapter(self, source: str | Path, name: str, **kwargs) -> None:
        """Load a further adapter while others may be predicting; see `MSAModel.load_adapter`."""
        with self._turns.lock:
            self.model.load_adapter(source, adapter_name=name, **kwargs)
            self.model.to(self.model.device).eval()

    def settings(self) -> dict[str, Any]:
        """What an evaluation notes of it."""
        return {
            "intensity": self.processor.intensity, "orientation": self.processor.orientation,
            "image_size": self.processor.image_size, "num_slices": self.model.config.num_slices,
        }  # fmt: skip

    @property
    def encoded(self) -> Encoded | None:
        """The scan that was set as the active adapter sees it; None without one, or before that adapter was asked."""
        return self._encoded_by(self._names(None))

    def _encoded_by(self, names: Sequence[str]) -> Encoded | None:
        """The scan that was set, if these very adapters were asked before."""
        encoded = self._encoded.get(tuple(names))
        return None if encoded is None or encoded.embeddings.gone else encoded

    def processor_of(self, adapter: str | Sequence[str] | None = None) -> MSAProcessor:
        """The processor that goes with an adapter (the active one by default): its repo's, else `processor`."""
        names = self._names(adapter)
        if not names or self._is_own(names[0]):
            return self.processor
        (now,) = loaded_as(self.model, names[:1])
        before, processor = self._processors.get(names[0], (None, self.processor))
        if before is None or before is not now:
            loaded = self.model.loaded_adapters.get(names[0])
            found = read_processor(loaded.source, self.model, **loaded.hub) if loaded and loaded.source else None
            processor = found or self.processor
            self._processors[names[0]] = now, processor
        return processor

    def _is_own(self, name: str) -> bool:
        """Whether an adapter is one that `processor` and `store` are made for."""
        return name in self._own and self._own[name] is loaded_as(self.model, [name])[0]

    @torch.no_grad()
    def encode(
        self,
        image,
        kind: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        adapter: str | Sequence[str] | None = None,
        processor: MSAProcessor | None = None,
    ) -> Encoded:
        """Get a picture or volume (anything `MSAProcessor` takes) ready for clicks.

        A picture is encoded at once. The slices of a volume are encoded when a click or a mask reaches them, or all of
        them now if `progress` is given, which is called with (slices done, D). The result belongs to the adapter that
        is named, or else active now, and is answered by it whatever the model is switched to later. `processor`
        prepares it otherwise than that adapter's own, such as with another window.

        The voxels are read when their slices are encoded: an array that is given must not change until then.
        """
        names = self._names(adapter)
        processor = processor or self.processor_of(names)
        scan = processor.to_scan(image, kind)
        turn = processor.turn_of(scan)
        source, scale = turn.array_to_source(scan.array), processor.unit_scale(scan)
        is_picture = not (scan.is_volume or kind == "volume")
        with self._answering(names):
            num_slices = 1 if is_picture else max(self.model.config.num_slices, 1)
            # Without a depth branch a chunk is a matter of speed: on a CPU one slice costs as much in a batch as alone.
            chunk = num_slices if num_slices > 1 or self.model.device.type == "cpu" else 8
            embeddings = SliceEmbeddings(
                self.model,
                len(source),
                lambda first, last: processor.slices_to_model(scale(source[first:last])),
                chunk,
                sees_neighbours=num_slices > 1,
                store=self.store if names == list(self._own) and all(map(self._is_own, names)) else None,
            )
        if is_picture or progress:
            embeddings.encode_rest(progress=progress)
        letterbox = Letterbox(source.shape[1:3], processor.image_size)
        return Encoded(embeddings, letterbox, turn, source.shape[:3], is_picture)

    def set_image(self, image, adapter: str | Sequence[str] | None = None) -> None:
        """Encode a picture: (H, W), (H, W, 3), PIL image or `Scan`, for the active adapter or the one that is named."""
        self._set(image, None if isinstance(image, Scan) else "image", None, adapter)

    def set_volume(
        self,
        volume,
        progress: Callable[[int, int], None] | None = None,
        adapter: str | Sequence[str] | None = None,
    ) -> None:
        """Take a volume: (D, H, W), nibabel image or `Scan`, for the active adapter or the one that is named.

        The first click has the slices round it encoded first and the others behind it, in the background; `progress`
        has all of them encoded now.
        """
        self._set(volume, None if isinstance(volume, Scan) else "volume", progress, adapter)

    def _set(self, image, kind: str | None, progress, adapter) -> None:
        self.clear()
        names = self._names(adapter)
        self._encoded[tuple(names)] = self.encode(image, kind, progress, names)
        self._scan = (image, kind)

    def clear(self) -> None:
        """Forget the scan, and stop encoding it."""
        for encoded in self._encoded.values():
            encoded.embeddings.close()
        self._encoded, self._scan = {}, None

    def predict(
        self,
        points: Sequence[Sequence[float]] | None = None,
        labels: Sequence[int] | None = None,
        boxes: Sequence[Sequence[float]] | None = None,
        text: str = "",
        carry: bool = True,
        rules: CarryRules | None = None,
        return_logits: bool = False,
        adapter: str | Sequence[str] | None = None,
    ) -> np.ndarray:
        """The mask of one object in the scan that was set.

        Args:
            points: (x, y) in a picture, (x, y, z) in a volume: voxels (i, j, k) of the file.
            labels: 1 object, 0 ground; all 1 by default. A slice with background clicks alone starts no mask: they
                correct what is carried there, on that slice, and with `carry=False` it stays empty.
            boxes: (x0, y0, x1, y1) in a picture; (x0, y0, z0, x1, y1, z1) in a volume, on one slice.
            text: a sentence that names the object; alone, it is said of every slice.
            carry: in a volume, carry the mask to the other slices; otherwise only prompted slices get one.
            return_logits: logits on the file's grid instead of a mask.
            adapter: the adapter that answers; the active one by default, `()` for the plain SAM.

        Returns:
            (H, W) for a picture, (D, H, W) in file order for a volume; bool, or float32 logits.

        Raises:
            PromptError: no prompt, a prompt outside the scan, or no scan set.
            CheckpointError: no adapter of that name.
        """
        if self._scan is None:
            raise PromptError("no scan is set", expected="set_image or set_volume first", found="nothing")
        names = self._names(adapter)
        encoded = self._encoded_by(names)
        if encoded is None:
            encoded = self._encoded[tuple(names)] = self.encode(*self._scan, adapter=names)
        flat = encoded.is_picture
        clicks = [(*p, 0) if flat and len(p) == 2 else tuple(p) for p in points or []]
        corners = [(b[0], b[1], 0, b[2], b[3], 0) if flat and len(b) == 4 else tuple(b) for b in boxes or []]
        prompt = ObjectPrompt(clicks, list(labels) if labels is not None else [1] * len(clicks), corners, text)
        logits = self.predict_objects(encoded, [prompt], carry, rules)[0]
        if not flat and not prompt.is_text_alone:
            encoded.embeddings.encode_rest_in_background(_first_slice(encoded, prompt))
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
        """Logits (n, D, H, W) on the file's grid for n objects prompted in the file frame, of the scan's adapter."""
        logits = self._decode_objects(encoded, prompts, carry, rules, progress, should_stop)
        out = np.empty((len(prompts), *encoded.turn.shape_ijk[::-1]), np.float32)
        views = [encoded.turn.array_to_source(volume) for volume in out]
        for first, last, some in on_source_grid(encoded, logits):
            for view, slices in zip(views, some, strict=True):
                view[first:last] = slices
        return out

    def predict_labels(
        self,
        encoded: Encoded,
        prompts: Sequence[ObjectPrompt],
        carry: bool = True,
        rules: CarryRules | None = None,
        progress: Callable[[int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        labels: Sequence[int] | None = None,
        before: Sequence[Mapping[int, np.ndarray]] | None = None,
    ) -> np.ndarray:
        """The label map (D, H, W) on the file's grid, uint8 or uint16, of n objects prompted in the file frame.

        The masks are those of `predict_objects`; where objects overlap the one with the highest logit stays. Logits
        come to the file's grid a few slices at a time, so that a volume takes one byte a voxel.

        Args:
            labels: above 0, one for each object; 1 to n by default.
            before: for each object masks that its clicks correct, as `predict_slices` takes them.
        """
        values = np.array([0, *(labels or range(1, len(prompts) + 1))])
        values = values.astype(np.uint8 if values.max() < 256 else np.uint16)
        logits = self._decode_objects(encoded, prompts, carry, rules, progress, should_stop, before)
        out = np.zeros(encoded.turn.shape_ijk[::-1], values.dtype)
        view = encoded.turn.array_to_source(out)
        for first, last, some in on_source_grid(encoded, logits, only_objects=True):
            view[first:last] = values[np.where(some.max(0) > 0, some.argmax(0) + 1, 0)]
        return out

    def _decode_objects(self, encoded, prompts, carry, rules, progress, should_stop, before=None) -> list[np.ndarray]:
        """For each object logits (D, h, w) at the decoder's resolution."""
        encoded.embeddings.refuse_gone()
        with self._turns.in_front(), self._answering(encoded.embeddings.adapters):
            logits: dict[int, np.ndarray] = {}
            for group in _alike(prompts):
                asked = [prompts[i] for i in group]
                shown = [before[i] if before else {} for i in group]
                found = self._predict_alike(encoded, asked, carry, rules, progress, should_stop, shown)
                logits |= zip(group, found, strict=True)
        return [logits[i] for i in range(len(prompts))]

    def predict_slices(
        self, encoded: Encoded, prompt: ObjectPrompt, before: Mapping[int, np.ndarray] | None = None
    ) -> dict[int, np.ndarray]:
        """Masks of the slices that hold a click or a box, and of no other: what an interactive click costs.

        Slices with background clicks alone are left out, unless the prompt has a sentence or `before` a mask there.

        Args:
            prompt: in the file frame.
            before: {slice of the source: (H, W) bool}, masks that the clicks on these slices correct.

        Returns:
            {slice of the source: (H, W) bool}; the frame is that of `encoded.turn.array_to_source(file_array)`.

        Raises:
            PromptError: no prompt, a prompt outside the scan, or background clicks with nothing to correct.
        """
        encoded.embeddings.refuse_gone()
        with self._turns.in_front(), self._answering(encoded.embeddings.adapters):
            text = None
            if prompt.text:
                if self.model.text_model is None:
                    raise no_text_prompts()
                text = load_text_encoder(self.model.text_model)([prompt.text])[0]
            logits = self._decode_prompted(encoded, prompt, text, before or {})
        return {z: source_mask(encoded, each) for z, each in logits.items()}

    def _decode_prompted(self, encoded, prompt, text, before) -> dict[int, np.ndarray]:
        side = 4 * encoded.embeddings.shape[-1]
        masks = {z: mask_as_prompt(mask, encoded.letterbox, side) for z, mask in before.items()}
        return decode_prompted_slices(self.model, encoded, prompt, text, masks)

    def _predict_alike(self, encoded, prompts, carry, rules, progress, should_stop, before) -> np.ndarray:
        """(n, D, h, w) logits of objects whose prompts are of one kind, so that they share the decoder's calls."""
        texts = None
        if prompts[0].text:
            if self.model.text_model is None:
                raise no_text_prompts()
            texts = load_text_encoder(self.model.text_model)([prompt.text for prompt in prompts])
            if prompts[0].is_text_alone:
                return decode_every_slice(self.model, encoded.embeddings, texts, progress, should_stop, self.text_rules)
        spoken = [None] * len(prompts) if texts is None else list(texts)
        if not carry:
            anchors = [self._decode_prompted(encoded, *each) for each in zip(prompts, spoken, before, strict=True)]
            return anchors_only(anchors, len(encoded.embeddings))
        anchors, corrections = [], []
        for prompt, text, shown in zip(prompts, spoken, before, strict=True):
            check_prompt(encoded.turn, prompt)
            start, rest = anchors_and_corrections(encoded.turn, prompt, shown)
            anchors.append(self._decode_prompted(encoded, start, text, shown))
            corrections.append(rest)
        logits = carry_masks(self.model, encoded.embeddings, anchors, rules, progress, should_stop, texts)
        if encoded.is_picture:
            return logits
        for i, prompt in enumerate(prompts):
            logits[i] = keep_prompted(logits[i], prompted_places(encoded, prompt, logits.shape[1:]))
            correct_slices(self.model, encoded, logits[i], corrections[i], spoken[i])
        return logits

    def _names(self, adapter: str | Sequence[str] | None) -> list[str]:
        if adapter is None:
            with self._turns.lock:  # another thread may have switched the model for a moment
                return active_adapters(self.model)
        return sorted([adapter] if isinstance(adapter, str) else adapter)

    @contextlib.contextmanager
    def _answering(self, names: Sequence[str]) -> Iterator[None]:
        """These adapters answer inside, alone with the model."""
        with self._turns.lock:
            is_active = active_adapters(self.model) == list(names)
            with contextlib.nullcontext() if is_active else self.model.using_adapter(names):
                yield


def _first_slice(encoded: Encoded, prompt: ObjectPrompt) -> int:
    """The slice of the source that a prompt starts on."""
    return encoded.turn.slice_of((prompt.points + [b[:3] for b in prompt.boxes])[0])


def _alike(prompts: Sequence[ObjectPrompt]) -> list[list[int]]:
    """Indices of the prompts: those of text alone, those with text, those without."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((bool(prompt.text), prompt.is_text_alone), []).append(i)
    return list(groups.values())
