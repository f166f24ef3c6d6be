"""Whatever stops a run, it goes on as if nothing had: kills, signals, damaged checkpoints, full disks.

A run of 8 steps in two epochs, on phantoms and a tiny SAM. What is compared is everything that a run leaves: trained
weights, Adam's moments, schedule, torch's random state, sums of the epoch under way, metrics, the best adapter.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import CheckpointError, Interrupted, MSAError, OutputError
from medsam_adapter.training import checkpoint as checkpoint_module
from medsam_adapter.training import loop, run_folder, run_lock
from medsam_adapter.training.checkpoint import checkpoints, load_checkpoint
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.progress import Progress
from medsam_adapter.training.prompted_task import PromptedTask
from medsam_adapter.training.recipe import Recipe, load_recipe, make_recipe
from medsam_adapter.training.schedule import learning_rate_factor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 5, shape_zyx=(12, 48, 48))


@pytest.fixture(scope="module")
def make(phantoms, tiny_base):
    """make(folder, section={key: value}) -> a recipe of 4 steps an epoch, two epochs."""

    def made(folder, **sections) -> Recipe:
        values = {
            "name": "test",
            "model": {"base": str(tiny_base), "adapter": {"num_slices": 2, "bottleneck_ratio": 0.25}},
            "data": {
                "path": str(phantoms), "intensity": "ct:soft-tissue", "targets": ["liver", "spleen"],
                "val_fraction": 0.2, "samples_per_case": 2,
            },
            "optim": {"epochs": 2, "batch_size": 2, "learning_rate": 2e-3},
            "run": {"output": str(folder), "checkpoint_every_steps": 1},
        }  # fmt: skip
        for name, more in sections.items():
            values[name] = values[name] | more
        return make_recipe(values)

    return made


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """whole(section={key: value}) -> the folder of the run that nothing interrupted."""
    kept = {}

    def run(**sections):
        key = json.dumps(sections, sort_keys=True)
        if key not in kept:
            kept[key] = tmp_path_factory.mktemp("whole") / "run"
            train(make(kept[key], **sections))
        return kept[key]

    return run


def train(recipe, resume=False, overwrite=False):
    """As a process of its own would: Accelerate keeps one state for each process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return loop.train(recipe, resume, show_progress=False, overwrite=overwrite)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def train_and_die(recipe, resume=False, *, patch, overwrite=False) -> None:
    """Train in a process of its own, which `patch()` prepares to be killed."""

    def work():
        patch()
        train(recipe, resume, overwrite)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, process.exitcode


def kill_at(step: int, name: str = "_save_or_stop"):
    """SIGKILL when so many steps have been made, before the last of them is saved."""

    def patch():
        original, count = getattr(loop._Run, name), iter(range(1, 10**6))

        def dies(self, *args):
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *args)

        setattr(loop._Run, name, dies)

    return patch


