"""What `msa evaluate` says of its results: tables in files and on the screen, or JSON."""

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


def model_names(models: list[str]) -> dict[str, str]:
    """{model as given: name in tables}: its last part, or more of it where two would be the same."""
    names = {model: Path(model).name or model for model in models}
    for model, name in list(names.items()):
        if list(names.values()).count(name) > 1:
            names[model] = "/".join(Path(model).parts[-2:])
    if len(set(names.values())) < len(names):
        names = {model: f"{name}/{number}" for number, (model, name) in enumerate(names.items(), 1)}
    return names


def report(
    results: list[EvaluationResult],
    output: Path,
    num_cases: int,
    paper: PaperProtocol | None,
    notes: list[str],
    as_json: bool,
) -> None:
    """Write the tables of all results and print them, or print JSON; results that cannot be compared are told.

    Args:
        notes: what has to be said of cases and protocol.
    """
    from medsam_adapter.evaluation.comparison_table import comparison_grid
    from medsam_adapter.evaluation.exports import remove_tables, write_tables
    from medsam_adapter.evaluation.grids import print_grid
    from medsam_adapter.evaluation.paper_table import interval_grid, paper_grid
    from medsam_adapter.evaluation.tables import print_results, result_note, results_grid, table_rows

    rows = [shown for result in results for shown in (result, *result.against_raters())]
    metrics = paper.metrics if paper else COMPARED_METRICS
    pairs, reasons = _pairs(results)
    notes = [*notes, *reasons]
    tables: list[Grid]
    if paper:
        tables = [paper_grid(paper, rows, notes), interval_grid(paper, rows)]
    else:
        tables = [results_grid(table_rows(rows), [*notes, *map(result_note, rows)])]
    write_tables(output, tables)
    compared = [comparison_grid(first, other, metrics) for first, other in pairs]
    if compared:
        write_tables(output, compared, "comparison")
    else:
        remove_tables(output, "comparison")
    if as_json:
        differences = [fact for pair in pairs for fact in _compared_facts(*pair, metrics)]
        facts = _facts(rows, paper) | ({"comparisons": differences} if differences else {}) | {"notes": notes}
        typer.echo(json.dumps({"output": str(output), "cases": num_cases, **facts}))
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
    from medsam_adapter.errors import MSAInputError
    from medsam_adapter.evaluation.comparison_table import comparison_grid
    from medsam_adapter.evaluation.exports import write_tables
    from medsam_adapter.evaluation.grids import print_grid
    from medsam_adapter.evaluation.results import EvaluationResult

    first, other = (EvaluationResult.load(folder) for folder in folders)
    if folders[0].samefile(folders[1]):
        raise MSAInputError("are the same results", file=folders[1], expected="those of another evaluation")
    if first.model == other.model:
        first.model, other.model = map(str, folders)
    table = comparison_grid(first, other, COMPARED_METRICS)
    if output:
        write_tables(output, [table], "comparison")
    if as_json:
        typer.echo(json.dumps({"comparisons": _compared_facts(first, other, COMPARED_METRICS)}))
    else:
        print_grid(table)


def _pairs(results: list[EvaluationResult]) -> tuple[list[tuple[EvaluationResult, EvaluationResult]], list[str]]:
    """Each further model with the first, asked with the same prompts; and of others why not, a sentence each."""
    from medsam_adapter.errors import MSAInputError
    from medsam_adapter.evaluation.statistics import check_comparable

    pairs, reasons = [], []
    for first in results:
        for other in results:
            if first.model == results[0].model != other.model and first.asked == other.asked:
                try:
                    check_comparable(first, other)
                    pairs.append((first, other))
                except MSAInputError as error:
                    reasons.append(f"{error.problem[0].upper()}{error.problem[1:]}.")
    return pairs, reasons


def _compared_facts(first: EvaluationResult, other: EvaluationResult, metrics: tuple[str, ...]) -> list[dict]:
    from medsam_adapter.evaluation.statistics import compare

    return [
        {
            "reference": first.model, "other": other.model, "protocol": first.asked, "metric": metric,
            "target": each.target, "n": each.n, "difference": _number(each.difference),
            "interval": [_number(value) for value in each.interval], "p_value": _number(each.p_value),
            "better": each.better, "worse": each.worse,
        }
        for metric in metrics for each in compare(first, other, metric)
    ]  # fmt: skip


def _facts(rows: list[EvaluationResult], paper: PaperProtocol | None) -> dict:
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
    return {"rows": facts}


def _means(summary) -> dict:
    return {name: _number(getattr(summary, name).mean) for name in ("dice", "iou", "hd95_mm")} | {"n": summary.n}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
