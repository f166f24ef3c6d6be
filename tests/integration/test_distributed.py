"""Several processes on the CPU over gloo, as `accelerate launch` starts them: they train what one trains, and count
each case once. The config files are read as Accelerate's launcher reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType
from PIL import Image
from safetensors.torch import load_file

from medsam_adapter import MSAModel
from medsam_adapter.cli.main import run
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import RecipeError
from medsam_adapter.training import loop, processes
from medsam_adapter.training.checkpoint import load_checkpoint
from medsam_adapter.training.recipe import load_recipe
from medsam_adapter.training.run_lock import RunLock

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "hub_configs" / "accelerate"
TRAIN_CASES = 5
"""A batch of 4, and one of a single sample: the second process has none of its own. One more case to validate on, which
leaves it without one, too."""


def launch(config: str, *arguments, processes: int = 2) -> str:
    """Standard output of `accelerate launch`, without GPUs."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config),
        "--num_processes", str(processes), "--main_process_port", "0", *map(str, arguments),
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "MSA_DEBUG": "1", "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as started:
        try:
            said, errors = started.communicate(timeout=300)
        except subprocess.TimeoutExpired:  # the processes wait for each other: none is left behind
            os.killpg(started.pid, signal.SIGKILL)
            raise
    assert started.returncode == 0, errors[-4000:]
    return said


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_recipe_file(tmp_path_factory):
    """make(name, batch size of a process) -> file of a recipe on phantoms."""
    root = tmp_path_factory.mktemp("runs")
    data = write_phantom_dataset(root / "phantom", TRAIN_CASES + 1, shape_zyx=(12, 48, 48))
    ids = [f"phantom_{number:03d}" for number in range(TRAIN_CASES + 1)]
    split = {"train": ids[:TRAIN_CASES], "val": ids[TRAIN_CASES:], "test": []}
    (root / "split.json").write_text(json.dumps(split))

    def make(name: str, batch_size: int) -> Path:
        adapter = {"use_depth": True, "num_slices": 4, "bottleneck_ratio": 0.25}
        values = {
            "name": "test", "model": {"base": "sam-tiny", "image_size": 64, "adapter": adapter},
            "data": {
                "path": str(data), "split": str(root / "split.json"), "intensity": "ct:soft-tissue", "targets":
                ["liver", "spleen"], "workers": 0,
            }, "prompts": {"correction_probability": 0.7},
            "optim": {"epochs": 2, "batch_size": batch_size, "learning_rate": 1e-3, "mixed_precision": "no"},
            "run": {"output": str(root / name)},
        }  # fmt: skip
        file = root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    return make


@pytest.fixture(scope="module")
def one(make_recipe_file):
    """The run folder of a single process with the batch of two."""
    folder = loop.train(load_recipe(make_recipe_file("one", 4)), show_progress=False).folder
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu.yaml", "eight_gpus_fsdp2.yaml"])
def test_two_processes_train_the_adapters_of_one(one, make_recipe_file, config):
    """DDP and FSDP2: last weights, best adapter, losses and validation."""
    name = Path(config).stem
    said = launch(config, "train.py", make_recipe_file(name, 2))
    folder = one.parent / name
    assert said.count("model: ") == 1  # one speaks
    assert {file.name for file in folder.iterdir()} == {file.name for file in one.iterdir()}
    expected, got = (load_checkpoint(each)["model"] for each in (one, folder))
    start = MSAModel.from_base("sam-tiny", MSAModel.from_pretrained(one).peft_config["default"], image_size=64)
    weights = dict(start.named_parameters())
    assert max((value - weights[name]).abs().max() for name, value in expected.items()) > 1e-3  # it has learned
    expected_best, got_best = (load_file(each / "adapter_model.safetensors") for each in (one, folder))
    assert expected.keys() == got.keys() and expected_best.keys() == got_best.keys()
    for left, right in ((expected, got), (expected_best, got_best)):
        assert max((left[key] - right[key]).abs().max().item() for key in left) < 1e-5
    for whole, shared in zip(rows(one), rows(folder), strict=True):
        assert shared == pytest.approx(whole, abs=2e-4)
    stored = sum(file.stat().st_size for file in (folder / "adapter_model.safetensors",))
    assert stored == (one / "adapter_model.safetensors").stat().st_size  # no base beside the adapter
    MSAModel.from_pretrained(folder)


REFUSED = """
import sys
from pathlib import Path
from medsam_adapter.errors import OutputError
from medsam_adapter.training.processes import join_processes
from medsam_adapter.training.run_lock import RunLock

join_processes()
try:
    RunLock(Path(sys.argv[1]), replaces=True).__enter__()
except OutputError as error:
    sys.stdout.write(f"refused: {error.problem}\\n")
"""


def test_all_processes_leave_a_folder_in_which_another_training_writes(tmp_path):
    """The first one alone looks; the others would wait for it."""
    (tmp_path / "refused.py").write_text(REFUSED)
    with RunLock(tmp_path, replaces=True):
        said = launch("cpu.yaml", tmp_path / "refused.py", tmp_path)
    assert said.split("\n").count("refused: another training writes here") == 2