def same(one, other, path: str = "") -> None:
    """Equal to the bit, whatever it is made of."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}[{number}]")
    else:
        assert one == other or one != one and other != other, path


def assert_same_run(one, other, random: bool = True) -> None:
    states = [load_checkpoint(folder, pytest.fail) for folder in (one, other)]
    for state in states:
        assert state.pop("seconds") >= state.pop("trained_seconds") >= 0
        # Nobody seeds NumPy's and Python's generators, and nobody draws from them.
        state["random"] = [row["torch"] for row in state["random"]] if random else []
    same(*states)
    assert checkpoints(one)[0].name == checkpoints(other)[0].name
    rows = [
        [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, other)
    ]
    assert rows[0] == rows[1]
    for name in ("best.json", "README.md", "split.json", "data.json"):
        if (one / name).exists():  # a network has no card
            assert (one / name).read_text() == (other / name).read_text(), name
    names = {file.name for file in one.iterdir()}
    assert names == {file.name for file in other.iterdir()} - {"nonfinite", "nonfinite.json"}
    (weights,) = [name for name in names if name.endswith(".safetensors")]
    same(*(load_file(folder / weights) for folder in (one, other)))
    assert not [file.name for file in (other / "checkpoints").iterdir() if file.name.startswith(".")]


# -- SIGKILL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 9))
def test_killed_at_each_step_it_ends_as_if_it_had_not_been(make, whole, tmp_path, step):
    run = make(tmp_path / "run")
    train_and_die(run, patch=kill_at(step))
    found = [path.name for path in checkpoints(tmp_path / "run")]
    assert found == [f"step-{number:08d}" for number in (step - 1, step - 2) if number > 0]
    train(run, resume=step > 1)  # before the first checkpoint there is nothing to resume
    assert len(checkpoints(tmp_path / "run")) == 2
    assert_same_run(whole(), tmp_path / "run")


def test_killed_again_and_again(make, whole, tmp_path):
    """Each attempt makes one step more than it saves; and steps between checkpoints are made again."""
    run = make(tmp_path / "run", run={"checkpoint_every_steps": 3})
    for attempt, step in enumerate((4, 2, 3)):
        train_and_die(run, resume=attempt > 0, patch=kill_at(step))
    assert checkpoints(tmp_path / "run")[0].name == "step-00000004"  # 3 + 1: the epoch's end; then 2 of 3 steps
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


@pytest.mark.parametrize("place", ["save_file", "_sha256", "_put_in_place", "_prune"])
def test_killed_while_a_checkpoint_is_written(make, whole, tmp_path, place):
    def patch():
        original, count = getattr(checkpoint_module, place), iter(range(10**6))

        def dies(*args):
            if next(count) >= 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        setattr(checkpoint_module, place, dies)

    run = make(tmp_path / "run")
    train_and_die(run, patch=patch)
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


def test_killed_after_the_best_adapter_was_written(make, whole, tmp_path):
    """The validation is made again, and its row is there once."""

    def patch():
        original = run_folder.log_metrics

        def dies(*args):
            original(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        loop.log_metrics = dies

    run = make(tmp_path / "run")
    train_and_die(run, patch=patch)
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


KINDS = {
    "summed gradients": {"optim": {"gradient_accumulation": 3}},
    "bf16": {"optim": {"mixed_precision": "bf16"}},
    "workers": {"data": {"workers": 1}},
    "random numbers of torch": {"model": {"method": "lora", "adapter": {}, "lora": {"lora_dropout": 0.3}}},
    "network": {"model": {"method": "resunet", "size": "tiny"}},
    "corrections that ramp up": {"prompts": {"correction_ramp": 1.0, "correction_probability": 1.0}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_goes_on(make, tmp_path, kind):
    sections = {name: dict(more) for name, more in KINDS[kind].items()}
    prompts = sections.pop("prompts", {})
    made = []
    for folder in (tmp_path / "whole" / "run", tmp_path / "run"):
        recipe = make(folder, **sections)
        for name, value in prompts.items():
            setattr(recipe.prompts, name, value)
        made.append(recipe)
    train(made[0])
    train_and_die(made[1], patch=kill_at(2))
    train(made[1], resume=True)
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "run")


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}  # fmt: skip


def train_in_two(recipe, resume=False, *, more: dict, patch=lambda: None) -> list[int]:
    """Two processes, as a launcher starts them; the exit code of each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    alike = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}

    def work(index: int):
        os.environ |= {**alike, **more, "RANK": str(index), "LOCAL_RANK": str(index)}
        patch()
        try:
            train(recipe, resume)
        except Interrupted as error:
            os._exit(error.exit_code)
        os._exit(0)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(index,)) for index in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        process.kill()
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("more", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_two_processes_go_on(make, tmp_path, more):
    """Killed, resumed, sent a signal that only the second one notes, and resumed again."""
    whole, run = (make(folder, optim={"batch_size": 1}) for folder in (tmp_path / "whole" / "run", tmp_path / "run"))
    assert train_in_two(whole, more=more) == [0, 0]
    assert -signal.SIGKILL in train_in_two(run, more=more, patch=kill_at(3))  # the other may notice, and fail
    assert checkpoints(tmp_path / "run")[0].name == "step-00000002"

    def signal_to_one(original=Progress.count_step):
        def count(self, *args):
            if self.step == 4 and os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGTERM)
            return original(self, *args)

        Progress.count_step = count

    assert train_in_two(run, True, more=more, patch=signal_to_one) == [143, 143]
    assert checkpoints(tmp_path / "run")[0].name == "step-00000005"
    assert train_in_two(run, True, more=more) == [0, 0]
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "run")


