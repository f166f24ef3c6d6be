"""`msa evaluate MODEL... --data PATH`: Dice, IoU and HD95 with prompts drawn from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medsam_adapter.cli.evaluate_cases import Chosen
    from medsam_adapter.evaluation.published.protocols import PaperProtocol
    from medsam_adapter.evaluation.replay import Replay

DEFAULT_OUTPUT = Path("outputs/evaluation")


def evaluate_command(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Run folders, Hub ids, or sam-tiny.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set; that of the run's recipe if left out.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="A table of the paper: btcv, amos22, optic-cup, brain-tumor, thyroid, isic."),
    ] = None,
    layout: Annotated[str, typer.Option(help="auto, or a name of `msa data list`.")] = "auto",
    channel: Annotated[str, typer.Option(help="Of several channels: which, by name or number.")] = "",
    part: Annotated[str | None, typer.Option(help="Part of the split: test (if left out), val, train or all.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="split.json; if left out, the run's for its own data, else the data set's.")
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="1-point (if left out), 3-points, 10-points, box, box-0.5, box-0.75, text, text-union, text-absent."
        ),
    ] = None,
    per: Annotated[
        str | None, typer.Option(help="volume (if left out): prompt once and carry; slice: prompt every slice.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Names of targets; on a run's own data those it learned, else all.")
    ] = None,
    bank: Annotated[Path | None, typer.Option(help="Sentences in addition to the shipped bank of texts.")] = None,
    raters: Annotated[
        bool, typer.Option("--raters", help="Where several people marked the cases: also a row against each of them.")
    ] = False,
    max_cases: Annotated[int | None, typer.Option(min=1, help="Evaluate at most so many cases.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the prompts; 0 if left out.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="prompts.json of an earlier evaluation: its cases with these very prompts.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Folders of two stored results: compare the second with the first, run nothing."),
    ] = None,
    intensity: Annotated[str | None, typer.Option(help="For models that have none saved, such as plain SAM.")] = None,
    window: Annotated[str | None, typer.Option(help="LOW,HIGH in HU, likewise.")] = None,
    orientation: Annotated[str | None, typer.Option(help="LPS, LIP or PIL, likewise.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the model's picture in pixels, likewise.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for all files; outputs/evaluation if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Evaluate models under one kind of prompts or several, or in the columns of a table of the paper.

    Writes results, prompts, tables (Markdown, CSV, LaTeX) and pictures.

    Two models or more are also compared case by case, with the first as reference.

    Example: msa evaluate outputs/mine sam-tiny --prompts 1-point
    """
    from medsam_adapter.cli.evaluate_outputs import report, report_comparison
    from medsam_adapter.cli.output_folder import check_folder
    from medsam_adapter.errors import MSAInputError

    given = {
        "--prompts": prompts, "--per": per, "--target": target, "--part": part, "--max-cases": max_cases,
        "--seed": seed, "--split": split, "--replay": replay,
    }  # fmt: skip
    if compare:
        _refuse_beside("--compare", {
            "MODEL": models, "--data": data, "--protocol": protocol, **given, "--layout": layout != "auto",
            "--channel": channel or None, "--bank": bank, "--raters": raters, "--intensity": intensity,
            "--window": window, "--orientation": orientation, "--image-size": image_size,
        })  # fmt: skip
        report_comparison(compare, output, as_json)
        return
    if not models:
        raise MSAInputError(
            "there is no model to evaluate", expected="MODEL..., or --compare RESULTS RESULTS", found="none",
            hint="msa evaluate sam-tiny --data FOLDER, with --intensity for scans",
        )  # fmt: skip
    folder = output or DEFAULT_OUTPUT
    check_folder(folder)
    paper, asked = _protocol(protocol), None
    if replay:
        _refuse_beside("--replay", {key: value for key, value in given.items() if key != "--replay"} | {"--bank": bank})
        asked = _replay(replay)
    kinds, unit = _prompts(prompts, per, paper, asked)
    from medsam_adapter.cli.evaluate_cases import choose_cases, picture_settings
    from medsam_adapter.cli.evaluate_run import evaluate_models
    from medsam_adapter.training.processes import process_index

    chosen = choose_cases(models, data, layout, channel, split, part or "test", asked, max_cases)
    targets = target or chosen.targets
    if paper:
        matched = paper.matched(target or chosen.dataset.targets, chosen.dataset.root)
        targets = None if asked else target or list(matched.values())
        chosen.notes = [*_paper_notes(paper, chosen, kinds, unit, given), *chosen.notes]
    elif targets and not target:
        chosen.notes.append(f"Targets: {', '.join(targets)}, which the run has learned; --target names others.")
    pictures = picture_settings(
        models, chosen.dataset, {"intensity": intensity, "window": window, "orientation": orientation}
    )
    sizes = {"image_size": image_size} if image_size else {}
    settings = dict(per=unit, targets=targets, seed=seed or 0, bank=bank, raters=raters, replay=asked)
    results = evaluate_models(models, chosen, kinds, settings, pictures | sizes, folder, as_json, protocol)
    if process_index() == 0:  # of the processes of `accelerate launch` one writes and prints
        report(results, folder, len(chosen.cases), paper, chosen.notes, as_json)


def _protocol(name: str | None) -> PaperProtocol | None:
    if name is None:
        return None
    from medsam_adapter.evaluation.published.protocols import paper_protocol

    return paper_protocol(name)


def _replay(file: Path) -> Replay:
    from medsam_adapter.evaluation.replay import Replay

    return Replay.load(file)


def _prompts(
    prompts: list[str] | None, per: str | None, paper: PaperProtocol | None, asked: Replay | None
) -> tuple[list[str], str]:
    """Kinds of prompts, and whether they are given per volume or per slice: as given, replayed, in the paper."""
    from medsam_adapter.evaluation.protocol import check_protocol

    if asked:
        return [asked.protocol], asked.per
    kinds = list(dict.fromkeys(prompts or [paper.prompts if paper else "1-point"]))
    per = per or (paper.per if paper else "volume")
    for kind in kinds:
        check_protocol(kind, per)
    return kinds, per


def _paper_notes(paper: PaperProtocol, chosen: Chosen, kinds: list[str], per: str, given: dict) -> list[str]:
    """In what this is not the paper's protocol, a sentence each."""
    notes = []
    if chosen.layout not in paper.layouts:
        notes.append(
            f"Not the paper's data: {chosen.dataset.name} (layout {chosen.layout}) in place of "
            f"{' or '.join(paper.layouts)} as it is distributed. Published and measured rows cannot be compared."
        )
    others = {key: given[key] for key in ("--target", "--part", "--max-cases") if given[key] not in (None, [], "test")}
    if kinds != [paper.prompts]:
        others["--prompts"] = kinds
    if per != paper.per:
        others["--per"] = per
    if others:
        words = [f"{key} {', '.join(value) if isinstance(value, list) else value}" for key, value in others.items()]
        notes.append(f"Not the paper's protocol: {'; '.join(words)}.")
    if paper.is_volumes and per == "volume":
        notes.append("Prompts are given once for a whole volume, which is our choice; --per slice prompts every slice.")
    return notes


def _refuse_beside(option: str, others: dict) -> None:
    """Raises MSAInputError if options were given that another one makes void."""
    from medsam_adapter.cli.given_options import given_options
    from medsam_adapter.errors import MSAInputError

    found = given_options(others)
    if found:
        raise MSAInputError(
            f"{option} leaves no choice to other options", expected=f"{option} without them", found=", ".join(found),
            hint="leave them out",
        )  # fmt: skip
