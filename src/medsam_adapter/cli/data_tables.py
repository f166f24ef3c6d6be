"""The tables of `msa data`: findings by problem, a summary, labels.

rich is imported inside, so that `msa --help` answers at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from medsam_adapter.data.check import Finding
    from medsam_adapter.data.layouts import Dataset

LEVELS = {"error": "red", "warning": "yellow"}


def plain_console() -> Console:
    from rich.console import Console

    # File names and labels are the user's: [x] in them is no markup, :x: no emoji.
    return Console(markup=False, emoji=False, highlight=False)


def plain_table() -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def print_layouts(console: Console, rows: list[dict[str, Any]]) -> None:
    """One line for each layout: its name, what it is and the modality."""
    table = plain_table()
    table.add_column()
    for row in rows:
        table.add_row(row["layout"], row["title"], row["modality"])
    console.print(table)


def print_layout(console: Console, facts: dict[str, Any]) -> None:
    """All that is known of one layout, then the files it expects."""
    table = plain_table()
    table.add_row("layout", facts["layout"])
    labels = ", ".join(f"{value} {name}" for value, name in facts["labels"].items())
    targets = ", ".join(f"{name} ({'+'.join(map(str, values))})" for name, values in facts["targets"].items())
    for key, text in (
        ("title", facts["title"]), ("modality", facts["modality"]), ("get it", facts["where"]),
        ("licence", facts["licence"]), ("size", facts["size"]), ("split", facts["split"]), ("labels", labels),
        ("targets", targets), ("channels", ", ".join(facts["channels"])), ("cite", facts["citation"]),
        ("recognised by", facts["recognised_by"]),
    ):  # fmt: skip
        if text:
            table.add_row(key, text)
    console.print(table)
    console.print(f"\n{facts['expects']}\n\n{facts['example']}", soft_wrap=True)  # rich would break the tree


def print_findings(console: Console, dataset: Dataset, findings: list[Finding], limit: int) -> None:
    """Errors first, equal problems together; what differs in nothing but the case takes one row.

    Two columns and not six, because six leave no room for a file name on 80 characters.
    """
    from rich.table import Table
    from rich.text import Text

    # A dictionary keeps the order of the check, and the two levels of it the order of the groups.
    groups: dict[tuple[str, str], dict[tuple[str, str, str], list[Finding]]] = {}
    for finding in sorted((f for f in findings if f.level in LEVELS), key=lambda f: list(LEVELS).index(f.level)):
        rows = groups.setdefault((finding.level, finding.problem), {})
        rows.setdefault((finding.expected, finding.found, finding.hint), []).append(finding)
    if not groups:
        console.print("No findings: every case can be read, and what is known of it fits together.\n")
        return
    table = Table(show_lines=True)
    table.add_column("case", max_width=24, overflow="fold")
    table.add_column("finding", overflow="fold")
    entries = [(*key, same) for key, rows in groups.items() for same in rows.values()]
    shown = entries[:limit] if limit else entries
    for level, problem, same in shown:
        first = same[0]
        text = Text.assemble((f"{level}: {problem}", f"bold {LEVELS[level]}"))
        file = "" if first.file is None or first.file == dataset.root else _short(str(first.file), dataset)
        for key, value in (
            ("file", file + (f" and {len(same) - 1} more" if file and len(same) > 1 else "")),
            ("expected", _short(first.expected, dataset)),
            ("found", _short(first.found, dataset)),
            ("next", first.hint),
        ):
            if value:
                text.append(f"\n{key}: ", "dim").append(value)
        ids = [finding.case_id for finding in same]
        more = f"\nand {len(ids) - 3} more" if len(ids) > 3 else ""
        table.add_row(Text("\n".join(ids[:3]) + more if first.case_id else "(all)"), text)
    console.print(table)
    if len(shown) < len(entries):
        console.print(f"{len(entries) - len(shown)} more findings; --limit 0 shows all, --json lists each case.")
    console.print()


def _short(text: str, dataset: Dataset) -> str:
    """Paths from the data set's folder on, which every line would repeat."""
    return text.replace(f"{dataset.root}{os.sep}", "")


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    table = plain_table()
    table.add_row("data set", summary["name"])
    table.add_row("cases", case_counts(summary))
    counts = summary["findings"]
    unusable = len(summary["cases_with_errors"])
    where = f" (in {unusable} of the cases)" if unusable else ""
    table.add_row("findings", f"errors {counts['error']}{where}, warnings {counts['warning']}")
    is_pictures = set(summary.get("orientations", ())) == {"picture"}
    if "shape_zyx" in summary:
        first = 1 if is_pictures and summary["shape_zyx"]["max"][0] == 1 else 0
        table.add_row("shape " + ("(y, x)" if first else "(z, y, x)"), _span(summary["shape_zyx"], first))
        table.add_row("voxel size", "pictures have none" if is_pictures else _span(summary["spacing_mm"], 0) + " mm")
        table.add_row("data types", _counted(summary["dtypes"]))
        if not is_pictures:
            table.add_row("orientations", _counted(summary["orientations"]))
        low, high = summary["intensity_p1_p99"]
        table.add_row("intensities", f"{low:g} to {high:g} (1st and 99th percentiles)")
    table.add_row("modality", summary["modality"] or "not said")
    table.add_row("licence", summary["licence"] or "not said")
    if summary.get("objects_per_case"):
        table.add_row("objects a case", _low_median_high(summary["objects_per_case"]))
    for note in summary["notes"]:
        table.add_row("note", note)
    console.print(table)
    if summary["labels"]:
        _print_labels(console, summary["labels"])


def _print_labels(console: Console, labels: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    has_volumes = any("volume_ml" in label for label in labels.values())
    table = Table()
    for heading in ("label", "name"):
        table.add_column(heading, overflow="fold")
    for heading in ("cases", *(f"{what}\nmin / median / max" for what in ("voxels", "volume (ml)")[: 1 + has_volumes])):
        table.add_column(heading, justify="right")
    for value, label in labels.items():
        cells = [value, label["name"], str(label["num_cases"]), _low_median_high(label.get("voxels"))]
        table.add_row(*cells, *([_low_median_high(label.get("volume_ml"))] if has_volumes else []))
    console.print(table)


def case_counts(facts: dict[str, Any]) -> str:
    return f"{facts['num_cases']}, {facts['num_labelled']} with a label map, {facts['num_patients']} patients"


def _span(ranges: dict[str, list[float]], first: int) -> str:
    low, high = (" x ".join(f"{size:g}" for size in ranges[key][first:]) for key in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


def _low_median_high(values: dict[str, float] | None) -> str:
    """Counts in full, measures to four digits."""
    if not values:
        return "-"
    is_counts = isinstance(values["min"], int)
    low, median, high = (values[key] for key in ("min", "median", "max"))
    return " / ".join(str(round(value)) if is_counts else f"{value:.4g}" for value in (low, median, high))
