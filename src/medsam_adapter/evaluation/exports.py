"""Tables and results for other programs: LaTeX with booktabs, CSV, and the Hub's model-index."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..writing import naming_write_errors, write_text
from .grids import NOTHING, Cell, Grid, to_markdown
from .metrics import METRIC_NAMES
from .results import EvaluationResult
from .tables import HEADINGS

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def write_tables(folder: Path, grids: Sequence[Grid], name: str = "table") -> None:
    """Writes name.md, name.csv and name.tex, each complete or not there.

    Args:
        grids: tables that stand below each other; the first is the one in the CSV file.
    """
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.md", "\n".join(map(to_markdown, grids)))
    write_text(folder / f"{name}.csv", to_csv(grids[0]))
    write_text(folder / f"{name}.tex", "\n".join(map(to_latex, grids)))


def remove_tables(folder: Path, name: str) -> None:
    """Removes what `write_tables` has left there before."""
    for suffix in (".md", ".csv", ".tex"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


def to_csv(grid: Grid) -> str:
    """A line for each row: section, names, cells with the digits of the table, and its footnotes in words."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([grid.section_heading, *grid.name_headings, *(cell.text for cell in grid.headings), "Notes"])
    for row in grid.rows:
        notes = dict.fromkeys(note for cell in (*row.names, *row.cells) for note in cell.notes)
        texts = ["" if cell.text == NOTHING else cell.text for cell in row.cells]
        writer.writerow([row.section, *(cell.text for cell in row.names), *texts, " ".join(notes)])
    return table.getvalue()


def to_latex(grid: Grid) -> str:
    """A `table` environment in the style of booktabs; each section has a heading, the best is bold."""
    num_columns = len(grid.name_headings) + len(grid.headings)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering"]
    lines += [f"\\caption{{{latex_text(grid.title)}}}"] if grid.title else []
    lines += [f"\\begin{{tabular}}{{{'l' * len(grid.name_headings)}{'r' * len(grid.headings)}}}", "\\toprule"]
    lines += [_latex_line([*map(latex_text, grid.name_headings), *(_latex_cell(grid, c) for c in grid.headings)])]
    for section, rows in grid.sections().items():
        lines += ["\\midrule", f"\\multicolumn{{{num_columns}}}{{l}}{{\\emph{{{latex_text(section)}}}}} \\\\"]
        lines += [_latex_line([_latex_cell(grid, cell) for cell in (*row.names, *row.cells)]) for row in rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [f"\\textsuperscript{{{n}}} {latex_text(note)}" for n, note in enumerate(grid.footnotes, 1)]
    notes += map(latex_text, grid.remarks)
    lines += [f"\n\\raggedright\\footnotesize {note}" for note in notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(character, character) for character in text.replace("\n", " "))


def model_index(name: str, results: Sequence[EvaluationResult]) -> list[dict[str, Any]]:
    """The `model-index` of a model card: the means of each result, overall and of each target.

    Results on cases that the model was trained or chosen on are left out: the Hub shows figures without their notes.

    Args:
        name: the model's.

    Returns:
        what stands under `model-index` in the card's metadata; empty without figures.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    found = []
    for result in results:
        if result.settings.get("seen_cases"):
            continue
        summary, settings = result.summary(), result.settings
        dataset = str(settings.get("dataset") or "unknown")
        arguments = {
            "prompts": result.protocol, "seed": settings.get("seed"), "model_sha256": settings.get("model_sha256")
        }  # fmt: skip
        for target, each in [("mean over targets", summary.overall), *summary.targets.items()]:
            for metric in METRIC_NAMES:
                mean = getattr(each, metric).mean
                if math.isnan(mean) or (target == "mean over targets" and len(summary.targets) < 2):
                    continue
                found.append(
                    EvalResult(
                        task_type="image-segmentation",
                        dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "unknown",
                        dataset_name=dataset,
                        dataset_split=settings.get("part"),
                        metric_type=metric,
                        metric_name=f"{HEADINGS[metric]}, {target}, {result.protocol}",
                        metric_value=round(mean, 4),
                        metric_args={key: value for key, value in arguments.items() if value is not None},
                    )
                )
    return eval_results_to_model_index(name, found) if found else []


def write_model_index(path: Path, name: str, results: Sequence[EvaluationResult]) -> None:
    """Writes {model-index: ...} as YAML, to be put into a card's metadata."""
    import yaml

    content = {"model-index": model_index(name, results)}
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _latex_cell(grid: Grid, cell: Cell) -> str:
    text = "--" if cell.text == NOTHING else latex_text(cell.text)
    marks = grid.marks(cell)
    return (f"\\textbf{{{text}}}" if cell.is_best else text) + (f"\\textsuperscript{{{marks}}}" if marks else "")


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"