# -- leaving -----------------------------------------------------------------------------------------------------------

LEAVING = """
import atexit, sys
import torch.distributed as dist

# Registered first, so called last: after what the package does as Python goes.
atexit.register(lambda: sys.stdout.write(f"left: {not dist.is_initialized()}\\n"))
from medsam_adapter.training.processes import gather_list, join_processes

join_processes()
assert gather_list([0]) == [0, 0]
"""


def test_processes_leave_their_group_before_python_goes(tmp_path):
    """With gloo's threads still there Python aborts, in about half of all launches of four processes."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    assert launch("cpu.yaml", tmp_path / "leaving.py").split("\n").count("left: True") == 2


# -- evaluation --------------------------------------------------------------------------------------------------------


def write_discs(root: Path, count: int) -> Path:
    """Pictures of a bright disc, each of its own size and place, with their masks."""
    ys, xs = np.mgrid[:48, :48]
    for number in range(count):
        disc = (ys - 15 - number) ** 2 + (xs - 30 + number) ** 2 < (5 + number / 2) ** 2
        noise = np.random.default_rng(number).integers(0, 40, disc.shape)
        for folder, array in (("images", 60 + 100 * disc + noise), ("masks", 255 * disc)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / folder / f"{number:02d}.png")
    return root


@pytest.mark.slow
def test_four_processes_count_each_of_17_cases_once(tmp_path):
    data = write_discs(tmp_path / "data", 17)
    arguments = ["evaluate", "sam-tiny", "--data", str(data), "--json", "-o"]
    assert run([*arguments, str(tmp_path / "one")]) == 0
    said = launch("cpu.yaml", "-m", "medsam_adapter.cli.main", *arguments, tmp_path / "four", processes=4)
    facts = json.loads(said)  # one process prints
    assert facts["cases"] == 17 and facts["rows"][0]["n"] == 17
    one, four = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "four"))
    assert [case["case_id"] for case in four["cases"]] == [f"{number:02d}" for number in range(17)]
    for result in (one, four):
        for case in result["cases"]:
            del case["seconds"]
    assert one == four
    names = {file.name for file in (tmp_path / "one").iterdir()}
    assert {file.name for file in (tmp_path / "four").iterdir()} == names
    picture = "best_median_worst.png"
    assert (tmp_path / "one" / picture).read_bytes() == (tmp_path / "four" / picture).read_bytes()


# -- config files ------------------------------------------------------------------------------------------------------

EXPECTED = {
    "cpu": (DistributedType.MULTI_GPU, 2, 1), "one_gpu": (DistributedType.NO, 1, 1),
    "eight_gpus_ddp": (DistributedType.MULTI_GPU, 8, 1), "eight_gpus_fsdp2": (DistributedType.FSDP, 8, 1),
    "four_nodes_fsdp2": (DistributedType.FSDP, 32, 4), "deepspeed_zero2": (DistributedType.DEEPSPEED, 8, 1),
}  # fmt: skip


def test_every_config_is_known():
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == set(EXPECTED)
    table = (CONFIGS / "README.md").read_text()
    assert all(f"`{name}.yaml`" in table for name in EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_config(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes, config.num_machines) == EXPECTED[name]
    assert config.use_cpu == (name == "cpu") and config.mixed_precision == "no"
    options = vars(launch_command_parser().parse_args(["--config_file", "x", "train.py"]))
    for section in (config.fsdp_config, config.deepspeed_config):
        for key in section or {}:  # the launcher passes over keys that it does not know
            assert key in options, key
    if name.endswith("fsdp2"):
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"] == "MSAVisionLayer"


def test_deepspeed_takes_the_config():
    """As far as that goes without DeepSpeed."""
    section = load_config_from_file(str(CONFIGS / "deepspeed_zero2.yaml")).deepspeed_config
    plugin = DeepSpeedPlugin(
        zero_stage=section["zero_stage"], offload_optimizer_device=section["offload_optimizer_device"],
        offload_param_device=section["offload_param_device"], zero3_init_flag=section["zero3_init_flag"],
        gradient_accumulation_steps=section["gradient_accumulation_steps"],
        gradient_clipping=section["gradient_clipping"],
    )  # fmt: skip
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 2
    assert plugin.deepspeed_config["train_micro_batch_size_per_gpu"] == "auto"  # msa train puts optim.batch_size there


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_network_is_not_sharded(monkeypatch):
    monkeypatch.setattr(processes, "is_sharded", lambda accelerator: True)
    with pytest.raises(RecipeError, match="(?s)model.method: nnunet.*eight_gpus_ddp"):
        processes.refuse_sharding(None, "model.method: nnunet")


def test_several_processes_without_a_gpu_are_told_so(monkeypatch):
    """Else each would take itself for the only one and write into the same folder."""
    assert not processes._must_use_cpu()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert processes._must_use_cpu()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    assert not processes._must_use_cpu()
