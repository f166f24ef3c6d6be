"""A trained network without prompts, asked as a prompted model is: for the mask of a target in a scan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from medsam_adapter.adapters.reading import READ_ERRORS
from medsam_adapter.baselines import get_baseline
from medsam_adapter.baselines.base import Baseline
from medsam_adapter.baselines.names import NETWORK_FILE, WEIGHTS_FILE
from medsam_adapter.data.patches.plan import Plan
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import CheckpointError
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.writing import write_text


class NetworkPredictor:
    """A network with the plan that it was trained by.

    Args:
        processor: how its scans are turned and shown in pictures; the network has a normalisation of its own.
    """

    def __init__(self, baseline: Baseline, network: nn.Module, plan: Plan, processor: MSAProcessor):
        self.baseline, self.network, self.plan, self.processor = baseline, network, plan, processor

    def settings(self) -> dict:
        """What an evaluation notes of it."""
        return {"method": self.baseline.name, "size": self.baseline.size, "plan": self.plan.to_json()}

    def masks(self, scan: Scan, targets: Sequence[str]) -> np.ndarray:
        """(n, D, H, W) bool in the file frame, one mask for each target.

        Raises:
            CheckpointError: a target that it was not trained for.
        """
        unknown = [name for name in targets if name not in self.plan.targets]
        if unknown:
            raise CheckpointError(
                f"this network was not trained for {unknown[0]!r}",
                expected=", ".join(self.plan.targets),
                found=", ".join(unknown),
                hint="choose targets with --target",
            )
        masks = self.baseline.predict_scan(self.network, scan, self.plan)
        order = list(self.plan.targets)
        return masks[[order.index(name) for name in targets]]

    def save_pretrained(self, folder: Path) -> None:
        """Write network.safetensors, network.json and preprocessor_config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        # Not save_file: some of MONAI's networks hold a layer under several names.
        save_model(self.network, str(folder / WEIGHTS_FILE))
        facts = {"method": self.baseline.name, "size": self.baseline.size, "plan": self.plan.to_json()}
        write_text(folder / NETWORK_FILE, json.dumps(facts, indent=1) + "\n")
        self.processor.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device | None = None) -> NetworkPredictor:
        """Open the run folder of a network.

        Raises:
            CheckpointError: files that are missing or do not fit each other.
        """
        folder = Path(folder)
        try:
            facts = json.loads((folder / NETWORK_FILE).read_text(encoding="utf-8"))
            baseline = get_baseline(facts["method"], facts["size"])
            plan = Plan.from_json(facts["plan"])
            network = baseline.build(plan)
            load_model(network, folder / WEIGHTS_FILE)
            processor = MSAProcessor.from_pretrained(folder)
        except (OSError, *READ_ERRORS) as error:
            raise CheckpointError(
                "is no network that msa train has saved",
                file=folder,
                expected=f"{NETWORK_FILE} and {WEIGHTS_FILE} that fit each other",
                found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from error
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(baseline, network.to(device).eval(), plan, processor)
