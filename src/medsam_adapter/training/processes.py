"""Several processes that train or evaluate together: how they meet, sums over all of them, weights that are sharded.

Without others everything here is the identity. Which samples are whose: `global_batches.py`.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from medsam_adapter.errors import RecipeError

PATIENCE = timedelta(hours=3)
"""A process waits so long for the others: while the first one encodes, or where one's cases take longer to score."""


def make_accelerator(
    mixed_precision: str, gradient_accumulation: int = 1, batch_size: int = 1, **options
) -> Accelerator:
    """An `Accelerator` of a run.

    Args:
        batch_size: samples of one process in a step, which DeepSpeed wants to know.
        options: further ones of Accelerator's own.

    Raises:
        RecipeError: a tracker (`log_with`) that is not installed, without which Accelerate would go on.
    """
    tracker = options.get("log_with")
    if tracker and tracker not in get_available_trackers():
        raise RecipeError(
            f"the tracker {tracker} is not installed", expected=f"pip install {tracker}", found="no such package",
            hint="--run.tracker none trains without",
        )  # fmt: skip
    before = AcceleratorState._shared_state.get("_mixed_precision", mixed_precision)
    if before != mixed_precision and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Accelerate keeps one state for a Python process, and refuses a run of another precision after the first.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=mixed_precision, gradient_accumulation_steps=gradient_accumulation, cpu=_must_use_cpu(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE), *options.pop("kwargs_handlers", [])], **options,
    )  # fmt: skip
    if accelerator.state.deepspeed_plugin is not None:
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = batch_size
    if accelerator.distributed_type == DistributedType.MULTI_CPU and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        _shard_on_cpu(accelerator)
    if is_sharded(accelerator):
        # Autocast alone, as in one process. FSDP's own mixed precision would give the losses rounded targets, and leave
        # a model whose weights do not fit its pictures where it is called outside of a step, to validate.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
    return accelerator


def _must_use_cpu() -> bool:
    """Whether the processes can meet on the CPU only.

    Accelerate (1.15) has to be told: without a GPU each of several processes takes itself for the only one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is None or device.type == "mps"


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """FSDP2 over gloo, which torch can and Accelerate (1.15) takes for DDP: a way to try it without GPUs."""
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise RecipeError(
            "FSDP 1 is not supported", expected="fsdp_version: 2", found=str(plugin.fsdp_version),
            hint="take a file of hub_configs/accelerate",
        )  # fmt: skip
    accelerator.state.fsdp_plugin = plugin
    # Both hold it, and whoever asks for an AcceleratorState copies the one into the other.
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Which of them this is, from 0; 0 writes and prints."""
    return dist.get_rank() if num_processes() > 1 else 0


def join_processes() -> bool:
    """Meet the other processes, if `accelerate launch` has started several; whether this is the one that prints."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(_must_use_cpu(), timeout=PATIENCE)
    return process_index() == 0


@atexit.register
def _leave_processes() -> None:
    """Take down a group that meets on the CPU before Python goes: its threads abort a process that leaves with them.

    torch 2.13: "terminate called without an active exception", exit code -6, for one of four processes that had
    gathered objects in 15 of 25 launches; in none of 40 that came here. NCCL's group has no such threads, and waits for
    the others, who may not come where one has failed.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def gather_list(own: list[Any]) -> list[Any]:
    """The objects of all processes, those of process 0 first, in every process; lists may differ in length."""
    return gather_object(own) if num_processes() > 1 else own


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of what each process gives, without gradient. All must call it, with the same shape."""
    if num_processes() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds only a part of the weights (FSDP2)."""
    return accelerator.distributed_type == DistributedType.FSDP


def refuse_sharding(accelerator: Accelerator, what: str) -> None:
    """Raises RecipeError if the processes are to shard the weights of something without blocks to shard."""
    if is_sharded(accelerator):
        raise RecipeError(
            f"{what} is not trained under FSDP", expected="one process, or several by DDP", found="an FSDP config",
            hint="use hub_configs/accelerate/eight_gpus_ddp.yaml",
        )  # fmt: skip


def name_wrapped_blocks(accelerator: Accelerator, model: nn.Module) -> None:
    """Tell FSDP2 which modules to shard one by one: the encoder's blocks, whatever the training method makes of them.

    Each is called once in a step. What is called as often as there are clicks (the mask decoder) stays with the rest,
    which is gathered once in a step: processes that make different numbers of calls would wait for each other.
    """
    if not is_sharded(accelerator):
        return
    # Nothing changes a block's output in place, which is what it warns of; the tests compare it with one process.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    kinds = {type(layer).__name__ for layer in model.vision_encoder.layers}
    names = {"MSAVisionLayer"} if "MSAVisionLayer" in kinds else kinds  # wrapped blocks hold a plain one inside
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names)


@contextmanager
def whole_weights(accelerator: Accelerator, module: nn.Module) -> Iterator[None]:
    """Within, the weights of an FSDP2 module are whole in every process, and it may be called in part and any number
    of times. All processes must come here together.
    """
    parts = _sharded_parts(module) if is_sharded(accelerator) else []
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        # Each call in here was noted as a forward pass of a step, in this process only: the next backward pass would
        # fetch weights in that order, and the processes wait for each other for ever.
        for root in parts[:1]:
            root.reset_iter_state()
        for number, part in enumerate(parts):
            part.reshard()
            is_root = number == 0  # stays whole from its forward to its backward pass, as accelerate sets it up
            again = not is_root and accelerator.state.fsdp_plugin.reshard_after_forward
            part.set_reshard_after_forward(bool(again), recurse=False)


def _sharded_parts(module: nn.Module) -> list[nn.Module]:
    """The FSDP2 modules of a module, itself first."""
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]
