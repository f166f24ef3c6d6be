"""What a run will need, before it starts: parameters, file, memory of the largest step, steps, time.

Memory and time are measured on parts of the model (`dry_run_parts.py`) and added up for the batch of the recipe. They
are those of this machine's CPU in the recipe's precision. A GPU takes other kernels: its bytes are estimated by running
the encoder's attention in the form that it has there, its seconds are unknown. A step's peak is the largest of three
moments:

    decoder's backward pass:  weights + optimiser + batch + kept by encoder and decoder + the decoder's working memory
    encoder's backward pass:  weights + optimiser + batch + kept by the encoder + a block's working memory
    optimiser's step:         weights + optimiser + batch + gradients + two tensors of the largest weight's size

Not counted: Python and libraries, data in memory, validation, other processes.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.errors import RecipeError
from medsam_adapter.training.dry_run_meter import REPEATS, Cost
from medsam_adapter.training.dry_run_model import PlannedModel, count, num_bytes, plan_model
from medsam_adapter.training.dry_run_parts import Decodes, StepCost, StepMeter
from medsam_adapter.training.dry_run_report import DataPlan, DryRun, Memory, Step
from medsam_adapter.training.methods import chunk_slices
from medsam_adapter.training.recipe import PROMPT_KINDS, PROMPTED_METHODS, Recipe
from medsam_adapter.training.setup import open_data


def dry_run(recipe: Recipe, say: Callable[[str], None] = lambda text: None) -> DryRun:
    """Estimate what `msa train` of a recipe takes; writes nothing, downloads nothing but the sizes of an unknown base.

    Args:
        say: told what is being measured.

    Raises:
        MSAInputError: what the user can mend in recipe or data.
    """
    if recipe.model.method not in PROMPTED_METHODS:
        raise RecipeError(
            "--dry-run estimates what is steered by prompts, not other networks",
            expected=f"model.method: {', '.join(PROMPTED_METHODS)}",
            found=f"model.method: {recipe.model.method}",
            hint="train it for one epoch, or a small --model.size",
        )
    planned = plan_model(recipe)
    data = plan_data(recipe, planned)
    slices = chunk_slices(recipe, planned.start.config) if data.is_volume else 1
    volumes, decodes = recipe.optim.batch_size, num_decodes(recipe, slices)
    is_stored = bool(recipe.data.feature_cache)
    meter = StepMeter(planned.model, (volumes, slices), recipe.optim.mixed_precision, is_stored, say)
    began, used = time.perf_counter(), time.process_time()
    cost = meter.measure(decodes)
    cores = (time.process_time() - used) / (time.perf_counter() - began)
    say("the optimiser")
    seconds = _optimiser_seconds(count(planned.model, only_trained=True)) / recipe.optim.gradient_accumulation
    step = Step(
        volumes, slices, recipe.data.objects, decodes.largest, decodes.mean, cost.encoder.seconds,
        cost.decoder.seconds, seconds, cost.encoder.seconds + cost.decoder.seconds + seconds,
    )  # fmt: skip
    per_epoch = None
    if data.cases is not None:
        per_epoch = math.ceil(data.cases["train"] * recipe.data.samples_per_case / volumes)
    steps, run_seconds = None, None
    if recipe.optim.minutes:
        run_seconds = 60 * recipe.optim.minutes
        steps = max(1, int(run_seconds / step.seconds))
    elif per_epoch is not None:
        steps = per_epoch * recipe.optim.epochs
        run_seconds = steps * step.seconds
    return DryRun(
        name=recipe.name,
        method=recipe.model.method,
        base=recipe.model.base,
        image_size=planned.model.config.vision_config.image_size,
        precision=recipe.optim.mixed_precision,
        parameters=count(planned.model),
        parameters_trained=count(planned.model, only_trained=True),
        file_name=planned.file_name,
        file_bytes=planned.file_bytes,
        memory=_memory(recipe, planned, step, cost),
        step=step,
        data=data,
        epochs=recipe.optim.epochs,
        minutes=recipe.optim.minutes,
        steps_per_epoch=per_epoch,
        steps=steps,
        run_seconds=run_seconds,
        machine=f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        measured=cost.measured,
        notes=_notes(recipe, cores),
    )


def plan_data(recipe: Recipe, planned: PlannedModel) -> DataPlan:
    """Cases of each part, where the data are there, and whether they are volumes.

    Raises:
        DataError: what the layout or the split finds wrong with data that are there.
    """
    path, config = recipe.data.path, planned.start.config
    if path and Path(path).exists():
        opened = open_data(recipe.data)
        cases = {part: len(getattr(opened, part)) for part in ("train", "val", "test")}
        is_volume = len(opened.dataset.read_scan(opened.train[0]).array) > 1
        return DataPlan(cases, is_volume, f"{'volumes' if is_volume else 'pictures'}, as the first training case")
    has_chunks = recipe.data.chunk_slices or "num_slices" in recipe.model.adapter
    is_volume = bool(has_chunks or (isinstance(config, MSAAdapterConfig) and config.use_depth))
    where = f"no folder {path}" if path else "data.path is empty"
    kind = "volumes, since the recipe sets a number of slices" if is_volume else "pictures, since no slices are set"
    return DataPlan(None, is_volume, f"unknown ({where}); taken to be {kind}")


def num_decodes(recipe: Recipe, slices: int) -> Decodes:
    """Objects decoded in a step: rounds of clicks on the prompted slice, one call on every slice a mask is carried to.

    Objects are taken to be seen on all slices of a chunk, which is the most there can be.
    """
    prompts, objects = recipe.prompts, recipe.optim.batch_size * recipe.data.objects
    probability = prompts.correction_probability * (1 - prompts.correction_ramp / 2)
    corrections = probability * (1 + prompts.max_corrections) / 2 if prompts.max_corrections else 0.0
    carried = min(slices - 1, 2 * prompts.carry_slices)
    most = 1 + (prompts.max_corrections if prompts.correction_probability else 0) + carried
    weights = {kind: getattr(prompts, kind) for kind in PROMPT_KINDS}
    share = weights["text"] / sum(weights.values())  # a sentence alone is said of every slice, once
    mean = share * slices + (1 - share) * (1 + corrections + carried)
    largest = max(slices if share else 0, most if share < 1 else 0)
    in_one_call = max(slices if share else 0, min(2, 1 + carried) if share < 1 else 0)
    return Decodes(objects * largest, objects * mean, objects * in_one_call)


def _memory(recipe: Recipe, planned: PlannedModel, step: Step, cost: StepCost) -> Memory:
    model, vision = planned.model, planned.model.config.vision_config
    trained = num_bytes(model, only_trained=True)
    mask_side, images = 4 * vision.image_size // vision.patch_size, step.volumes * step.slices
    batch = 4 * images * (3 * vision.image_size**2 + step.objects * mask_side**2 * (2 if recipe.uses_text else 1))
    fixed = num_bytes(model) + 2 * trained + batch  # AdamW keeps two numbers for each weight
    waiting = trained if recipe.optim.gradient_accumulation > 1 else 0  # gradients of the steps before
    largest_weight = max(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def moments(encoder: Cost) -> list[tuple[float, float]]:
        """(bytes beside the fixed ones, working memory among them)."""
        decoder = cost.decoder
        return [
            (waiting + encoder.kept_bytes + decoder.kept_bytes + decoder.working_bytes, decoder.working_bytes),
            (waiting + encoder.kept_bytes + encoder.working_bytes, encoder.working_bytes),
            (trained + 2 * largest_weight, 2 * largest_weight),
        ]

    most, working = max(moments(cost.encoder))
    return Memory(
        weights=num_bytes(model),
        gradients=trained,
        optimiser=2 * trained,
        batch=batch,
        encoder_activations=round(cost.encoder.kept_bytes),
        decoder_activations=round(cost.decoder.kept_bytes),
        working=round(working),
        peak=round(fixed + most),
        peak_on_gpu=round(fixed + max(moments(cost.encoder_on_gpu))[0]),
    )


def _optimiser_seconds(parameters: int) -> float:
    """Of one step of AdamW, measured on a few million parameters at most."""
    some = min(parameters, 4_000_000)
    weight = torch.nn.Parameter(torch.randn(some))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.randn(some)
    optimizer.step()  # makes its state
    began = time.perf_counter()
    for _ in range(REPEATS):
        optimizer.step()
    return (time.perf_counter() - began) / REPEATS * parameters / some


def _notes(recipe: Recipe, cores: float) -> list[str]:
    precision = {"no": "fp32", "bf16": "bf16", "fp16": "bf16 in place of fp16"}[recipe.optim.mixed_precision]
    notes = [
        f"Measured on this machine's CPU in {precision}. A GPU's peak is estimated from the attention that it takes: "
        "no GPU has been asked, and its seconds are others.",
        "Memory is that of the largest step of one process, without Python, libraries, what the allocator holds back, "
        "data and validation.",
        "Time is training alone, every object seen on every slice; reading, augmenting and validating come on top.",
    ]
    if cores < 0.6 * torch.get_num_threads():
        notes.append(
            f"Other programs had the machine, too ({cores:.1f} of {torch.get_num_threads()} cores were at work here): "
            "the seconds are too many."
        )
    if recipe.optim.compile:
        notes.append("optim.compile is left out of the estimate.")
    if recipe.data.feature_cache:
        notes.append("The first epoch also encodes every slice once, for data.feature_cache.")
    return notes
