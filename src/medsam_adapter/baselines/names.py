"""The names of the networks without prompts, for those who must know them and nothing more."""

from __future__ import annotations

BASELINES = {
    "nnunet": "NNUNet",
    "unetr": "UNETR",
    "swin_unetr": "SwinUNETR",
    "resunet": "ResUNet",
    "mednext": "MedNeXt",
    "transunet": "TransUNet",
    "transbts": "TransBTS",
    "segdiff": "SegDiff",
    "ensdiff": "EnsDiff",
    "medsegdiff": "MedSegDiff",
}
"""{name, also of the file: class in it}."""