# -- SIGTERM and SIGINT ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_saves_says_how_to_go_on_and_leaves(make, tmp_path, number, code):
    """As a scheduler, or who presses Ctrl-C, ends it: somewhere in a run that would take minutes."""
    run = make(tmp_path / "run", optim={"epochs": 2000}, run={"checkpoint_every": 1000, "checkpoint_every_steps": None})
    (tmp_path / "recipe.yaml").write_text(run.to_yaml())
    words = [sys.executable, "-m", "medsam_adapter.cli.main", "train", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not metrics.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    name = signal.Signals(number).name
    assert f"{name}: saving the run" in out and f"{name} ended the run after epoch" in out and "Traceback" not in out
    assert f"next: msa train {tmp_path / 'run'} --resume" in out
    state = load_checkpoint(tmp_path / "run")
    made = state["epochs_done"] * 4 + state["steps_done"]
    assert made >= 4 and [path.name for path in checkpoints(tmp_path / "run")] == [f"step-{made:08d}"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_signal_within_an_epoch(make, whole, tmp_path, monkeypatch, accumulation):
    sections = {"optim": {"epochs": 2, "batch_size": 2, "learning_rate": 2e-3, "gradient_accumulation": accumulation}}
    run = make(tmp_path / "run", run={"checkpoint_every_steps": None}, **sections)
    original, count = PromptedObjective.forward, iter(range(1, 100))

    def forward(self, *args, **kwargs):
        if next(count) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PromptedObjective, "forward", forward)
        with pytest.raises(Interrupted, match=f"step {3 if accumulation == 1 else 4} of 4"):
            train(run)
    assert len(checkpoints(tmp_path / "run")) == 1
    train(run, resume=True)
    assert_same_run(whole(**sections), tmp_path / "run")


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_while_it_validates(make, whole, tmp_path, monkeypatch, at):
    """It does not wait for the end, and validates first when it goes on; even where all steps are done."""
    run = make(tmp_path / "run")
    original, count = PromptedTask.evaluate, iter(range(1, 100))

    def evaluate(self, cases):
        result = original(self, cases)
        if next(count) == at:
            torch.rand(7)  # what a validation might draw
            signal.raise_signal(signal.SIGINT)
            pytest.fail("went on")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(PromptedTask, "evaluate", evaluate)
        with pytest.raises(Interrupted, match=f"epoch {at}, step 4 of 4") as error:
            train(run)
    assert error.value.exit_code == 130
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


def test_a_signal_while_the_row_is_written(make, whole, tmp_path, monkeypatch):
    run = make(tmp_path / "run", run={"checkpoint_every": 10, "checkpoint_every_steps": None})
    with monkeypatch.context() as patch:

        def log(*args):
            run_folder.log_metrics(*args)
            signal.raise_signal(signal.SIGTERM)

        patch.setattr(loop, "log_metrics", log)
        with pytest.raises(Interrupted, match="after epoch 1"):
            train(run)
    assert checkpoints(tmp_path / "run")[0].name == "step-00000004"
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


def test_a_run_of_minutes_goes_on_with_the_time_it_has_left(make, tmp_path, monkeypatch):
    run = make(tmp_path / "run", optim={"minutes": 0.05}, run={"checkpoint_every_steps": None})
    original = Progress.count_step

    def count(self, *args):
        is_over = original(self, *args)
        if self.trained_seconds > 1.5:
            signal.raise_signal(signal.SIGTERM)
        return is_over

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "count_step", count)
        with pytest.raises(Interrupted):
            train(run)
    stopped = load_checkpoint(tmp_path / "run")
    assert 0.4 < stopped["share_done"] < 1
    train(run, resume=True)
    done = load_checkpoint(tmp_path / "run")
    assert 3 <= done["trained_seconds"] < 6 and done["share_done"] >= 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)) and "val_dice" in rows[-1]


