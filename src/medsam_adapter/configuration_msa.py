"""`MSAConfig`: a `SamConfig` that also knows labels, slices and, in a full repo, its adapters."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import SamConfig


@strict
class MSAConfig(SamConfig):
    """Configuration of an `MSAModel`.

    Attributes:
        num_slices: slices that a volume is encoded in at a time (1 for a model of images).
        adapter_configs: only in a full repo (base and adapters in one file): {adapter name: MSAAdapterConfig as a
            dict}.
        active_adapters: only in a full repo: names of those that answer; id2label is the first one's. None in files of
            before, of which the last by name answers.

    `id2label` says what the adapter segments; the paper's 2-D and 3-D models differ only in the adapter's `use_depth`.
    """

    model_type = "msa"
    num_slices: int = 1
    adapter_configs: dict | None = None
    active_adapters: list | None = None

    @classmethod
    def from_sam(cls, sam: SamConfig, **changes) -> MSAConfig:
        """The same sizes under the model type "msa"."""
        values = sam.to_dict()
        for key in ("model_type", "architectures", "transformers_version"):
            values.pop(key, None)
        config = cls(**{**values, **changes})
        # Not part of to_dict, and what a model remembers its base by.
        config._name_or_path = getattr(sam, "_name_or_path", "")
        return config
