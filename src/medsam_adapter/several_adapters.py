"""Several adapters in one `MSAModel`: loaded beside each other, switched by name, or chosen for one call.

    model = MSAModel.from_pretrained("org/msa-btcv", adapter_name="btcv")
    model.load_adapter("org/msa-amos22", adapter_name="amos22")
    model.set_adapter("amos22")
    masks = model(**inputs, adapter="btcv").pred_masks

What goes with an adapter is switched too: the labels in `config.id2label`, and `config.num_slices`. A change of these
in the config is one of the adapter that was set last; labels that nobody knows are transformers' LABEL_0 and LABEL_1.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import AutoConfig, SamConfig

from medsam_adapter.adapters.files import load_adapter_weights, read_adapter_config
from medsam_adapter.adapters.switching import (
    active_adapters,
    adapter_layers,
    adapters_on,
    has_trained,
    switch_to,
    train_only,
)
from medsam_adapter.backbones import base_name, resolve_base
from medsam_adapter.errors import CheckpointError

UNKNOWN_LABELS = {0: "LABEL_0", 1: "LABEL_1"}

if TYPE_CHECKING:
    from transformers import SamModel as _Model  # what this is mixed into
else:
    _Model = object


@dataclass
class LoadedAdapter:
    """What a model knows of an adapter beyond its weights.

    Attributes:
        source: folder or Hub id it came from; None for a fresh one.
        hub: arguments with which it was found there (`revision`, `token`, ...).
        id2label: what it segments; None if that is not known.
        num_slices: slices that a volume is encoded in at a time.
    """

    source: str | None = None
    hub: dict[str, Any] = field(default_factory=dict, repr=False)  # it may hold a token
    id2label: dict[int, str] | None = None
    num_slices: int = 1


def with_adapter(method: Callable) -> Callable:
    """Gives a method of the model the keyword `adapter`: the name of the adapter that answers this one call.

    Several names add up; `()` is the plain SAM; None leaves the model as it is.
    """

    @functools.wraps(method)
    def call(self, *args, adapter: str | Sequence[str] | None = None, **kwargs):
        if adapter is None:
            return method(self, *args, **kwargs)
        with self.using_adapter(adapter):
            return method(self, *args, **kwargs)

    return call


class SeveralAdapters(_Model):
    """Mixin of `MSAModel`, in front of transformers' `PeftAdapterMixin`."""

    _hf_peft_config_loaded: bool  # transformers': whether there is an adapter
    _shown: str | None = None  # the adapter whose labels and slices the config says

    @property
    def loaded_adapters(self) -> dict[str, LoadedAdapter]:
        """{adapter name: where it came from and what goes with it}."""
        return self.__dict__.setdefault("_loaded_adapters", {})

    def _shown_adapter(self) -> str | None:
        """The adapter that the config speaks of: the first of those set last, or of a model that was just opened."""
        if self._shown not in getattr(self, "peft_config", {}):
            self._shown = next(iter(active_adapters(self, even_if_off=True)), None)
        return self._shown

    def _remember_shown(self) -> None:
        """Note what the config says now with the adapter that it belongs to, before another one is shown."""
        name = self._shown_adapter()
        if name is not None:
            facts = self.loaded_adapters.setdefault(name, LoadedAdapter())
            labels = dict(self.config.id2label)
            facts.id2label = None if labels == UNKNOWN_LABELS else labels
            facts.num_slices = self.config.num_slices

    def load_adapter(
        self,
        peft_model_id: str | Path | None = None,
        adapter_name: str | None = None,
        *args,
        revision: str | None = None,
        subfolder: str = "",
        is_trainable: bool = False,
        check_base: bool = True,
        **kwargs,
    ):
        """Load a further adapter from a folder or Hub repo. The active adapter stays active; a first one becomes it.

        Args:
            adapter_name: a new name, "default" if left out.
            revision: branch, tag or commit of its repo.
            check_base: False takes an adapter that was trained on a base of another name, if it fits.
            kwargs: `token`, `cache_dir`, `local_files_only`, ...; what transformers takes beyond a name
                (`adapter_state_dict`, `hotswap`, ...) goes to its own `load_adapter`.

        Raises:
            CheckpointError: another kind of adapter, one for another base, width or image size, or a name that is
                taken. The model is as before then.
        """
        if peft_model_id is None or args or kwargs.keys() & _TRANSFORMERS_OWN:
            own = {"revision": revision} if revision else {}
            return super().load_adapter(
                peft_model_id and str(peft_model_id), adapter_name, *args, is_trainable=is_trainable, **own, **kwargs
            )
        at, name = resolve_base(peft_model_id), adapter_name or "default"
        kwargs |= kwargs.pop("adapter_kwargs", None) or {}
        hub = {k: v for k, v in {**kwargs, "revision": revision, "subfolder": subfolder}.items() if v not in (None, "")}
        self._refuse_name(name, at)
        adapter = read_adapter_config(at, **hub)
        self._refuse_beside_others(adapter, at)
        if check_base:
            self._refuse_other_base(adapter, at)
        config = _config_of(at, hub)
        if config is not None:
            self._refuse_image_size(config.vision_config.image_size, at)
        adapter.inference_mode = not is_trainable
        self._try_on_twin(at, name, hub)
        self._remember_shown()
        before, was_trained = active_adapters(self), has_trained(adapter_layers(self))
        with warnings.catch_warnings():  # PEFT wonders whether a second adapter is wanted
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            load_adapter_weights(self, at, adapter, name, **hub)
        is_first = not self._hf_peft_config_loaded
        self._hf_peft_config_loaded = True
        self.loaded_adapters[name] = LoadedAdapter(
            at,
            hub,
            dict(config.id2label) if config is not None else None,
            getattr(config, "num_slices", _slices_of(adapter)),
        )
        layers = adapter_layers(self)
        switch_to(layers, before)
        train_only(layers, [*(before if was_trained else []), *([name] if is_trainable else [])])
        if is_first:
            self.set_adapter(name)

    def add_adapter(self, adapter_config, adapter_name: str | None = None) -> None:
        """Add a fresh adapter and make it the active one, the only one that is trained.

        The labels in the config are a first adapter's; those of one beside others are not known until they are set.
        """
        name, is_first = adapter_name or "default", not self._hf_peft_config_loaded
        if not is_first:
            self._remember_shown()
        super().add_adapter(adapter_config, adapter_name)
        if is_first:
            self._shown = name
        self.set_adapter(name, is_trainable=True)

    def delete_adapter(self, adapter_names: Sequence[str] | str) -> None:
        """Remove adapters and all that is known of them; of those that stay one becomes active if none is.

        Raises:
            CheckpointError: no adapter of that name.
        """
        names = self._known(adapter_names)
        self._remember_shown()
        super().delete_adapter(names)
        for name in names:
            self.loaded_adapters.pop(name, None)
        if self._shown in names:
            self._show(active_adapters(self, even_if_off=True) if self._hf_peft_config_loaded else [])

    def set_adapter(self, adapter_name: str | Sequence[str], is_trainable: bool | None = None) -> None:
        """Make adapters the active ones: one by name, or several, which add up.

        Args:
            is_trainable: whether their weights are trained from now on; None trains them if any adapter's were.

        Raises:
            CheckpointError: no adapter of that name.
        """
        names = self._known(adapter_name)
        self._remember_shown()
        layers = adapter_layers(self)
        switch_to(layers, names)
        if is_trainable is not None or has_trained(layers):
            train_only(layers, [] if is_trainable is False else names)
        self._show(names)

    def active_adapters(self) -> list[str]:
        """Names of the adapters that are set, even if `disable_adapters` has switched them off for the time being."""
        if not self._hf_peft_config_loaded:
            return super().active_adapters()  # transformers' error
        return active_adapters(self, even_if_off=True)

    def enable_adapters(self) -> None:
        """Switch the active adapters on again; a mask decoder that was trained whole, too."""
        super().enable_adapters()
        for layer in adapter_layers(self):
            if isinstance(layer, AuxiliaryTrainingWrapper) and layer.active_adapters:
                layer._disable_adapters = False  # transformers' own forgets these

    @contextlib.contextmanager
    def using_adapter(self, adapter: str | Sequence[str]) -> Iterator[None]:
        """Inside, this adapter (or several; `()` is the plain SAM) answers. For prediction: it does not change what is
        trained, and a backward pass with gradient checkpointing belongs inside.

        Raises:
            CheckpointError: no adapter of that name.
        """
        names = self._known(adapter) if adapter else []
        shown, labels, slices = self._shown_adapter(), self.config.id2label, self.config.num_slices
        with adapters_on(self, names):
            if names:
                self._show(names)
            try:
                yield
            finally:
                self._shown, self.config.id2label, self.config.num_slices = shown, labels, slices

    # -- checks --------------------------------------------------------------------------------------------------------

    def _known(self, adapter: str | Sequence[str]) -> list[str]:
        names = [adapter] if isinstance(adapter, str) else list(adapter)
        loaded = list(getattr(self, "peft_config", {}))
        unknown = [name for name in names if name not in loaded]
        if unknown or not names:
            raise CheckpointError(
                f"the model has no adapter {unknown[0]!r}" if unknown else "no adapter is named",
                expected=", ".join(loaded) or "none is loaded",
                found=", ".join(names) or "an empty list",
                hint='load it first: model.load_adapter("org/name", adapter_name="NAME")',
            )
        return names

    def _show(self, names: Sequence[str]) -> None:
        """Labels and slices of the first of these adapters, in the config; without one, those of a plain SAM."""
        name = names[0] if names else None
        if name is not None and name == self._shown:
            return  # the config may know better than what was noted
        facts = self.loaded_adapters.get(name) if name else None
        if facts is None:
            facts = LoadedAdapter(num_slices=_slices_of(self.peft_config[name]) if name else 1)
        self._shown = name
        self.config.num_slices = facts.num_slices
        self.config.id2label = dict(facts.id2label or UNKNOWN_LABELS)

    def _refuse_name(self, name: str, at: str) -> None:
        is_taken = name in getattr(self, "peft_config", {})
        if is_taken or "." in name or not name:
            raise CheckpointError(
                f"the adapter name {name!r} is {'taken' if is_taken else 'not usable'}", file=at,
                expected="a name without dots that no other adapter of the model has",
                found=", ".join(getattr(self, "peft_config", {})) if is_taken else name or "nothing",
                hint='give it one: load_adapter(..., adapter_name="NAME")',
            )  # fmt: skip

    def _refuse_beside_others(self, adapter, at: str) -> None:
        for name, other in getattr(self, "peft_config", {}).items():
            if other.peft_type != adapter.peft_type:
                found = f"{_kind(adapter)} beside {_kind(other)}"
            elif _trains_decoder(adapter) != _trains_decoder(other) and _has_decoder(adapter) and _has_decoder(other):
                found = "a whole mask decoder in one, adapters in the mask decoder in the other"
            else:
                continue
            raise CheckpointError(
                f"does not fit into one model with its adapter {name!r}", file=at, expected="adapters of one form",
                found=found, hint="open it in a model of its own: MSAModel.from_pretrained",
            )  # fmt: skip

    def _refuse_other_base(self, adapter, at: str) -> None:
        wanted, own = adapter.base_model_name_or_path, self.base_name
        if wanted and own and base_name(wanted) != own and Path(wanted).name != Path(own).name:
            raise CheckpointError(
                "the adapter was trained on another base", file=at, expected=own, found=wanted,
                hint="open it alone, or pass check_base=False if both hold the same weights",
            )  # fmt: skip

    def _refuse_image_size(self, size: int, at: str) -> None:
        own = self.config.vision_config.image_size
        if size != own:
            raise CheckpointError(
                "the adapter was trained in another model frame", file=at, expected=f"{own} pixels",
                found=f"{size} pixels",
                hint=f"open it alone with MSAModel.from_pretrained, or set_image_size(model, {size}) before loading it",
            )  # fmt: skip

    def _try_on_twin(self, at: str, name: str, hub: dict) -> None:
        """Load the adapter into a weightless copy of the base first: a misfit must not leave half an adapter here."""
        config = type(self.config).from_dict({**self.config.to_dict(), "adapter_configs": None})
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*meta parameter.*")
            load_adapter_weights(type(self)(config), at, read_adapter_config(at, **hub), name, **hub)


_TRANSFORMERS_OWN = {"peft_config", "adapter_state_dict", "load_config", "hotswap"}


def _config_of(at: str, hub: dict) -> SamConfig | None:
    """The run's own configuration; None for a folder that peft alone has written."""
    try:
        config = AutoConfig.from_pretrained(at, **hub)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, SamConfig) else None


def _slices_of(adapter) -> int:
    return adapter.num_slices if getattr(adapter, "use_depth", False) else 1


def _kind(adapter) -> str:
    return str(getattr(adapter.peft_type, "value", adapter.peft_type))


def _trains_decoder(adapter) -> bool:
    return "mask_decoder" in (adapter.modules_to_save or [])


def _has_decoder(adapter) -> bool:
    return _trains_decoder(adapter) or bool(getattr(adapter, "use_decoder", True))
