"""`msa train --dry-run` on the screen: one table, then what the figures mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medsam_adapter.cli.data_tables import plain_console, plain_table

if TYPE_CHECKING:
    from medsam_adapter.training.dry_run_report import DryRun


def print_dry_run(found: DryRun) -> None:
    """What the run needs."""
    console, table = plain_console(), plain_table()
    for number, section in enumerate(dry_run_rows(found)):
        if number:
            table.add_row()
        for name, value in section:
            table.add_row(name, value)
    console.print(f"{found.name}: {found.method} on {found.base}\n")
    console.print(table)
    console.print()
    for note in found.notes:
        console.print(f"- {note}")


def dry_run_rows(found: DryRun) -> list[list[tuple[str, str]]]:
    """Sections of (name, value)."""
    step, memory, cases = found.step, found.memory, found.data.cases
    unknown = "unknown without data"
    parts = ", ".join(f"{number} {part}" for part, number in cases.items()) if cases is not None else ""
    share = 100 * found.parameters_trained / found.parameters
    model = [
        ("parameters", f"{_millions(found.parameters)}, trained {_millions(found.parameters_trained)} ({share:.2g} %)"),
        ("saved file", f"{found.file_name}, {size(found.file_bytes)}"),
        ("picture", f"{found.image_size} px, {'fp32' if found.precision == 'no' else found.precision}"),
    ]
    sample = "one picture" if step.slices == 1 else f"{step.slices} slices"
    data = [
        ("data", f"{parts} ({found.data.note})" if parts else found.data.note),
        ("batch", f"{step.volumes} x {sample}, {step.objects} objects each"),
        ("decoder", f"{step.decodes_largest} objects in the largest step, {step.decodes_mean:.0f} on average"),
    ]
    peak = [
        ("weights", size(memory.weights)),
        ("gradients", size(memory.gradients)),
        ("AdamW", size(memory.optimiser)),
        ("batch and activations", f"{size(memory.batch)} + encoder {size(memory.encoder_activations)} + decoder "
                                  f"{size(memory.decoder_activations)}"),
        ("working memory", size(memory.working)),
        ("peak of a step", f"{size(memory.peak)} here, about {size(memory.peak_on_gpu)} on a GPU"),
    ]  # fmt: skip
    each = "" if found.steps_per_epoch is None else f"{found.steps_per_epoch} an epoch, "
    limit = f"{found.epochs} epochs" if found.minutes is None else f"{found.minutes:g} minutes"
    steps = unknown if found.steps is None else f"{each}{found.steps} in {limit}"
    run = [
        ("steps", steps),
        ("time of a step", f"{duration(step.seconds)}: encoder {duration(step.encoder_seconds)}, decoder "
                           f"{duration(step.decoder_seconds)}, AdamW {duration(step.optimiser_seconds)}"),
        ("time of the run", unknown if found.run_seconds is None else f"{duration(found.run_seconds)}"),
        ("measured on", f"{found.machine}"),
    ]  # fmt: skip
    return [model, data, peak, run]


def size(value: float) -> str:
    """Bytes, in MB or GB of powers of ten."""
    return (
        f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB" if value < 1e8 else f"{value / 1e6:.0f} MB"
    )


def duration(seconds: float) -> str:
    """In the unit that a person would take."""
    for limit, unit, one in ((1, "ms", 1e-3), (120, "s", 1), (7200, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / one:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _millions(number: int) -> str:
    return f"{number / 1e6:.3g} M" if number < 1e8 else f"{number / 1e6:.0f} M"