# -- checkpoints that are damaged, old, or do not fit ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_passed_over(make, whole, tmp_path, name, capfd):
    run = make(tmp_path / "run")
    train_and_die(run, patch=kill_at(6))
    file = tmp_path / "run" / "checkpoints" / "step-00000005" / name
    file.write_bytes(file.read_bytes()[:-100])
    capfd.readouterr()
    train(run, resume=True)
    said = capfd.readouterr().err
    assert "step-00000005" in said and f"{name} has" in said and "going on from step-00000004" in said
    assert_same_run(whole(), tmp_path / "run")


def test_a_checkpoint_of_an_earlier_version_is_resumed(make, whole, tmp_path):
    """One file, at the end of an epoch, without random states and sums."""
    run = make(tmp_path / "run")
    train_and_die(run, patch=kill_at(5))
    state = load_checkpoint(tmp_path / "run")
    assert (state["epochs_done"], state["steps_done"]) == (1, 0)
    for name in ("steps_done", "steps_an_epoch", "sums", "counts", "random"):
        state.pop(name)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    torch.save(state, tmp_path / "run" / "checkpoint.pt")
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run", random=False)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_another_length_of_the_epoch_is_refused_within_one(make, tmp_path):
    run = make(tmp_path / "run")
    train_and_die(run, patch=kill_at(4))
    with pytest.raises(CheckpointError, match="within an epoch of other length") as error:
        train(make(tmp_path / "run", optim={"batch_size": 1}), resume=True)
    assert "4 steps" in error.value.expected and error.value.found == "8"


def test_a_run_that_starts_anew_cannot_be_resumed_from_the_old_one(make, tmp_path):
    run = make(tmp_path / "run")
    train(run)
    train_and_die(run, patch=kill_at(1), overwrite=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(run, resume=True)
    left = {file.name for file in (tmp_path / "run").iterdir()}
    # Nothing of the old model; the lock is what a killed run cannot remove.
    assert left == {"recipe.yaml", "data.json", "versions.json", "split.json", ".lock"}


def test_a_run_does_not_begin_in_the_folder_of_another(make, tmp_path):
    """Whether it ended or was killed before it had a model."""
    run = make(tmp_path / "run")
    train(run)
    for remove in ((), ("adapter_model.safetensors",), ("checkpoints",)):
        for name in remove:
            (tmp_path / "run" / name).rename(tmp_path / name)
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
        with pytest.raises(OutputError, match="an earlier run would be lost") as caught:
            train(run)
        assert "--resume" in caught.value.hint and "--overwrite" in caught.value.hint
        assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == before
        for name in remove:
            (tmp_path / name).rename(tmp_path / "run" / name)


def test_more_epochs_than_before(make, tmp_path):
    train(make(tmp_path / "run"))
    train(make(tmp_path / "run", optim={"epochs": 3}), resume=True)
    assert checkpoints(tmp_path / "run")[0].name == "step-00000012"
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    train(make(tmp_path / "run", optim={"epochs": 3}), resume=True)  # nothing is left to do
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before and before.count("\n") == 3


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"adapter": {"num_slices": 2, "bottleneck_ratio": 0.5}}}, "another model"),
        ({"optim": {"batch_size": 1}}, "epoch of other length"),
    ],
)
def test_a_resume_that_is_refused_changes_nothing(make, whole, tmp_path, sections, said):
    train_and_die(make(tmp_path / "run"), patch=kill_at(7))
    before = contents(tmp_path / "run")
    with pytest.raises(CheckpointError, match=said):
        train(make(tmp_path / "run", **sections), resume=True)
    assert contents(tmp_path / "run") == before
    train(load_recipe(tmp_path / "run"), resume=True)  # as the hint says
    assert_same_run(whole(), tmp_path / "run")


