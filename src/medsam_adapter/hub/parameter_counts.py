"""How many parameters a run's model has, and how many of them were trained; no weight is read or made."""

from __future__ import annotations

import torch

from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.hub.run_facts import RunFacts
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.training.methods import make_trainable


def count_parameters(facts: RunFacts) -> tuple[int, int]:
    """(all, trained); what was trained is what an adapter's file holds, or what the method leaves unfrozen."""
    with torch.device("meta"):
        model = MSAModel(MSAConfig.from_dict({**facts.config, "adapter_configs": None}))
    base = sum(parameter.numel() for parameter in model.parameters())
    if not facts.is_whole:
        return base + facts.num_stored, facts.num_stored
    make_trainable(model.requires_grad_(False), None, facts.recipe["model"].get("method", "full"))
    return base, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
