"""What a run folder holds, in words for its card: MSA's adapter, a LoRA, or all weights of a fine-tuned SAM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trained:
    """One trained model.

    Attributes:
        title: what it is, with its article and size.
        base: name of the SAM it was made from.
        detail: one line of settings.
        tags: for the Hub, those of every model left out.
        takes_text: whether sentences can prompt it.
    """

    title: str
    base: str
    detail: str
    tags: tuple[str, ...]
    takes_text: bool = False


def what_was_trained(folder: Path, recipe: dict[str, Any]) -> Trained:
    """Read from the configuration that lies beside the weights.

    Args:
        recipe: the run's recipe.yaml.
    """
    size_mb = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    file = folder / "adapter_config.json"
    if not file.exists():
        parts = {"full": "image encoder and mask decoder", "decoder": "mask decoder"}
        trained = parts.get(recipe["model"].get("method", ""), "weights")
        return Trained(
            f"A SAM whose {trained} {'was' if trained == 'mask decoder' else 'were'} fine-tuned ({size_mb:.0f} MB)",
            recipe["model"]["base"], f"- fine-tuned: {trained}; the prompt encoder is the base's", (),
        )  # fmt: skip
    adapter = json.loads(file.read_text(encoding="utf-8"))
    base = adapter["base_model_name_or_path"]
    if adapter["peft_type"] == "LORA":
        modules = adapter["target_modules"]
        names = modules if isinstance(modules, str) else ", ".join(sorted(modules))
        detail = f"- LoRA: rank {adapter['r']}, alpha {adapter['lora_alpha']:g}, modules {names}"
        return Trained(f"A LoRA ({size_mb:.1f} MB)", base, detail, ("lora", "peft"))
    dimensions = "3-D (space and depth)" if adapter["use_depth"] else "2-D"
    return Trained(
        f"A Medical SAM Adapter ({dimensions}, {size_mb:.1f} MB)",
        base,
        f"- adapter: bottleneck ratio {adapter['bottleneck_ratio']:g}, prompt fusion `{adapter['prompt_fusion']}`",
        ("msa-adapter", "peft"),
        bool(adapter.get("use_text")),
    )
