"""`msa data list | info | check | prepare | phantom`: what a data set must look like, and what is wrong with one.

Only typer and the standard library are imported here, so that `msa --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsam_adapter.cli.data_tables import (
    case_counts,
    plain_console,
    plain_table,
    print_findings,
    print_layout,
    print_layouts,
    print_summary,
)
from medsam_adapter.cli.phantom import phantom_command

if TYPE_CHECKING:
    from medsam_adapter.data.check import Finding
    from medsam_adapter.data.layouts import Dataset

app = typer.Typer(help="Look at, check and convert data sets.", no_args_is_help=True)

YELLOW = typer.colors.YELLOW

DataPath = Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the data set.")]
Layout = Annotated[str, typer.Option(help="auto, or a name of `msa data list`.")]
Channel = Annotated[str, typer.Option(help="Of several channels: which to read, by name or number.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def data() -> None:
    """Look at, check and convert data sets."""


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """The layouts that can be read; `msa data info NAME` tells how a folder is recognised.

    Example: msa data list
    """
    from medsam_adapter.data.layouts import LAYOUTS

    rows = [_layout_facts(name) for name in LAYOUTS]
    if as_json:
        keys = ("layout", "title", "modality", "licence", "recognised_by")
        typer.echo(json.dumps([{key: row[key] for key in keys} for row in rows]))
        return
    print_layouts(plain_console(), rows)
    typer.echo("\nThe first that fits is taken; --layout NAME insists on one.\nnext: msa data info NAME, or FOLDER")


@app.command("info")
def info_command(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_PATH", help="A layout (for a folder of that name: ./NAME).")],
    layout: Layout = "auto",
    as_json: AsJson = False,
) -> None:
    """What a layout expects, or what a folder holds; no image is read where the labels have names.

    Example: msa data info my_data
    """
    from medsam_adapter.data.layouts import LAYOUTS, open_dataset
    from medsam_adapter.errors import DataError

    if name in LAYOUTS:
        facts = _layout_facts(name)
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            print_layout(plain_console(), facts)
        return
    if not Path(name).exists() and not name.startswith("hf://"):
        raise DataError(
            "is neither a layout nor a folder",
            file=name,
            expected=f"{', '.join(LAYOUTS)}, or the folder of a data set",
            found="no such folder",
            hint="check the spelling of the path, or see `msa data list`",
        )
    dataset = open_dataset(name, layout, require_labels=False)
    facts = _dataset_facts(dataset)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    console = plain_console()
    table = plain_table()
    labels = ", ".join(f"{value} {label}" for value, label in facts["labels"].items())
    for key, text in (
        ("name", facts["name"]),
        ("layout", facts["layout"]),
        ("cases", case_counts(facts)),
        ("labels", labels or ("objects, numbered in each image" if facts["instances"] else "none")),
        ("targets", _regions(dataset)),
        ("raters", ", ".join(facts["raters"])),
        ("its own split", ", ".join(f"{part} {count}" for part, count in facts["official_split"].items())),
        ("modality", facts["modality"] or "not said"),
        ("licence", facts["licence"] or "not said"),
        ("first ids", ", ".join(facts["first_ids"])),
        *(("note", note) for note in facts["notes"]),
    ):
        if text:
            table.add_row(key, text)
    console.print(table)
    typer.echo(f"next: msa data check {shlex.quote(name)}")


@app.command("check")
def check_command(
    path: DataPath,
    layout: Layout = "auto",
    channel: Channel = "",
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many findings; 0 shows all.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Read every case and list everything that is wrong. Exit code 2 if there are errors, 0 if only warnings.

    Example: msa data check my_data
    """
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.check import check_dataset, summarise
    from medsam_adapter.data.layouts import open_dataset

    dataset = open_dataset(path, layout, require_labels=False, channel=channel)
    with bar("checking", len(dataset.cases), "case", not as_json) as show:
        findings = check_dataset(dataset, show)
    summary = summarise(dataset, findings)
    errors = summary["findings"]["error"]
    if as_json:
        rows = [_finding_facts(finding) for finding in findings if finding.level != "ok"]
        typer.echo(json.dumps({"ok": not errors, "summary": summary, "findings": rows}))
    else:
        console = plain_console()
        print_findings(console, dataset, findings, limit)
        print_summary(console, summary)
        typer.echo("\n" + _next_steps(path, layout, channel, dataset, summary))
    if errors:
        raise typer.Exit(2)


