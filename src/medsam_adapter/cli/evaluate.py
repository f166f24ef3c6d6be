"""`msa evaluate MODEL... --data PATH`: Dice, IoU and HD95 with prompts drawn from the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate_command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Run folders, Hub ids, or sam-tiny.")],
    data: Annotated[Path | None, typer.Option(help="Data set; that of the run's recipe if left out.")] = None,
    layout: Annotated[str, typer.Option(help="auto, msd or folder.")] = "auto",
    part: Annotated[str, typer.Option(help="Part of the split: test, val, train or all.")] = "test",
    split: Annotated[Path | None, typer.Option(help="split.json; the run's own if left out.")] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(help="1-point, 3-points, 10-points, box, box-0.5, box-0.75, text, text-union, text-absent."),
    ] = None,
    per: Annotated[str, typer.Option(help="volume: prompt once and carry; slice: prompt every slice.")] = "volume",
    target: Annotated[list[str] | None, typer.Option(help="Names of labels; all if left out.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Sentences in addition to the shipped bank of texts.")] = None,
    max_cases: Annotated[int | None, typer.Option(min=1, help="Evaluate at most so many cases.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 0,
    intensity: Annotated[str | None, typer.Option(help="For models that have none saved, such as plain SAM.")] = None,
    window: Annotated[str | None, typer.Option(help="LOW,HIGH in HU, likewise.")] = None,
    orientation: Annotated[str | None, typer.Option(help="LPS, LIP or PIL, likewise.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and pictures.")] = Path(
        "outputs/evaluation"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Evaluate models under one protocol or several; one table, results.json, results.csv and pictures."""
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.evaluation.evaluate import evaluate
    from medsam_adapter.evaluation.pictures import overlay_item, write_extremes
    from medsam_adapter.evaluation.protocol import check_protocol
    from medsam_adapter.evaluation.tables import print_results, table_rows, to_markdown
    from medsam_adapter.training.run_folder import versions

    protocols = prompts or ["1-point"]
    for protocol in protocols:
        check_protocol(protocol, per)
    dataset, cases = _cases(models, data, layout, split, part)
    cases = cases[:max_cases]
    # A run brings its own settings; a plain SAM beside it is shown the same picture.
    saved = _saved_settings(models)
    results = []
    for model in models:
        predictor = open_predictor(
            model, None if _has_settings(model) else intensity or saved.get("intensity"),
            None if _has_settings(model) else window or saved.get("window"),
            None if _has_settings(model) else orientation or saved.get("orientation"),
        )  # fmt: skip
        for protocol in protocols:
            scored: list = []

            def keep(done, protocol=protocol, predictor=predictor, scored=scored):
                item = overlay_item(
                    done.scan, predictor.processor, done.turn, done.prediction, done.reference, done.prompt,
                    f"{done.result.case_id}, {done.result.target}",
                )  # fmt: skip
                if done.result.metrics.dice == done.result.metrics.dice:
                    scored.append((done.result.metrics.dice, item))

            name = Path(model).name
            with bar(f"{name}, {protocol}", len(cases), "case", not as_json) as show:
                result = evaluate(
                    predictor, dataset, cases, model_name=name, protocol=protocol, per=per, targets=target, seed=seed,
                    bank=bank, progress=show, keep=keep,
                )  # fmt: skip
            result.settings |= {"versions": versions(), "part": part}
            alone = len(models) == len(protocols) == 1
            folder = output if alone else output / f"{name}_{protocol}"
            result.save(folder)
            write_extremes(folder / "best_median_worst.png", scored)
            results.append(result)
    (output / "table.md").write_text(to_markdown(table_rows(results)) + "\n")
    if as_json:
        rows = [{"model": r.model, "protocol": r.protocol, **_means(r.summary().overall)} for r in results]
        typer.echo(json.dumps({"output": str(output), "cases": len(cases), "rows": rows}))
        return
    print_results(results)
    typer.echo(f"{len(cases)} cases; results, prompts and pictures in {output}")


def _cases(models, data, layout, split, part):
    """The data set and the cases of the wanted part."""
    import yaml

    from medsam_adapter.data.layouts import open_dataset
    from medsam_adapter.data.splits import load_split
    from medsam_adapter.errors import DataError

    run = next((Path(m) for m in models if (Path(m) / "split.json").is_file()), None)
    if data is None:
        if run is None:
            raise DataError(
                "no data to evaluate on", expected="--data PATH", found="no run folder with a recipe either"
            )
        section = yaml.safe_load((run / "recipe.yaml").read_text())["data"]
        data, layout = Path(section["path"]), section["layout"]
        split = split or run / "split.json"
    dataset = open_dataset(data, layout, require_labels=False)
    labelled = [case for case in dataset.cases if case.label is not None]
    if part == "all" or split is None:
        if part not in ("all", "test"):
            raise DataError(f"there is no split to take {part!r} from", expected="--split split.json", found="none")
        return dataset, labelled
    parts = load_split(split, dataset.cases)
    if not parts.get(part):
        filled = ", ".join(f"{k} ({len(v)})" for k, v in parts.items() if v)
        raise DataError(
            f"the split has no {part} cases",
            file=split,
            expected=part,
            found=filled,
            hint=f"use --part {next(k for k, v in parts.items() if v)} or --part all",
        )
    return dataset, [dataset.case(case_id) for case_id in parts[part]]


def _has_settings(model: str) -> bool:
    return (Path(model) / "preprocessor_config.json").is_file()


def _saved_settings(models: list[str]) -> dict:
    """Intensity, window and orientation of the first run folder among the models."""
    for model in models:
        file = Path(model) / "preprocessor_config.json"
        if file.is_file():
            saved = json.loads(file.read_text())
            window = saved.get("window_hu")
            return {
                "intensity": None if window else saved.get("intensity"),
                "window": ",".join(str(v) for v in window) if window else None,
                "orientation": saved.get("orientation"),
            }
    return {}


def _means(summary) -> dict:
    return {name: _number(getattr(summary, name).mean) for name in ("dice", "iou", "hd95_mm")} | {"n": summary.n}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
