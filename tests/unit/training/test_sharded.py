"""Weights and optimiser states in shards go into a checkpoint whole, and back into shards."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from medsam_adapter.training.checkpoint import load_checkpoint, restore_weights, save_checkpoint, trainable_state
from medsam_adapter.training.sharded import load_optimizer_state, optimizer_state


def two_processes(index: int, folder, states) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
    states.put((index, work(init_device_mesh("cpu", (2,)), folder if index == 0 else None)))
    dist.barrier()
    dist.destroy_process_group()


def model_of(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3, bias=False))


def trained(model, optimizer, steps: int):
    for number in range(steps):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def started(seed: int, mesh=None):
    model = model_of(seed)
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def all_of(model, optimizer) -> dict:
    return copy.deepcopy({"model": trainable_state(model), "optimizer": optimizer_state(optimizer)})


def work(mesh, folder) -> bool:
    """Train in shards, save, go on in another model; whether all is as with whole tensors."""
    model, optimizer = started(0, mesh)
    assert isinstance(next(model.parameters()), DTensor)
    trained(model, optimizer, 3)
    saved = all_of(model, optimizer)
    if folder is not None:
        save_checkpoint(folder, saved, 3)
    alone, alone_optimizer = started(0)
    trained(alone, alone_optimizer, 3)
    is_equal = close(saved, all_of(alone, alone_optimizer))

    again, again_optimizer = started(1, mesh)
    trained(again, again_optimizer, 1)
    restore_weights(again, saved["model"], folder)
    load_optimizer_state(again_optimizer, saved["optimizer"])
    is_equal &= close(saved, all_of(again, again_optimizer))
    assert isinstance(next(iter(again_optimizer.state.values()))["exp_avg"], DTensor)
    trained(again, again_optimizer, 5)
    trained(model, optimizer, 5)
    return is_equal and close(all_of(again, again_optimizer), all_of(model, optimizer))


def close(one: dict, other: dict) -> bool:
    same = one["model"].keys() == other["model"].keys()
    pairs = [(one["model"][k], other["model"][k]) for k in one["model"]]
    for number, row in one["optimizer"]["state"].items():
        pairs += [(row[k], other["optimizer"]["state"][number][k]) for k in ("step", "exp_avg", "exp_avg_sq")]
    return same and all(
        not isinstance(a, DTensor) and a.shape == b.shape and torch.allclose(a, b, atol=1e-6) for a, b in pairs
    )


@pytest.mark.slow
def test_two_processes_save_what_one_saves_and_either_goes_on(tmp_path):
    """A checkpoint of two processes is one that a single process resumes."""
    states = torch.multiprocessing.get_context("fork").Queue()
    torch.multiprocessing.start_processes(two_processes, (tmp_path, states), nprocs=2, start_method="fork")
    assert dict(states.get() for _ in range(2)) == {0: True, 1: True}
    model, optimizer = started(7)
    state = load_checkpoint(tmp_path)
    restore_weights(model, state["model"], tmp_path)
    load_optimizer_state(optimizer, state["optimizer"])
    whole, whole_optimizer = started(0)
    trained(whole, whole_optimizer, 3)
    for each in ((model, optimizer), (whole, whole_optimizer)):
        trained(*each, 4)
    assert close(all_of(model, optimizer), all_of(whole, whole_optimizer))


def test_ordinary_tensors_pass_as_they_are():
    model, optimizer = started(0)
    trained(model, optimizer, 2)
    state = optimizer_state(optimizer)
    assert all(torch.equal(row["exp_avg"], optimizer.state[p]["exp_avg"]) for row, p in
               zip(state["state"].values(), model.parameters(), strict=True))  # fmt: skip
    other, other_optimizer = started(0)
    load_optimizer_state(other_optimizer, copy.deepcopy(state))
    assert other_optimizer.state[next(other.parameters())]["step"] == 2
