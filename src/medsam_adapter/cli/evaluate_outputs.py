"""What `msa evaluate` leaves behind: files in the output folder, tables on the screen or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from medsam_adapter.evaluation.grids import Grid
    from medsam_adapter.evaluation.published.protocols import PaperProtocol
    from medsam_adapter.evaluation.results import EvaluationResult

COMPARED_METRICS = ("dice", "hd95_mm")
"""Without a protocol. IoU orders masks as Dice does."""


def result_folder(output: Path, name: str, prompts: str, is_only: bool) -> Path:
    """Where one result goes: the output folder itself if there is no other."""
    return output if is_only else output / f"{name.replace('/', '_')}_{prompts}"


def model_names(models: list[str]) -> dict[str, str]:
    """{model as given: name in tables}: its last part, or more of it where two would be the same."""
    names = {model: Path(model).name or model for model in models}
    for model, name in list(names.items()):
        if list(names.values()).count(name) > 1:
            names[model] = "/".join(Path(model).parts[-2:])
    if len(set(names.values())) < len(names):
        names = {model: f"{name}/{number}" for number, (model, name) in enumerate(names.items(), 1)}
    return names


def write_result(result: EvaluationResult, folder: Path, pictures: list) -> None:
    """results.json, results.csv, prompts.json, model_index.yaml and best_median_worst.png of one result."""
    from medsam_adapter.evaluation.exports import write_model_index
    from medsam_adapter.evaluation.pictures import write_extremes

    result.save(folder)
    write_model_index(folder / "model_index.yaml", result.model, [result])
    write_extremes(folder / "best_median_worst.png", pictures)


def report(
    results: list[EvaluationResult],
    output: Path,
    num_cases: int,
    paper: PaperProtocol | None,
    notes: list[str],
    as_json: bool,
) -> None:
    """Write the tables of all results and print them, or print JSON.

    Args:
        notes: what has to be said of cases and protocol.
    """
    from medsam_adapter.evaluation.exports import write_tables
    from medsam_adapter.evaluation.grids import print_grid
    from medsam_adapter.evaluation.paper_table import interval_grid, paper_grid
    from medsam_adapter.evaluation.tables import print_results, result_note, results_grid, table_rows

    rows = [shown for result in results for shown in (result, *result.against_raters())]
    tables: list[Grid]
    if paper:
        tables = [paper_grid(paper, rows, notes), interval_grid(paper, rows)]
    else:
        tables = [results_grid(table_rows(rows), [*notes, *map(result_note, rows)])]
    write_tables(output, tables)
    compared = _comparisons(results, paper.metrics if paper else COMPARED_METRICS)
    if compared:
        write_tables(output, compared, "comparison")
    if as_json:
        typer.echo(json.dumps({"output": str(output), "cases": num_cases, **_facts(rows, results, paper, notes)}))
        return
    for table in tables if paper else ():
        print_grid(table)
    if not paper:
        print_results(rows)
        typer.echo("\n".join(notes))
    for table in compared:
        print_grid(table)
    typer.echo(f"{num_cases} cases; results, prompts, tables and pictures in {output}")


def report_comparison(folders: tuple[Path, Path], output: Path | None, as_json: bool) -> None:
    """Compare two stored results; files are written only if `output` is given.

    Raises:
        MSAInputError: no results there, or results that cannot be compared.
    """
    from medsam_adapter.evaluation.exports import write_tables
    from medsam_adapter.evaluation.grids import print_grid
    from medsam_adapter.evaluation.results import EvaluationResult

    results = [EvaluationResult.load(folder) for folder in folders]
    if results[0].model == results[1].model:
        results[0].model, results[1].model = map(str, folders)
    if as_json:
        typer.echo(json.dumps({"comparisons": _compared_facts(results, COMPARED_METRICS)}))
    [table] = _comparisons(results, COMPARED_METRICS)
    if output:
        write_tables(output, [table], "comparison")
    if not as_json:
        print_grid(table)


def _pairs(results: list[EvaluationResult]) -> list[tuple[EvaluationResult, EvaluationResult]]:
    """Each further model with the first, under the same prompts."""
    return [
        (first, other)
        for first in results
        for other in results
        if first.model == results[0].model != other.model and first.protocol == other.protocol
    ]


def _comparisons(results: list[EvaluationResult], metrics: tuple[str, ...]) -> list[Grid]:
    from medsam_adapter.evaluation.comparison_table import comparison_grid

    return [comparison_grid(first, other, metrics) for first, other in _pairs(results)]


def _compared_facts(results: list[EvaluationResult], metrics: tuple[str, ...]) -> list[dict]:
    from medsam_adapter.evaluation.statistics import compare

    return [
        {
            "reference": first.model, "other": other.model, "protocol": first.protocol, "metric": metric,
            "target": each.target, "n": each.n, "difference": _number(each.difference),
            "interval": [_number(value) for value in each.interval], "p_value": _number(each.p_value),
            "better": each.better, "worse": each.worse,
        }
        for first, other in _pairs(results) for metric in metrics for each in compare(first, other, metric)
    ]  # fmt: skip


def _facts(
    rows: list[EvaluationResult], results: list[EvaluationResult], paper: PaperProtocol | None, notes: list[str]
) -> dict:
    """The rows of --json, and with a protocol its columns."""
    from medsam_adapter.evaluation.paper_table import average_value, column_values
    from medsam_adapter.evaluation.statistics import mean_interval

    facts = []
    for row in rows:
        fact = {"model": row.model, "protocol": row.protocol, **_means(row.summary().overall)}
        fact["dice_interval"] = [_number(value) for value in mean_interval(row.case_values("dice")[2])]
        if paper:
            columns = column_values(paper, row)
            fact["columns"] = {column.heading: _number(value) for column, value in columns.items()}
            if paper.average:
                fact["columns"][paper.average] = _number(average_value(columns))
        facts.append(fact)
    found = {"rows": facts}
    compared = _compared_facts(results, paper.metrics if paper else COMPARED_METRICS)
    return found | ({"comparisons": compared} if compared else {}) | {"notes": notes}


def _means(summary) -> dict:
    return {name: _number(getattr(summary, name).mean) for name in ("dice", "iou", "hd95_mm")} | {"n": summary.n}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
