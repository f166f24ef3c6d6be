"""`python -m benchmarks.speed`: all measurements as Markdown tables.

Run it from the repository's root, on a machine that does nothing else. Contenders of a table run interleaved in one
process; seconds are medians, speed-ups medians over rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.encoder import encoder_contenders, measure_adapters, measure_compile, measure_encoder
from benchmarks.interactive import measure_click, measure_volume
from benchmarks.kept_features import measure_kept_features
from benchmarks.machine import describe, heading, measure_products
from benchmarks.memory import measure_added_memory
from benchmarks.models import ARCHITECTURES
from benchmarks.report import Table
from benchmarks.settings import Settings
from benchmarks.timing import Contender
from benchmarks.training import measure_training, training_contenders

ON_REQUEST = ("compile",)
"""Sections that take minutes before they show anything."""
SECTIONS = ("encoder-256", "encoder-1024", "adapters", "training", "kept-features", "volume", "click", *ON_REQUEST)
"""Named after the sizes of a full run; the titles of the tables say the real ones."""


def main() -> None:
    """Measure, print each table when it is done, and write them all at the end."""
    options = _options()
    settings = Settings.choose(options.model, options.device, options.repeats, options.quick)
    if options.memory_of:
        print(_memory_of(settings, options.memory_of))
        return
    about = describe(settings)
    print(heading(about), flush=True)
    tables = []
    for table in _measure(settings, options.only):
        if settings.device.type == "cpu" and table.seconds:
            table.notes.append(f"Cores at work: {table.cores_used():.2f} of {torch.get_num_threads()}.")
        print(table.markdown(), flush=True)
        tables.append(table)
    if options.output:
        content = {"about": about, "tables": [dataclasses.asdict(table) for table in tables]}
        options.output.write_text(json.dumps(content, indent=1) + "\n")


def _measure(settings: Settings, sections: tuple[str, ...]) -> Iterator[Table]:
    products, table = measure_products(settings)
    yield table
    measures: dict[str, Callable[[], Table]] = {
        "adapters": lambda: measure_adapters(settings),
        "training": lambda: measure_training(settings),
        "kept-features": lambda: measure_kept_features(settings),
        "volume": lambda: measure_volume(settings),
        "click": lambda: measure_click(settings),
        "compile": lambda: measure_compile(settings),
    }
    for section, (size, batches) in _encoder_sections(settings).items():
        measures[section] = lambda s=section, n=size, b=batches: measure_encoder(settings, s, n, b, products)
    for section in SECTIONS:
        if section in sections:
            yield measures[section]()
            settings.models.forget()


def _encoder_sections(settings: Settings) -> dict[str, tuple[int, list[int]]]:
    """Image size and batch sizes."""
    return {"encoder-256": (settings.small, [1, settings.batch]), "encoder-1024": (settings.large, [1])}


def _memory_of(settings: Settings, which: str) -> int:
    """Bytes that SECTION/CONTENDER adds, in this process, which is a new one."""
    section, name = which.split("/", 1)
    contenders: list[Contender]
    if section == "training":
        contenders = training_contenders(settings)
    else:
        contenders = encoder_contenders(settings, *_encoder_sections(settings)[section])
    call = next(contender for contender in contenders if contender.name == name).make()
    settings.models.forget()
    return measure_added_memory(call, settings.device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description="Speed and memory of medsam-adapter.")
    parser.add_argument("--model", choices=[*ARCHITECTURES, "tiny"], default="vit-b", help="random weights")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda")
    parser.add_argument("--repeats", type=_positive, help="rounds that count (7; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small and few: only shows that everything runs")
    parser.add_argument(
        "--only",
        type=_section_names,
        default=tuple(name for name in SECTIONS if name not in ON_REQUEST),
        help=f"sections, with commas between them: {', '.join(SECTIONS)}; all but {', '.join(ON_REQUEST)} by default",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the tables and the seconds of every round")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how the program calls itself in a new process
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch finds no GPU")
    return options


def _section_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


if __name__ == "__main__":
    main()