def rate_of_the_first_step(recipe, monkeypatch) -> float:
    """Of a run that is gone on with; it stops before that step."""
    seen = []

    def stop(self, *args):
        seen.append(self.optimizer.param_groups[0]["lr"])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, resume=True)
    return seen[0]


@pytest.mark.parametrize(
    ("optim", "done", "total"),
    [
        ({}, 4, 8),
        ({"learning_rate": 5e-4, "warmup_fraction": 0.2}, 4, 8),
        ({"epochs": 5}, 4, 20),
        ({"batch_size": 1}, 8, 16),
        ({"batch_size": 8}, 1, 2),
        ({"gradient_accumulation": 4}, 1, 2),
    ],
    ids=str,
)
def test_the_learning_rate_follows_the_recipe_that_is_gone_on_with(make, tmp_path, monkeypatch, optim, done, total):
    train_and_die(make(tmp_path / "run"), patch=kill_at(5))
    recipe = make(tmp_path / "run", optim=optim)
    want = recipe.optim.learning_rate * learning_rate_factor(done, total, recipe.optim.warmup_fraction)
    assert rate_of_the_first_step(recipe, monkeypatch) == want > 0


def test_a_finished_run_with_more_epochs_starts_at_a_rate_above_zero(make, tmp_path, monkeypatch):
    train(make(tmp_path / "run"))
    recipe = make(tmp_path / "run", optim={"epochs": 4})
    assert rate_of_the_first_step(recipe, monkeypatch) == 2e-3 * learning_rate_factor(8, 16, 0.05)


def test_another_weight_decay_counts(make, tmp_path):
    train_and_die(make(tmp_path / "run"), patch=kill_at(5))
    train(make(tmp_path / "run", optim={"weight_decay": 0.3}), resume=True)
    (group,) = load_checkpoint(tmp_path / "run")["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.3


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")

    mount("size=20m")
    yield folder, mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up(make, whole, disk):
    """Nothing is there by halves, the checkpoint before is, and with room made the run goes on."""
    folder, _ = disk
    run = make(folder / "run")
    filler = folder / "filler"

    def patch(original=loop._Run._save_or_stop):
        def fills(self):
            original(self)
            if self.progress.step == 3:
                with pytest.raises(OSError), filler.open("wb") as file:  # noqa: PT011
                    while True:
                        file.write(bytes(1 << 16))

        return fills

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop._Run, "_save_or_stop", patch())
        with pytest.raises(OutputError, match="the disk is full") as error:
            train(run)
    assert "step-00000004" in str(error.value.file) and "MB free" in error.value.found
    assert "--resume" in error.value.hint
    assert [path.name for path in checkpoints(folder / "run")] == ["step-00000003", "step-00000002"]
    filler.unlink()
    train(run, resume=True)
    assert_same_run(whole(), folder / "run")


