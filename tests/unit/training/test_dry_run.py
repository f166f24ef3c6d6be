"""The estimate before a run: sizes against real models and files, bytes against what autograd really keeps."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from medsam_adapter import MSAAdapterConfig, MSAModel
from medsam_adapter.adapters.attention import fused_attention
from medsam_adapter.cli.dry_run_table import dry_run_rows, duration, size
from medsam_adapter.cli.main import run
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.errors import CheckpointError, DataError, RecipeError
from medsam_adapter.training.dry_run import dry_run, num_decodes, plan_data
from medsam_adapter.training.dry_run_meter import AllocationMeter, Sample, materialise, run_once, scale
from medsam_adapter.training.dry_run_model import count, num_bytes, plan_model
from medsam_adapter.training.dry_run_report import Memory
from medsam_adapter.training.methods import make_trainable, starting_point
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import make_recipe
from medsam_adapter.training.setup import prepare_for_training

SLICES, OBJECTS = 4, 2
ALWAYS_THE_LARGEST = {
    "click": 1, "clicks": 0, "box": 0, "box_and_click": 0, "neighbour": 0, "max_corrections": 1,
    "correction_probability": 1,
}  # fmt: skip
DEPTH = {"use_depth": True, "num_slices": SLICES}


@pytest.fixture(autouse=True)
def timed_once(monkeypatch):
    """Seconds are no matter for most tests; the run under the meter is enough."""
    monkeypatch.setattr("medsam_adapter.training.dry_run_parts.REPEATS", 1)


def recipe(method="msa", base="sam-tiny", **sections):
    model = {"base": str(base), "method": method, **({"adapter": DEPTH} if method == "msa" else {})}
    values = {"data": {"chunk_slices": SLICES, "objects": OBJECTS}, "prompts": ALWAYS_THE_LARGEST,
              "optim": {"batch_size": 1}, **sections}  # fmt: skip
    return make_recipe({**values, "model": model | sections.get("model", {})})


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["msa", "lora", "decoder", "full"])
def test_parameters_and_file_are_those_of_the_real_model(tmp_path, quiet, method):
    made = recipe(method)
    planned = plan_model(made)
    assert all(p.device.type == "meta" for p in planned.model.parameters())
    real = MSAModel.from_base("sam-tiny")
    make_trainable(real, starting_point(made).config, method)
    for only_trained in (False, True):
        assert count(planned.model, only_trained) == count(real, only_trained)
        assert num_bytes(planned.model, only_trained) == num_bytes(real, only_trained)
    real.save_pretrained(tmp_path)
    written = (tmp_path / planned.file_name).stat().st_size
    assert planned.file_bytes == pytest.approx(written, rel=0.005)


@pytest.mark.parametrize(
    (
        "base",
        "parameters",
    ),  # https://github.com/facebookresearch/segment-anything: 91 M, 308 M and 636 M in the encoder
    [("base", 93_735_728), ("large", 312_343_088), ("huge", 641_090_864)],
)
def test_sams_that_are_not_on_disk(base, parameters):
    model = plan_model(recipe("full", model={"base": f"facebook/sam-vit-{base}"})).model
    assert count(model) == parameters and model.config.vision_config.image_size == 1024
    globals_ = [i for i, layer in enumerate(model.vision_encoder.layers) if layer.window_size == 0]
    depth = len(model.vision_encoder.layers)
    assert globals_ == [depth // 4 * (i + 1) - 1 for i in range(4)]


def test_the_paper_s_adapter_has_its_size():
    """13 M of 636 M for two encoder adapters a block at r = 1/16."""
    adapter = {"use_decoder": False, "bottleneck_ratio": 1 / 16}
    model = plan_model(make_recipe({"model": {"base": "facebook/sam-vit-huge", "adapter": adapter}})).model
    assert count(model, only_trained=True) == pytest.approx(13.19e6, rel=0.002)


def test_bf16_shortens_frozen_weights_only():
    full, short = (plan_model(recipe(optim={"mixed_precision": p})).model for p in ("no", "bf16"))
    frozen = sum(p.numel() for p in full.vision_encoder.parameters() if not p.requires_grad)
    assert num_bytes(full) - num_bytes(short) == 2 * frozen
    assert num_bytes(full, only_trained=True) == num_bytes(short, only_trained=True)
    whole = plan_model(recipe("decoder", optim={"mixed_precision": "bf16"})).model
    assert {p.dtype for p in whole.parameters()} == {torch.float32}


def test_the_form_of_a_run_that_is_gone_on_with(tiny_base, tmp_path):
    MSAModel.from_base(tiny_base, MSAAdapterConfig(bottleneck_ratio=0.5), image_size=96).save_pretrained(tmp_path)
    planned = plan_model(make_recipe({"model": {"base": str(tmp_path)}}))
    assert planned.start.config.bottleneck_ratio == 0.5 and planned.model.config.vision_config.image_size == 96
    assert count(planned.model) == count(MSAModel.from_pretrained(tmp_path))


# -- the meter ---------------------------------------------------------------------------------------------------------


def test_the_meter_counts_memory_once_and_forgets_it():
    given = torch.ones(1000)
    with AllocationMeter() as meter:
        first = given + 1  # 4000 bytes
        view = first.view(10, 100)[2:]
        first.add_(1)
        torch.add(given, 1, out=first)
        assert meter.alive == meter.peak == 4000
        second = first.double()
        assert meter.alive == 12000
        del second
        assert meter.alive == 4000 and meter.peak == 12000
        del first
        assert meter.alive == 4000
        del view
    assert meter.alive == 0 and meter.peak == 12000


def test_kept_bytes_are_what_autograd_saves():
    weight = torch.ones(50, 100, requires_grad=True)
    given = torch.ones(10, 100, requires_grad=True)

    def forward():
        return (given @ weight.t()).exp().sigmoid()  # exp and sigmoid save their results, the last is the output

    kept, working, seconds = run_once(forward, functools.partial(torch.autocast, "cpu", enabled=False), 3)
    assert kept == 2 * 10 * 50 * 4 and seconds > 0
    assert working >= (50 * 100 + 10 * 100 + 10 * 50) * 4  # gradients of weight, input and output
    with torch.no_grad():
        kept, working, _ = run_once(forward, functools.partial(torch.autocast, "cpu", enabled=False), 1)
    assert kept == 0 and working >= 10 * 50 * 4


def test_scaling():
    timed = Sample(1, 1, 0, 7, 2.0)
    fitted = [Sample(2, d, 100 + 2 * (10 * d + d * d), 0, 0.0) for d in (2, 3, 4)]
    cost = scale(timed, fitted, 3, 8)
    assert cost.kept_bytes == pytest.approx(100 + 3 * (80 + 64))
    assert (cost.working_bytes, cost.seconds) == (7 * 24, 2.0 * 24)
    fitted = [Sample(v, 4, 100 + 11 * v, 0, 0.0) for v in (2, 3)]
    assert scale(timed, fitted, 5, 4).kept_bytes == pytest.approx(155)
    assert scale(timed, fitted[:1], 4, 4).kept_bytes == pytest.approx(2 * 122)


def test_decodes():
    def of(slices, **prompts):
        return num_decodes(recipe(prompts=ALWAYS_THE_LARGEST | prompts), slices)

    assert (of(1).largest, of(1).mean, of(1).in_one_call) == (2 * 2, 2 * 2, 2)
    assert (of(6).largest, of(6).in_one_call) == (2 * (2 + 5), 4)
    assert of(6, carry_slices=1).largest == 2 * (2 + 2) and of(6, carry_slices=0).in_one_call == 2
    assert of(6, correction_probability=0).largest == of(6, max_corrections=0).largest == 2 * 6
    half = of(1, max_corrections=3, correction_probability=0.5)
    assert (half.largest, half.mean) == (2 * 4, 2 * (1 + 0.5 * 2))
    assert of(1, max_corrections=1, correction_ramp=1.0).mean == 2 * 1.5
    said = of(6, click=0, text=1)
    assert (said.largest, said.mean, said.in_one_call) == (12, 12, 12)


# -- the estimate against a real step ----------------------------------------------------------------------------------


def saved_bytes(made) -> tuple[int, int]:
    """What autograd saves in a real step, each storage once, weights left out; and the most that tensors took."""
    model = MSAModel.from_base(made.model.base)
    make_trainable(model, starting_point(made).config, made.model.method)
    prepare_for_training(model, made, "cpu")
    objective = PromptedObjective(model, made.prompts, made.loss).train()
    size = model.config.vision_config.image_size
    targets = torch.zeros(made.optim.batch_size, SLICES, OBJECTS, size // 2, size // 2)  # patches of 8, 4 masks' a side
    targets[..., 10:30, 10:30] = 1
    pixels = torch.randn(made.optim.batch_size, SLICES, 3, size, size)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} | {pixels.untyped_storage().data_ptr()}
    saved: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used twice

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=made.optim.mixed_precision == "bf16"):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective(pixels, targets, torch.ones(len(pixels), SLICES, dtype=torch.bool), (0,))["loss"]
        total = sum(storage.nbytes() for address, storage in saved.items() if address not in own)
        saved.clear()
        with AllocationMeter() as meter:
            loss = objective(pixels, targets, torch.ones(len(pixels), SLICES, dtype=torch.bool), (0,))["loss"]
            loss.backward()
    return total, meter.peak


def beside(memory: Memory) -> int:
    """What a step adds to weights, optimiser and batch."""
    return memory.peak - memory.weights - memory.optimiser - memory.batch


def assert_close_to_a_real_step(made):
    memory, (saved, peak) = dry_run(made).memory, saved_bytes(made)
    assert saved > 2e6  # else there is nothing to compare
    assert memory.encoder_activations + memory.decoder_activations == pytest.approx(saved, rel=0.25)
    assert beside(memory) == pytest.approx(peak, rel=0.25)


def test_sam_tiny_s_estimate_is_within_a_quarter_of_a_real_step(quiet):
    assert_close_to_a_real_step(recipe())


@pytest.mark.parametrize(
    "sections",
    [
        {"optim": {"batch_size": 1, "mixed_precision": "bf16"}},
        {"optim": {"batch_size": 3}},
        {"model": {"adapter": DEPTH | {"depth_bias": True, "encoder_layers": [1, 2]}}},
        {"model": {"adapter": {"num_slices": SLICES, "use_encoder": False, "bottleneck_ratio": 0.5}}},
        {"method": "lora"},
        {"method": "decoder"},
        {"method": "full"},
        {"method": "full", "optim": {"batch_size": 1, "mixed_precision": "bf16"}},
    ],
    ids=["bf16", "batch 3", "bias, last blocks", "decoder adapters", "lora", "decoder", "full", "full, bf16"],
)
def test_every_method_s_estimate_is_within_a_quarter_of_a_real_step(tiny_base, sections):
    assert_close_to_a_real_step(recipe(base=tiny_base, **sections))


def test_gradient_checkpointing_keeps_less_and_works_more(tiny_base):
    of = {c: recipe(base=tiny_base, optim={"batch_size": 2, "gradient_checkpointing": c}) for c in (False, True)}
    plain, checkpointed = (dry_run(made).memory for made in of.values())
    assert checkpointed.encoder_activations < 0.3 * plain.encoder_activations
    assert checkpointed.peak < plain.peak and checkpointed.peak_on_gpu < plain.peak_on_gpu
    assert beside(checkpointed) == pytest.approx(saved_bytes(of[True])[1], rel=0.25)


@pytest.mark.parametrize(
    ("adapter", "volumes", "slices"),
    [({}, 2, 4), (DEPTH, 1, 4), (DEPTH, 3, 4), (DEPTH | {"depth_bias": True}, 1, 16),
     (DEPTH | {"depth_bias": True}, 2, 16)],
)  # fmt: skip
def test_large_slices_are_measured_one_by_one(monkeypatch, tiny_base, adapter, volumes, slices):
    """The shorter way, of a few slices, ends where measuring the whole chunk ends."""
    data = {"chunk_slices": slices}
    made = recipe(base=tiny_base, model={"adapter": adapter}, data=data, optim={"batch_size": volumes})
    whole = dry_run(made).memory
    monkeypatch.setattr("medsam_adapter.training.dry_run_parts.FULL_CHUNK_TOKENS", 0)
    by_slices = dry_run(made).memory
    for name in ("encoder_activations", "peak", "peak_on_gpu"):
        assert getattr(by_slices, name) == pytest.approx(getattr(whole, name), rel=0.02), name


@pytest.mark.parametrize("kept", [10**3, 10**9])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_how_the_parts_are_added_up(monkeypatch, tiny_base, accumulation, kept):
    """Every run of a part keeps so many bytes, works with 10 more and takes a second; the tiny SAM has three blocks."""
    monkeypatch.setattr("medsam_adapter.training.dry_run_parts.run_once", lambda *_: (kept, 10, 1.0))
    optim = {"batch_size": 2, "gradient_accumulation": accumulation}
    made = recipe("full", tiny_base, optim=optim, prompts=ALWAYS_THE_LARGEST | {"correction_probability": 0.5})
    found, model = dry_run(made), plan_model(made).model
    memory, step = found.memory, found.step
    trained = 4 * count(model, only_trained=True)
    largest = 4 * max(p.numel() for p in model.parameters() if p.requires_grad)
    assert (memory.weights, memory.gradients, memory.optimiser) == (4 * count(model), trained, 2 * trained)
    assert memory.batch == 4 * 2 * SLICES * (3 * 64 * 64 + OBJECTS * 32 * 32)
    assert memory.encoder_activations == 5 * kept and step.encoder_seconds == 5 * 2.0
    assert step.decoder_seconds == step.decodes_mean / 4  # four objects were timed at once
    beside_them = max(trained + 2 * largest, 6 * kept + 20 + (trained if accumulation > 1 else 0))
    assert memory.peak == memory.weights + memory.optimiser + memory.batch + beside_them
    assert step.seconds == step.encoder_seconds + step.decoder_seconds + step.optimiser_seconds


def test_a_gpu_s_attention_keeps_more(quiet):
    """Queries and keys with their positions; on a CPU they are made again, tile by tile."""
    made = recipe()
    memory, here = dry_run(made).memory, saved_bytes(made)[0]
    with fused_attention():
        there = saved_bytes(made)[0]
    assert there > 1.25 * here
    assert memory.peak_on_gpu - memory.peak == pytest.approx(there - here, rel=0.25)


def test_features_that_are_kept_are_not_computed(tiny_base):
    made = recipe("decoder", tiny_base, data={"chunk_slices": SLICES, "augment": False})
    with_encoder = dry_run(made)
    made.data.feature_cache = "features"
    without = dry_run(made)
    assert without.step.encoder_seconds == 0 < with_encoder.step.encoder_seconds
    assert without.memory.encoder_activations == 0 and without.step.decoder_seconds > 0


# -- data, steps, screen -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("data") / "phantom", 5, shape_zyx=(12, 48, 48))


def test_data_that_are_there_give_steps_and_time(phantoms, tiny_base):
    data = {"path": str(phantoms), "val_fraction": 0.2, "test_fraction": 0.2, "samples_per_case": 3}
    model, optim = {"base": str(tiny_base), "adapter": DEPTH}, {"batch_size": 2, "epochs": 7}
    found = dry_run(make_recipe({"model": model, "data": data, "optim": optim}))
    assert found.data.cases == {"train": 3, "val": 1, "test": 1} and found.data.is_volume
    assert found.step.slices == SLICES
    assert (found.steps_per_epoch, found.steps) == (5, 35)
    assert found.run_seconds == pytest.approx(35 * found.step.seconds)
    assert found.step.seconds == pytest.approx(
        found.step.encoder_seconds + found.step.decoder_seconds + found.step.optimiser_seconds
    )


def test_a_run_of_so_many_minutes(tiny_base):
    found = dry_run(recipe(base=tiny_base, optim={"batch_size": 1, "minutes": 2.5}))
    assert found.run_seconds == 150 and found.steps == int(150 / found.step.seconds) and found.steps_per_epoch is None
    rows = {name: value for section in dry_run_rows(found) for name, value in section}
    assert rows["steps"] == f"{found.steps} in 2.5 minutes" and rows["time of the run"] == "2.5 min"


@pytest.mark.parametrize("path", ["", "no/such/folder"])
def test_data_that_are_not_there_are_said_to_be_unknown(path):
    made = recipe(data={"path": path})
    plan = plan_data(made, plan_model(made))
    assert plan.cases is None and plan.is_volume and "unknown" in plan.note and (not path or path in plan.note)
    pictures = make_recipe({"data": {"path": path}})
    assert not plan_data(pictures, plan_model(pictures)).is_volume
    for sections in ({"data": {"chunk_slices": 4}}, {"model": {"adapter": {"use_depth": True}}}):
        volumes = make_recipe(sections)
        assert plan_data(volumes, plan_model(volumes)).is_volume


def test_mistakes_are_those_of_the_run(phantoms, tmp_path):
    for sections, error, said in (
        ({"model": {"base": "no/such-model"}}, CheckpointError, "no/such-model"),
        ({"model": {"adapter": {"botleneck_ratio": 1}}}, RecipeError, "botleneck"),
        ({"data": {"path": str(tmp_path)}}, DataError, str(tmp_path)),
        ({"model": {"method": "unetr"}}, RecipeError, "unetr"),
    ):
        with pytest.raises(error, match=said):
            dry_run(make_recipe(sections))


def test_the_command_prints_a_table_and_json(phantoms, tiny_base, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "recipe.yaml").write_text(f"name: tried\ndata: {{path: {phantoms}, test_fraction: 0.2}}\n")
    output = tmp_path / "run"
    arguments = [
        "train",
        str(tmp_path),
        "--base",
        str(tiny_base),
        "--dry-run",
        "--run.output",
        str(output),
        "--data.samples_per_case",
        "2",
    ]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    for word in ("tried: msa on", "3 train, 1 val, 1 test", "peak of a step", "on a GPU", "time of the run",
                 "adapter_model.safetensors", "3 an epoch, 60 in 20 epochs"):  # fmt: skip
        assert word in shown.out, word
    assert "measuring" in shown.err and not output.exists()
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 60 and found["memory"]["peak"] > found["memory"]["weights"]
    assert run(["train", str(tmp_path), "--json"]) == 2 and "--dry-run" in capsys.readouterr().err


def test_the_table_says_what_is_unknown(tiny_base):
    found = dry_run(recipe("full", tiny_base))
    rows = {name: value for section in dry_run_rows(found) for name, value in section}
    assert rows["steps"] == rows["time of the run"] == "unknown without data"
    assert rows["data"].startswith("unknown (data.path is empty)") and rows["batch"] == "1 x 4 slices, 2 objects each"
    assert Memory(**found.as_dict()["memory"]) == found.memory


def test_units():
    assert [size(v) for v in (1.5e6, 99.4e6, 123.4e6, 2.55e9)] == ["1.5 MB", "99.4 MB", "123 MB", "2.5 GB"]
    assert [duration(v) for v in (0.002, 3.0, 300, 7300, 2e5)] == ["2 ms", "3 s", "5 min", "2.03 h", "2.31 days"]


def test_a_part_in_memory_is_the_part_of_the_plan():
    layer = plan_model(recipe(optim={"mixed_precision": "bf16"})).model.vision_encoder.layers[0]
    made = materialise(layer)
    assert {p.device.type for p in made.parameters()} == {"cpu"}
    for (name, planned), real in zip(layer.named_parameters(), made.parameters(), strict=True):
        assert (planned.dtype, planned.requires_grad, planned.shape) == (real.dtype, real.requires_grad, real.shape), (
            name
        )
        assert planned.device.type == "meta" and torch.isfinite(real).all()
