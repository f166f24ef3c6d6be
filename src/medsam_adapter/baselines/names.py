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

NETWORK_FILE = "network.json"
WEIGHTS_FILE = "network.safetensors"
"""Plan and weights in the run folder of a network; a folder that has the first is opened as one."""