@app.command("prepare")
def prepare_command(
    path: DataPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make; must be new or empty.")],
    layout: Layout = "auto",
    split_seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    val: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients that choose the checkpoint.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients that training never sees.")] = 0.2,
    channel: Channel = "",
    push: Annotated[str, typer.Option(metavar="ORG/NAME", help="Also put it on the Hub, as a private data set.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: for everyone to see.")] = False,
    licence: Annotated[str, typer.Option(help="For the card, where the data set does not say.")] = "",
) -> None:
    """Split by patient and convert to Parquet for `datasets`, the files embedded as they are.

    Writes split.json, data/*.parquet and a README.md that makes the folder a Hub data set. Images and masks that are no
    NIfTI files or pictures, or several to a case, are converted. A data set's own split is kept. One with errors is
    refused. File headers are copied too: anonymise first.

    Example: msa data prepare my_data -o prepared
    """
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.check import check_dataset
    from medsam_adapter.data.layouts import open_dataset
    from medsam_adapter.data.parquet.tables import refuse_used_folder, write_parquet
    from medsam_adapter.data.splits import make_split, with_validation
    from medsam_adapter.errors import DataError

    refuse_used_folder(output)
    if val + test >= 1:
        raise DataError(
            "nothing is left to train on", expected="--val and --test with a sum below 1", found=f"{val:g} + {test:g}"
        )
    dataset = open_dataset(path, layout, require_labels=False, channel=channel)
    if push and not (licence or dataset.licence):
        raise DataError(
            "says nothing of its licence, and is not put where others see it", file=path,
            expected="a data set with a licence", found="none", hint='add --licence "CC BY 4.0", or what it is',
        )  # fmt: skip
    labelled = dataset.labelled
    if not labelled:
        raise DataError("no case has a label map", file=path, expected="masks to learn from", found="images only")
    # As training splits: the cases with a reference, so that the same seed and fractions give the same parts.
    if dataset.official_split:
        split = with_validation(dataset.official_split, labelled, val, split_seed)
        labelled = [case for case in labelled if any(case.case_id in ids for ids in split.values())]
    else:
        split = make_split(labelled, {"train": 1 - (val + test), "val": val, "test": test}, split_seed)
    with bar("checking", len(dataset.cases), "case") as show:
        errors = [finding for finding in check_dataset(dataset, show) if finding.level == "error"]
    if errors:
        raise DataError(
            "has errors, and is not converted",
            file=path,
            expected="a data set that `msa data check` finds no errors in",
            found=f"{len(errors)}, the first in {errors[0].file}: {errors[0].problem}",
            hint=f"msa data check {shlex.quote(str(path))}",
        )
    with bar("writing", len(labelled), "case") as show:
        write_parquet(dataset, labelled, split, output, show, licence or None)
    counts = ", ".join(f"{part} {len(ids)}" for part, ids in split.items())
    typer.echo(f"{output}: {len(labelled)} cases of {len({c.patient_id for c in labelled})} patients ({counts})")
    if len(labelled) < len(dataset.cases):
        typer.echo(f"left out: {len(dataset.cases) - len(labelled)} cases without a label map")
    if all(case.patient_id == case.case_id for case in labelled):
        is_msd = dataset.layout == "msd"
        place = '"patient" in the training list of dataset.json' if is_msd else '"patients" in labels.json'
        typer.secho(f"every case counts as a patient of its own; if some share one, say so: {place}", fg=YELLOW)
    if push:
        from medsam_adapter.hub.datasets import push_dataset

        typer.echo(f"pushed: {push_dataset(output, push, private=not public)}")
    typer.echo(
        f"next: msa train RECIPE --data.path {f'hf://datasets/{push}' if push else shlex.quote(str(output))}\n"
        f'      datasets.load_dataset("{push or output}", streaming=True)'
    )


# -- facts, as --json prints them --------------------------------------------------------------------------------------


def _layout_facts(name: str) -> dict[str, Any]:
    from medsam_adapter.data.layouts import LAYOUTS

    info = dataclasses.asdict(LAYOUTS[name].INFO)
    info["labels"] = {str(value): label for value, label in info["labels"].items()}
    return {"layout": name, "expects": (LAYOUTS[name].__doc__ or name).strip(), **info}


def _dataset_facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "root": str(dataset.root),
        "layout": dataset.layout,
        "num_cases": len(dataset.cases),
        "num_labelled": len(dataset.labelled),
        "num_patients": len({case.patient_id for case in dataset.cases}),
        "labels": {str(value): name for value, name in dataset.label_names.items()},
        "targets": {name: list(values) for name, values in dataset.targets.items()},
        "raters": sorted({rater for case in dataset.cases for rater in case.raters}),
        "official_split": {part: len(ids) for part, ids in (dataset.official_split or {}).items()},
        "instances": dataset.instances,
        "modality": dataset.modality,
        "licence": dataset.licence,
        "notes": list(dataset.notes),
        "first_ids": [case.case_id for case in dataset.cases[:5]],
    }


def _regions(dataset: Dataset) -> str:
    """Targets that are made of several labels; those that are one label each need no line."""
    return ", ".join(f"{name} ({'+'.join(map(str, values))})" for name, values in dataset.regions.items())


def _finding_facts(finding: Finding) -> dict[str, str | None]:
    return {
        "level": finding.level,
        "case": finding.case_id,
        "file": str(finding.file) if finding.file else None,
        "problem": finding.problem,
        "expected": finding.expected,
        "found": finding.found,
        "next": finding.hint,
    }


def _next_steps(path: Path, layout: str, channel: str, dataset: Dataset, summary: dict[str, Any]) -> str:
    """The line that a user types next."""
    words = shlex.quote(str(path))
    given = {"layout": layout if layout != "auto" else "", "channel": channel}
    if summary["findings"]["error"]:
        again = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items() if value)
        return f"next: mend the errors above, then msa data check {words}{again}"
    if not summary["num_labelled"]:
        return "next: add masks to learn from; without them only `msa predict` is of use here"
    recipe = "msa-pictures" if summary.get("shape_zyx", {"max": [2]})["max"][0] == 1 else "msa-hippocampus"
    if set(summary.get("dtypes", ())) != {"uint8"}:  # only the scale of 8-bit data is known
        is_ct = (summary["modality"] or "").upper().startswith("CT")
        given["intensity"] = dataset.intensity or ("ct:soft-tissue" if is_ct else "percentile")
    given["orientation"] = dataset.orientation or ""  # else that of the recipe would count
    options = "".join(f" --data.{name} {shlex.quote(value)}" for name, value in given.items() if value)
    return _training_command(recipe, f" --data.path {words}{options}")


def _training_command(recipe: str, options: str) -> str:
    """The command for one of the project's recipes, and where that is found if it is not here."""
    file = Path("hub_configs", recipe, "recipe.yaml")
    if file.is_file():
        return f"next: msa train {file}{options}"
    return f"next: msa train RECIPE{options}\n      RECIPE is {file.as_posix()} of the project's repository"


app.command("phantom")(phantom_command)
