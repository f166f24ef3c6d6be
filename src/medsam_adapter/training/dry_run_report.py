"""What `msa train --dry-run` has found, as values: for the screen and for JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class DataPlan:
    """What is known of the data.

    Attributes:
        cases: {part: number}; None where the data are not there.
        is_volume: samples are chunks of slices.
        note: where that comes from, one sentence.
    """

    cases: dict[str, int] | None
    is_volume: bool
    note: str


@dataclass
class Memory:
    """Bytes of one process at the peak of the largest step, and what it is made of, on a CPU; the peak on a GPU."""

    weights: int
    gradients: int
    optimiser: int
    batch: int
    encoder_activations: int
    decoder_activations: int
    working: int
    peak: int
    peak_on_gpu: int


@dataclass
class Step:
    """One step of one process.

    Attributes:
        volumes, slices: B samples of D slices.
        objects: P of each sample.
        decodes_largest, decodes_mean: calls of the decoder for one object each.
        encoder_seconds, decoder_seconds, optimiser_seconds, seconds: of the mean step.
    """

    volumes: int
    slices: int
    objects: int
    decodes_largest: int
    decodes_mean: float
    encoder_seconds: float
    decoder_seconds: float
    optimiser_seconds: float
    seconds: float


@dataclass
class DryRun:
    """The estimate.

    Attributes:
        minutes: if set, what limits the run in place of `epochs`.
        steps_per_epoch, steps, run_seconds: None where nobody can tell without the data; training alone, without
            validation.
        measured: the parts that were run, each `REPEATS` times.
    """

    name: str
    method: str
    base: str
    image_size: int
    precision: str
    parameters: int
    parameters_trained: int
    file_name: str
    file_bytes: int
    memory: Memory
    step: Step
    data: DataPlan
    epochs: int
    minutes: float | None
    steps_per_epoch: int | None
    steps: int | None
    run_seconds: float | None
    machine: str
    measured: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)