def test_a_disk_that_becomes_read_only(make, whole, disk):
    folder, mount = disk
    run = make(folder / "run")
    original = loop._Run._save_or_stop

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def locks(self):
        original(self)
        if self.progress.step == 3:
            mount("remount,ro")

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop._Run, "_save_or_stop", locks)
        # A file system with a file open for writing is not made read-only by hand, and the lock is one.
        monkeypatch.setattr(run_lock, "try_lock", no_locks)
        with pytest.raises(OutputError, match="cannot be written") as error:
            train(run)
    assert error.value.found == os.strerror(errno.EROFS) and "step-00000004" in str(error.value.file)
    with pytest.raises(OutputError, match="recipe.yaml: cannot be written"):
        train(run, resume=True)
    mount("remount,rw")
    train(run, resume=True)
    assert_same_run(whole(), folder / "run")


def test_a_full_disk_when_the_best_adapter_is_written(make, whole, tmp_path, monkeypatch):
    run = make(tmp_path / "run")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PromptedTask, "save", full)
        with pytest.raises(OutputError, match="the disk is full"):
            train(run)
    assert not (tmp_path / "run" / "best.json").exists()  # which describes weights that are there
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")


def test_the_seconds_of_all_sessions_are_counted_and_validations_are_in(make, tmp_path, monkeypatch):
    now = [0.0]
    original = PromptedTask.evaluate

    def validates(self, cases):
        now[0] += 100
        return original(self, cases)

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(PromptedTask, "evaluate", validates)
    run = make(tmp_path / "run", optim={"epochs": 1})
    train(run)
    now[0] = 7
    train(make(tmp_path / "run", optim={"epochs": 3}), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["seconds"] for row in rows] == [100, 200, 300]
    assert "training: 5 min on" in (card := (tmp_path / "run" / "README.md").read_text()) and "3 epochs" in card


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_leaves_all_to_see_it_again(make, whole, tmp_path, monkeypatch, value):
    run = make(tmp_path / "run")
    original, count, seen = PromptedObjective.forward, iter(range(1, 100)), {}

    def forward(self, pixel_values, targets, *args, **kwargs):
        out = original(self, pixel_values, targets, *args, **kwargs)
        if next(count) == 6:
            seen.update(pixel_values=pixel_values, targets=targets)
            out["loss"] = out["loss"] * value
        return out

    with monkeypatch.context() as patch:
        patch.setattr(PromptedObjective, "forward", forward)
        with pytest.raises(MSAError, match=f"the loss became {value}.*epoch 2, step 2") as error:
            train(run)
    folder = tmp_path / "run"
    assert error.value.exit_code == 1 and error.value.file == folder / "nonfinite.json"
    facts = json.loads((folder / "nonfinite.json").read_text())
    assert (facts["epoch"], facts["step"], facts["checkpoint"]) == (2, 2, "step-00000005")
    assert facts["seed"][:3] == [0, 1, 1] and facts["recipe"] == str(folder / "recipe.yaml")
    assert 0 < facts["learning_rate"] < 2e-3 and len(facts["case_ids"]) == 2
    assert all(name.startswith("phantom_") and name in error.value.found for name in facts["case_ids"])
    (name,) = facts["batches"]
    assert name in error.value.hint
    batch = load_file(folder / name)
    assert {"pixel_values", "targets", "slice_mask"} <= batch.keys()
    assert torch.equal(batch["pixel_values"], seen["pixel_values"]) and torch.equal(batch["targets"], seen["targets"])
    train(run, resume=True)  # whatever it was is mended
    assert_same_run(whole(), folder)


def test_a_gradient_that_is_no_number_changes_no_weight(make, whole, tmp_path, monkeypatch):
    run = make(tmp_path / "run")
    original, count = loop._Run._stop_unless_finite, iter(range(1, 100))

    def before_backward(self, name, value, *args):
        if name == "loss" and next(count) == 3:
            weight = next(p for p in self.model.parameters() if p.requires_grad)
            weight.register_hook(lambda gradient: gradient * float("nan"))
        original(self, name, value, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_stop_unless_finite", before_backward)
        with pytest.raises(MSAError, match="the gradient's norm became nan in epoch 1, step 3"):
            train(run)
    train(run, resume=True)
    assert_same_run(whole(), tmp_path / "run")
