"""Medical SAM Adapter: a frozen Segment Anything Model, made medical by adapters of a few MB.

Names are loaded when they are first used, so that `import medsam_adapter` costs nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "MSAAdapterConfig": "adapters.config",
    "MSAConfig": "configuration_msa",
    "MSAModel": "modeling_msa",
    "MSAOutput": "modeling_msa",
    "MSAPredictor": "inference.predictor",
    "MSAProcessor": "processing_msa",
    "read_scan": "data.io",
    "register_peft_method": "adapters.tuner",
    "set_image_size": "image_size",
    "write_mask": "data.mask_writing",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
