"""The model card of a run: `README.md` with the metadata the Hub reads, every number from a file of the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from medsam_adapter.evaluation.exports import model_index
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.hub import card_sections
from medsam_adapter.hub.card_sections import Publication
from medsam_adapter.hub.licences import licence_metadata
from medsam_adapter.hub.run_facts import RunFacts


def write_card(folder: Path, results: Sequence[EvaluationResult] | None = None) -> Path:
    """Write `README.md` from recipe, adapter config and results of a run folder.

    Args:
        results: evaluations to print as a table; those of this run are entered as `model-index`. Without them the best
            validation Dice stands alone.
    """
    path = Path(folder) / "README.md"
    path.write_text(card_text(RunFacts.read(folder), results or []), encoding="utf-8")
    return path


def card_text(facts: RunFacts, results: Sequence[EvaluationResult], publication: Publication | None = None) -> str:
    """The whole card.

    Args:
        publication: where and how the run is published; None for the card that lies in the run folder.
    """
    lines = [
        *card_sections.introduction(facts, publication),
        *card_sections.usage(facts, publication),
        *card_sections.numbers(facts, results, publication),
        *card_sections.made_with(facts, publication),
        *card_sections.cost(facts),
        *card_sections.limits(facts),
        *(card_sections.licence(publication) if publication else []),
        *card_sections.citation(),
    ]
    header = yaml.safe_dump(_metadata(facts, results, publication), sort_keys=False, allow_unicode=True)
    text = f"---\n{header}---\n\n" + "\n".join(lines)
    ModelCard(text)  # refuses metadata that the Hub would refuse
    return text


def _metadata(facts: RunFacts, results: Sequence[EvaluationResult], publication: Publication | None) -> dict[str, Any]:
    base = publication.base if publication else facts.trained.base
    metadata: dict[str, Any] = {
        "library_name": "medsam-adapter",
        "pipeline_tag": "mask-generation",
        "tags": ["medical", "segmentation", "sam", *facts.trained.tags],
    }
    if publication and publication.licence:
        metadata |= licence_metadata(publication.licence)
    if "/" in base and not Path(base).exists():
        metadata["base_model"] = base
        metadata["base_model_relation"] = "finetune" if facts.is_whole else "adapter"
    emissions = facts.emissions()
    if emissions:
        metadata["co2_eq_emissions"] = emissions
    # Not the Hub's own fields: what `msa zoo` shows without downloading anything.
    metadata["msa"] = {
        "targets": facts.targets,
        "modality": facts.modality,
        "base": base,
        "size_mb": round(publication.size_mb if publication and publication.size_mb else facts.size_mb, 2),
        "val_dice": facts.best["val_dice"],
    }
    index = model_index(facts.name, [result for result in results if facts.is_own(result)])
    if index:
        metadata["model-index"] = index
    return metadata
