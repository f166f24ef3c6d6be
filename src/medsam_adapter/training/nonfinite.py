"""A loss that is not a number: the run stops, and what is needed to see it again lies in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file

from medsam_adapter.errors import MSAError
from medsam_adapter.training.checkpoint import checkpoints
from medsam_adapter.writing import naming_write_errors, write_text

REPORT = "nonfinite.json"


def nonfinite_error(
    folder: Path,
    accelerator: Accelerator,
    batch: dict[str, Any],
    *,
    what: str,
    epoch: int,
    step: int,
    seed: tuple[int, ...],
    learning_rate: float,
) -> MSAError:
    """Write `nonfinite.json` and the batch, and make the error that names them. All processes must call it.

    The batch is written as the model was given it, `nonfinite/batch_<process>.safetensors`: it shows the patients'
    pictures. The weights before this step are those of the run's last checkpoint and the steps since.

    Args:
        what: is not finite and how: "the loss became nan".
        epoch, step: from 1.
        seed: of the step's prompts.
        learning_rate: of the step.
    """
    index = accelerator.process_index
    tensors = {key: value.cpu().contiguous() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    name = f"nonfinite/batch_{index}.safetensors"  # weights in the run folder itself are the model's
    with naming_write_errors(folder / name):
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(tensors, folder / name)
    case_ids, names = gather_object(list(batch["case_id"])), gather_object([name])
    file = folder / REPORT
    if accelerator.is_main_process:
        newest = checkpoints(folder)
        facts = {
            "what": what, "epoch": epoch, "step": step, "case_ids": case_ids, "seed": list(seed),
            "learning_rate": learning_rate, "recipe": str(folder / "recipe.yaml"), "batches": names,
            "checkpoint": newest[0].name if newest else None,
        }  # fmt: skip
        write_text(file, json.dumps(facts, indent=1) + "\n")
    return MSAError(
        f"{what} in epoch {epoch}, step {step}",
        file=file,
        expected="finite numbers",
        found=f"cases {', '.join(case_ids)}",
        hint="lower optim.learning_rate and start again, or look at these cases with `msa data check`; the batch lies "
        f"in {', '.join(names)}",
    )
