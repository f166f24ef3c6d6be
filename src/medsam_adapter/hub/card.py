"""The model card of a run: `README.md` with the metadata the Hub reads, every number from a file of the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.evaluation.tables import table_rows, to_markdown


def write_card(folder: Path, results: list[EvaluationResult] | None = None) -> Path:
    """Write `README.md` from recipe, adapter config and results of a run folder.

    Args:
        results: evaluations to print as a table; without them the best validation Dice stands alone.
    """
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    adapter = json.loads((folder / "adapter_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    best = json.loads((folder / "best.json").read_text())
    size_mb = (folder / "adapter_model.safetensors").stat().st_size / 1e6
    base = adapter["base_model_name_or_path"]
    targets = [
        name for i, name in sorted(config["id2label"].items(), key=lambda item: int(item[0])) if name != "background"
    ]
    metadata = {
        "library_name": "medsam-adapter",
        "pipeline_tag": "mask-generation",
        "tags": ["msa-adapter", "medical", "segmentation", "sam", "peft"],
    }
    if "/" in base and not Path(base).exists():
        metadata["base_model"] = base
    dimensions = "3-D (space and depth)" if adapter["use_depth"] else "2-D"
    lines = [
        f"# {recipe['name']}",
        "",
        f"A Medical SAM Adapter ({dimensions}, {size_mb:.1f} MB) on `{base}` that segments {', '.join(targets)}, "
        f"steered by clicks, boxes{' or sentences' if adapter.get('use_text') else ''}.".replace(
            ", boxes.", " or boxes."
        ),
        "",
        "```python",
        "from medsam_adapter import MSAPredictor",
        "",
        f'predictor = MSAPredictor.from_pretrained("{folder.name}")',
        "predictor.set_volume(scan)                            # a nibabel image, or set_image for a picture",
        "mask = predictor.predict(points=[(x, y, z)])",
        *([f'mask = predictor.predict(text="the {targets[0]}")'] if adapter.get("use_text") else []),
        "```",
        "",
        "## Numbers",
        "",
    ]
    if results:
        lines += [to_markdown(table_rows(results)), ""]
    if best["val_dice"] is not None:
        prompts = recipe["run"].get("validate_prompts", "1-point")
        lines += [f"Best validation Dice, {prompts} per volume: {best['val_dice']:.3f} (epoch {best['epoch']}).", ""]
    else:
        lines += [f"Trained for {best['epoch']} epochs without validation cases.", ""]
    lines += [
        "Dice, IoU and HD95 (mm) per case and target on the scan's own grid, then the mean over cases.",
        "",
        "## Made with",
        "",
        f"- data: `{Path(recipe['data']['path']).name}`, intensity `{recipe['data']['intensity']}`",
        f"- adapter: bottleneck ratio {adapter['bottleneck_ratio']:g}, prompt fusion `{adapter['prompt_fusion']}`",
        "- `recipe.yaml`, `versions.json` and `split.json` in this folder make it again: `msa train recipe.yaml`",
        "",
        "## Limits",
        "",
        "Research software, not a medical device. It has seen one data set only; check masks before using them.",
        "",
    ]
    text = f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n" + "\n".join(lines)
    ModelCard(text)  # refuses metadata that the Hub would refuse
    path = folder / "README.md"
    path.write_text(text)
    return path
