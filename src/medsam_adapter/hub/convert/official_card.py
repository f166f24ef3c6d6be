"""The model card of a converted checkpoint: where it comes from, what was found out about it, what it lacks."""

from __future__ import annotations

from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from medsam_adapter.adapters.config import MSAAdapterConfig


def write_official_card(
    folder: Path, name: str, source: str, config: MSAAdapterConfig, base: str, notes: list[str]
) -> None:
    """Write README.md.

    Args:
        source: name of the file that was converted.
        notes: sentences of `convert_official`.
    """
    metadata = {
        "library_name": "medsam-adapter",
        "pipeline_tag": "mask-generation",
        "tags": ["msa-adapter", "medical", "segmentation", "sam", "peft"],
    }
    if base.count("/") == 1 and not Path(base).exists():
        metadata["base_model"] = base
    dims = "3-D" if config.use_depth else "2-D"
    use = "set_volume(scan)" if config.use_depth else "set_image(picture)"
    point = "(x, y, z)" if config.use_depth else "(x, y)"
    lines = [
        f"# {name}",
        "",
        f"Encoder adapters ({dims}) on `{base}`, converted from `{source}`, a checkpoint of the authors' public code",
        "for [Medical SAM Adapter](https://arxiv.org/abs/2304.12620). They compute what that code computed",
        "(`compatibility: official`).",
        "",
        "```python",
        "from medsam_adapter import MSAPredictor",
        "",
        f'predictor = MSAPredictor.from_pretrained("{folder_name(name)}")',
        f"predictor.{use}",
        f"mask = predictor.predict(points=[{point}])",
        "```",
        "",
        "## What is known of it",
        "",
        *(f"- {note}" for note in notes),
        "- Nothing was measured when it was converted, and what it segments stands in no file: see its source.",
        "- Its licence is that of its source.",
        "",
        "## Limits",
        "",
        "The public code squeezes images to a square; here they keep their form and are padded. It gives each image",
        "the clicks of the whole batch; here each image has its own. Research software, not a medical device.",
        "",
    ]
    text = f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n" + "\n".join(lines)
    ModelCard(text)  # refuses metadata that the Hub would refuse
    (folder / "README.md").write_text(text, encoding="utf-8")


def folder_name(name: str) -> str:
    """A name that may stand in quotes."""
    return name.replace('"', "").replace("\\", "")
