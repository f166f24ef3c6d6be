"""`MSAModel`: a `SamModel` with adapters, volumes, any image size and a loss.

Shape legend: B batch, D slices, P objects (prompts), K points an object, M masks an object, C embedding width, g grid
side (image_size / patch_size), h = w = 4 g side of the decoder's masks.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import inject_adapter_in_model
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration, SamConfig, SamModel
from transformers.utils import ModelOutput, find_adapter_config_file

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.fast_layer import make_fast
from medsam_adapter.adapters.files import AdapterConfig, config_from_plain, plain_config
from medsam_adapter.adapters.pickles import refuse_pickle_file
from medsam_adapter.adapters.switching import adapter_layers, switch_to, train_only
from medsam_adapter.adapters.tuner import register_peft_method
from medsam_adapter.adapters.vision_layer import volume_chunk
from medsam_adapter.backbones import base_name, resolve_base
from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.errors import CheckpointError, PromptError, no_text_prompts
from medsam_adapter.frozen_features import finish_encoding
from medsam_adapter.hub.push_model import PUSH_ARGUMENTS, PushesToHub
from medsam_adapter.image_size import set_image_size
from medsam_adapter.losses import best_mask_loss
from medsam_adapter.model_opening import HUB_ARGUMENTS, open_adapter, read_sam_config, weights_told
from medsam_adapter.model_saving import write_adapter_folder
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.per_slice import prompts_per_slice
from medsam_adapter.prompts.text import embed_objects
from medsam_adapter.several_adapters import SeveralAdapters, with_adapter


@dataclass
class MSAOutput(ModelOutput):
    """Output of `MSAModel`.

    Attributes:
        loss: scalar, only with `labels`.
        iou_scores: (B, P, M), or (B, D, P, M) for volumes: the predicted IoU of each mask.
        pred_masks: (B, P, M, h, w), or (B, D, P, M, h, w): logits; the mask is where they are above 0.
        image_embeddings: (B, C, g, g), or (B, D, C, g, g).
    """

    loss: Tensor | None = None
    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    image_embeddings: Tensor | None = None


class MSAModel(SeveralAdapters, PushesToHub, SamModel):
    """Medical SAM Adapter (https://arxiv.org/abs/2304.12620) as one model class.

    Parameter names are SAM's, so that one adapter file serves `MSAModel`, `peft.PeftModel` and `SamModel.load_adapter`.
    """

    config_class = MSAConfig
    config: MSAConfig
    _no_split_modules = ["SamVisionLayer", "FastVisionLayer", "MSAVisionLayer"]

    def __init__(self, config: SamConfig):
        if not isinstance(config, MSAConfig):
            config = MSAConfig.from_sam(config)
        super().__init__(config)
        make_fast(self)
        for name, values in (config.adapter_configs or {}).items():  # a full repo: its file holds these weights too
            inject_adapter_in_model(config_from_plain(values), self, name)
            self._hf_peft_config_loaded = True
        active = [name for name in config.active_adapters or () if name in (config.adapter_configs or {})]
        if active:
            switch_to(adapter_layers(self), active)
            self._shown = active[0]

    # -- building ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_base(
        cls,
        base: str | Path | SamModel = "sam-tiny",
        adapter: AdapterConfig | None = None,
        *,
        image_size: int | None = None,
        adapter_name: str = "default",
        id2label: dict[int, str] | None = None,
        **kwargs,
    ) -> MSAModel:
        """A model with a fresh adapter, ready to train: everything but the adapter is frozen.

        Args:
            base: "sam-tiny" (ships with the package), a Hub id such as "facebook/sam-vit-base", a folder, or a
                `SamModel`, whose weights are shared, not copied.
            adapter: what to add, an `MSAAdapterConfig` or PEFT's `LoraConfig`; None adds nothing (plain SAM under this
                class).
            image_size: side of the model frame in pixels; None keeps the base's.
            id2label: what will be segmented, kept in the config.
            kwargs: for `from_pretrained` of the base (`dtype`, `attn_implementation`, `revision`, ...).
        """
        if isinstance(base, SamModel):
            model = cls(MSAConfig.from_sam(base.config))
            model.load_state_dict(base.state_dict(), assign=True)
            model.tie_weights()
            model.to(dtype=base.dtype)
            model.name_or_path = base.name_or_path
        else:
            model = cls.from_pretrained(base, **kwargs)
        model.eval()
        if image_size is not None:
            set_image_size(model, image_size)
        if id2label is not None:
            model.config.id2label = dict(id2label)
        model.requires_grad_(False)
        if adapter is not None:
            model.add_msa_adapter(adapter, adapter_name)
        return model

    def add_msa_adapter(self, adapter: AdapterConfig, adapter_name: str = "default") -> None:
        """Add a fresh adapter (or LoRA) and make it the active, trainable one.

        Raises:
            CheckpointError: if the model has one of this name.
        """
        if self._hf_peft_config_loaded and adapter_name in self.peft_config:
            raise CheckpointError(
                "this base has an adapter already",
                file=self.base_name,
                expected="a SAM without adapters",
                found=f"the adapter {adapter_name!r}",
                hint="open it with from_pretrained(..., is_trainable=True), or start a run from it: msa train --base",
            )
        adapter = copy.deepcopy(adapter)  # the caller may give the same configuration to several models
        adapter.base_model_name_or_path = self.base_name or adapter.base_model_name_or_path
        self.add_adapter(adapter, adapter_name=adapter_name)
        if isinstance(adapter, MSAAdapterConfig) and adapter.use_depth:
            self.config.num_slices = adapter.num_slices

    @property
    def base_name(self) -> str | None:
        """Where the base came from, as adapters record it; None for a model made in memory."""
        return base_name(self.name_or_path) if self.name_or_path else None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args,
        config: SamConfig | str | None = None,
        adapter_name: str = "default",
        is_trainable: bool = False,
        revision: str | None = None,
        subfolder: str = "",
        **kwargs,
    ) -> MSAModel:
        """Open an adapter-only repo (MSA or LoRA), a full MSA repo, or a plain SAM: a folder, a Hub id or "sam-tiny".

        Args:
            adapter_name: name under which the adapter is loaded.
            is_trainable: leave the adapter's weights trainable; without it, and of the base, none are. Only of a plain
                SAM, which has no adapter, all stay trainable.
            revision: branch, tag or commit of *this* repo; the base's is the one recorded in the adapter.

        Raises:
            CheckpointError: another kind of adapter, one that does not fit its base, or a base that is not recorded.
        """
        name = resolve_base(pretrained_model_name_or_path)
        refuse_pickle_file(name)
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        adapter_kwargs = dict(kwargs.pop("adapter_kwargs", None) or {})
        at = resolve_base(adapter_kwargs.pop("_adapter_model_path", None) or name)  # AutoModel has looked already
        if at != name:
            revision = adapter_kwargs.get("revision")  # what came as `revision` is of the base that AutoModel has found
        source = {
            **hub,
            **({"revision": revision} if revision else {}),
            **({"subfolder": subfolder} if subfolder else {}),
        }
        if find_adapter_config_file(at, **source) is not None:
            return open_adapter(cls, at, args, config, adapter_name, is_trainable, source, hub, kwargs)
        config = read_sam_config(name, config, source)
        kwargs["use_safetensors"] = True
        with weights_told(name, source):
            model = super().from_pretrained(
                name, *args, config=config, revision=revision or "main", subfolder=subfolder, **kwargs
            )
        model.name_or_path = base_name(name)
        if model._hf_peft_config_loaded:
            model.requires_grad_(False)
            train_only(adapter_layers(model), model.active_adapters() if is_trainable else [])
        return model

    def save_pretrained(
        self, save_directory: str | Path, *args, full: bool = False, adapter_name: str | None = None, **kwargs
    ):
        """Write the adapter and the config (default), or base and adapters in one file.

        Args:
            full: also the base's weights; such a folder opens without any other.
            adapter_name: which adapter; the active one by default. `full` writes all and takes no name.
            state_dict: the weights to write where the model holds only parts of them (FSDP), as in transformers; for an
                adapter its own are enough.

        Raises:
            CheckpointError: if only the adapter is to be saved and nobody knows where the base is to be found, or
                several are active and none is named; or if one is named with `full`.
        """
        folder = Path(save_directory)
        if full and adapter_name is not None:
            raise CheckpointError(
                "a full save holds all adapters, so none can be chosen", file=folder,
                expected="full=True without a name",
                found=f"adapter_name={adapter_name!r}", hint="leave out full=True, or delete_adapter the others first",
            )  # fmt: skip
        is_pushed = kwargs.pop("push_to_hub", False)
        push = {key: kwargs.pop(key) for key in PUSH_ARGUMENTS if is_pushed and key in kwargs}
        if not self._hf_peft_config_loaded or full:
            self._save_full(folder, *args, **kwargs)
        else:
            write_adapter_folder(self, folder, self._the_adapter(adapter_name, folder), kwargs.get("state_dict"))
        if is_pushed:
            self.push_to_hub(push.pop("repo_id", folder.name), full=full, adapter_name=adapter_name, **push)

    def _the_adapter(self, adapter_name: str | None, folder: Path) -> str:
        """The one that goes into a folder: the named one, or the active one."""
        names = [adapter_name] if adapter_name else self.active_adapters()
        if len(names) > 1:
            raise CheckpointError(
                "several adapters are active, and a folder holds one", file=folder, expected='adapter_name="NAME"',
                found=", ".join(names), hint="save each into a folder of its own, or all with full=True",
            )  # fmt: skip
        [name] = self._known(names)
        return name

    def _save_full(self, folder: Path, *args, **kwargs) -> None:
        had = self._hf_peft_config_loaded
        if had:
            shown = self._shown_adapter()
            self.config.active_adapters = sorted(self.active_adapters(), key=lambda name: name != shown)
            self.config.adapter_configs = {name: plain_config(each) for name, each in self.peft_config.items()}
            # Otherwise the renaming of keys by the last load of an adapter would be undone in the file.
            kwargs["save_original_format"] = False
        self._hf_peft_config_loaded = False
        try:
            super().save_pretrained(folder, *args, **kwargs)
        finally:
            self._hf_peft_config_loaded, self.config.adapter_configs, self.config.active_adapters = had, None, None

    @property
    def text_model(self) -> str | None:
        """Name of the text model whose embeddings the active adapter takes; None if it takes no texts."""
        active = self.active_adapters() if self._hf_peft_config_loaded else []
        configs = [self.peft_config[name] for name in active]
        return next((c.text_model for c in configs if isinstance(c, MSAAdapterConfig) and c.use_text), None)

    # -- using ---------------------------------------------------------------------------------------------------------

    @with_adapter
    def encode(
        self, pixel_values: Tensor | None = None, slice_mask: Tensor | None = None, frozen: Tensor | None = None
    ) -> Tensor:
        """Image embeddings, with gradients where the adapters need them.

        Args:
            pixel_values: (B, 3, H, W), or (B, D, 3, H, W): D slices that may attend to each other.
            slice_mask: (B, D) bool, False for slices that only fill up a volume.
            frozen: in place of pixel_values, what `frozen_features` has made of them: (B, ...) or (B, D, ...).

        Returns:
            (B, C, g, g) or (B, D, C, g, g).
        """
        given = pixel_values if frozen is None else frozen
        if given is None or given.ndim not in (4, 5):
            raise PromptError(
                "pixel_values has the wrong number of axes",
                expected="(B, 3, H, W) or (B, D, 3, H, W)",
                found="none" if given is None else str(tuple(given.shape)),
                hint="prepare images with MSAProcessor",
            )
        is_volume = given.ndim == 5
        images = given.flatten(0, 1) if is_volume else given
        if frozen is None:  # the encoder may be kept in a shorter type than prompts and decoder
            images = images.to(self.vision_encoder.patch_embed.projection.weight.dtype)
        with volume_chunk(given.shape[1], slice_mask) if is_volume else contextlib.nullcontext():
            embeddings = self.vision_encoder(images)[0] if frozen is None else finish_encoding(self, images)
        return embeddings.unflatten(0, given.shape[:2]) if is_volume else embeddings

    @torch.no_grad()
    @with_adapter
    def get_image_embeddings(self, pixel_values: Tensor, slice_mask: Tensor | None = None, **kwargs) -> Tensor:
        """Image embeddings without gradients; shapes as in `encode`."""
        return self.encode(pixel_values, slice_mask)

    @with_adapter
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        input_texts: Tensor | Sequence[str] | Sequence[Sequence[str]] | None = None,
        image_embeddings: Tensor | None = None,
        multimask_output: bool = False,
        labels: Tensor | None = None,
        slice_mask: Tensor | None = None,
        **kwargs,
    ) -> MSAOutput:
        """Masks for prompted objects.

        Args:
            pixel_values: (B, 3, H, W) or (B, D, 3, H, W); or give `image_embeddings`.
            input_points: (B, P, K, 2), (x, y) in the model frame; for volumes (B, D, P, K, 2), or (B, P, K, 2) for the
                same points on every slice.
            input_labels: (B, P, K) or (B, D, P, K): 1 object, 0 ground, -1 no point; all 1 by default.
            input_boxes: (B, P, 4) or (B, D, P, 4), x0 y0 x1 y1 in the model frame.
            input_masks: (B, P, h, w) or (B, D, P, h, w), logits.
            input_texts: sentences, for each image a list with one for each object (`["the spleen"]` for one image), or
                their embeddings (B, P, W) or (B, D, P, W); needs an adapter with text prompts.
            multimask_output: three masks rather than one (M).
            labels: (B, P, H, W) or (B, D, P, H, W), the targets; gives `loss` = Dice + BCE, of the best of M masks.
            slice_mask: (B, D) bool, False for slices that only fill up a volume; they do not count in the loss.

        Without any prompt the whole picture is the box of one object. `adapter="NAME"` is the adapter that answers this
        one call (several_adapters.py).
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise PromptError(
                "the model needs one of pixel_values and image_embeddings",
                expected="exactly one",
                found="none" if pixel_values is None else "both",
                hint="pass the processor's output as it is",
            )
        embeddings = self.encode(pixel_values, slice_mask) if image_embeddings is None else image_embeddings
        is_volume = embeddings.ndim == 5
        lead = embeddings.shape[:-3]
        if input_texts is not None and not isinstance(input_texts, Tensor):
            if self.text_model is None:
                raise no_text_prompts()
            input_texts = embed_objects(input_texts, lead[0], self.text_model).to(embeddings.device)
        prompts = prompts_per_slice(
            embeddings, self.config.vision_config.image_size, input_points, input_labels, input_boxes, input_masks,
            input_texts,
        )  # fmt: skip
        logits, iou = decode_masks(self, embeddings.flatten(0, -4), **prompts, multimask_output=multimask_output)
        if is_volume:
            logits, iou = logits.unflatten(0, lead), iou.unflatten(0, lead)
        loss = None if labels is None else best_mask_loss(logits, labels, slice_mask)
        return MSAOutput(loss=loss, iou_scores=iou, pred_masks=logits, image_embeddings=embeddings)


register_peft_method()
AutoConfig.register("msa", MSAConfig, exist_ok=True)
AutoModel.register(MSAConfig, MSAModel, exist_ok=True)
AutoModelForMaskGeneration.register(MSAConfig, MSAModel, exist_ok=True)
