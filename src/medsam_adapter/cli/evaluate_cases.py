"""What `msa evaluate` runs on: the data set, the cases of a part of a split, and how a plain SAM is shown them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medsam_adapter.errors import DataError, RecipeError

if TYPE_CHECKING:
    from medsam_adapter.data.layouts import Dataset
    from medsam_adapter.data.sample import Case
    from medsam_adapter.evaluation.replay import Replay


@dataclass
class Chosen:
    """The data set and its cases that are evaluated.

    Attributes:
        layout: the data set's.
        part: the part of the split that the cases are, or "all".
        notes: the data set's, where the part comes from, and what makes figures on it too good; a sentence each.
        targets: names of those that the run has learned, where the data is the run's own; None for all.
        seen: {model as given: that it was trained or chosen on some of the cases, a sentence}; those only that were.
    """

    dataset: Dataset
    cases: list[Case]
    layout: str
    part: str
    notes: list[str] = field(default_factory=list)
    targets: list[str] | None = None
    seen: dict[str, str] = field(default_factory=dict)


def choose_cases(
    models: list[str],
    data: Path | None,
    layout: str = "auto",
    channel: str = "",
    split: Path | None = None,
    part: str = "test",
    replay: Replay | None = None,
    max_cases: int | None = None,
) -> Chosen:
    """Open the data set and take the cases of a part: of the given split, of the run's own where the data is the run's,
    of the data set's official one, or all.

    Args:
        models: run folders among them may say which data.
        data: that of the first run folder if None.
        replay: takes the cases of its file, whatever the split.
        max_cases: take at most so many.

    Raises:
        DataError: no data, or no cases in the part.
        RecipeError: a run whose recipe cannot be read.
        CheckpointError: a run whose data.json cannot be read.
    """
    from medsam_adapter.data.layouts import LAYOUTS, open_dataset

    run = next((Path(model) for model in models if (Path(model) / "split.json").is_file()), None)
    section = _recipe_data(run) if run else {}
    learned = None
    if data is None:
        if run is None:
            raise DataError(
                "no data to evaluate on", expected="--data PATH", found="no run folder with a recipe either"
            )
        if layout != "auto":
            raise DataError(
                "--layout belongs to --data", expected="--data PATH beside it", found=f"--layout {layout}",
                hint="leave it out: the recipe of the run names its layout",
            )  # fmt: skip
        data, layout = Path(_data_path(run)), section["layout"]
        channel = channel or section.get("channel", "")
        split = split or run / "split.json"
        learned = section.get("targets")
    elif run and _is_same(_data_path(run), data):
        split = split or run / "split.json"
        learned = section.get("targets")
    dataset = open_dataset(data, layout, require_labels=False, channel=channel)
    if layout == "auto":
        layout = next((name for name, module in LAYOUTS.items() if module.detect(data)), "parquet")  # hf://...
    chosen = Chosen(dataset, [], layout, part, list(dataset.notes))
    if replay:
        chosen.cases, chosen.part = replay.cases_of(dataset)[:max_cases], "all"
        chosen.notes.append(f"Cases and prompts are those of {replay.file}.")
    else:
        _take_part(chosen, split, part, run, max_cases)
        chosen.targets = _learned(learned, dataset)
    chosen.seen = _trained_on(models, chosen)
    chosen.notes += chosen.seen.values()
    return chosen


def _learned(targets: object, dataset: Dataset) -> list[str] | None:
    """The targets of a recipe if they are some of the data set's, None if they are all, or no longer there."""
    known = [name for name in dataset.targets if isinstance(targets, list) and name in targets]
    return known if isinstance(targets, list) and len(known) == len(targets) < len(dataset.targets) else None


def _take_part(chosen: Chosen, split: Path | None, part: str, run: Path | None, max_cases: int | None) -> None:
    from medsam_adapter.data.splits import load_split

    labelled = chosen.dataset.labelled
    official = chosen.dataset.official_split
    if part == "all" or (split is None and not official):
        if part not in ("all", "test"):
            raise DataError(f"there is no split to take {part!r} from", expected="--split split.json", found="none")
        chosen.cases, chosen.part = labelled[:max_cases], "all"
        taken = "All" if len(chosen.cases) == len(labelled) else f"The first {len(chosen.cases)} of"
        reason = "" if part == "all" else ", as there is no split"
        chosen.notes.append(f"{taken} {len(labelled)} cases with a reference{reason}.")
        return
    parts = load_split(split, chosen.dataset.cases) if split is not None else official or {}
    known = {case.case_id: case for case in labelled}
    chosen.cases = [known[case_id] for case_id in parts.get(part, ()) if case_id in known]
    if not chosen.cases:
        usable = {name: sum(case_id in known for case_id in ids) for name, ids in parts.items()}
        filled = [name for name, count in usable.items() if count]
        raise DataError(
            f"the split has no {part} cases",
            file=split or chosen.dataset.root,
            expected=part,
            found=", ".join(f"{name} ({usable[name]})" for name in filled) or "no case with a reference",
            hint="score other data (--data FOLDER --part all), or train again with --data.test_fraction 0.2"
            + (f"; --part {filled[0]} is there, but a run scores too well on cases it has seen" if filled else ""),
        )
    whose = "the data set's official split"
    if split is not None:
        whose = str(split)
        if run is not None and split == run / "split.json":
            whose = f"the split of the run {run.name}"
    of_part, chosen.cases = len(chosen.cases), chosen.cases[:max_cases]
    taken = "" if len(chosen.cases) == of_part else f"the first {len(chosen.cases)} of "
    chosen.notes.append(f"Cases: {taken}the {of_part} of the part {part} of {whose}.")


def _trained_on(models: list[str], chosen: Chosen) -> dict[str, str]:
    """Of each run on this data set, how many of the cases it was trained or chosen on: see `Chosen.seen`."""
    from medsam_adapter.data.splits import load_split

    told = {}
    for model in models:
        run = Path(model)
        if not (run / "split.json").is_file():
            continue
        parts, facts, dataset = load_split(run / "split.json"), _data_facts(run), chosen.dataset
        seen = {case_id for name in ("train", "val") for case_id in parts.get(name, ())}
        known = sum(case.case_id in seen for case in chosen.cases)
        said = f"{run.name} was trained or chosen on {known} of these {len(chosen.cases)} cases"
        if known and _is_same(_data_path(run), dataset.root):
            told[model] = f"{said}: its figures are too good."
        elif known and not Path(_data_path(run)).exists() and facts.get("name") == dataset.name:
            told[model] = f"{said} if its data, {dataset.name}, is this one: then its figures are too good."
    return told


def _recipe_data(run: Path) -> dict:
    from medsam_adapter.training.recipe_reading import read_values

    file = run / "recipe.yaml"
    section = read_values(file).get("data")
    if not isinstance(section, dict) or not all(isinstance(section.get(key), str) for key in ("path", "layout")):
        raise RecipeError("the run does not say what its data is", file=file, expected="data.path, data.layout")
    return section


def _data_facts(run: Path) -> dict:
    """data.json; empty for runs of before there was one."""
    from medsam_adapter.adapters.reading import damage_told

    if not (run / "data.json").is_file():
        return {}
    with damage_told(run, "data.json", "what was known of the run's data"):
        return dict(json.loads((run / "data.json").read_bytes()))


def _data_path(run: Path) -> str:
    """Where a run's data lies: as it was noted, else (of another machine, or the Hub) as the recipe says."""
    noted = Path(str(_data_facts(run).get("path") or ""))
    return str(noted) if noted.is_absolute() and noted.is_dir() else _recipe_data(run)["path"]


def _is_same(path: str, root: Path) -> bool:
    return bool(path) and Path(path).resolve() == root.resolve()


def picture_settings(models: list[str], dataset: Dataset, given: dict[str, str | None]) -> dict[str, str | None]:
    """intensity, window and orientation for a model that has none saved, such as plain SAM.

    As given; else as a run beside it has them, so that both are shown the same picture; else as the layout advises.

    Args:
        given: the same three keys.
    """
    advised = {"intensity": dataset.intensity, "window": None, "orientation": dataset.orientation}
    found = given if given["intensity"] or given["window"] else {**given, **_of_intensity(_saved(models) or advised)}
    return {**found, "orientation": given["orientation"] or (_saved(models) or advised)["orientation"]}


def has_settings(model: str) -> bool:
    """Whether a model brings its own."""
    return (Path(model) / "preprocessor_config.json").is_file()


def _of_intensity(settings: dict[str, str | None]) -> dict[str, str | None]:
    return {key: settings[key] for key in ("intensity", "window")}


def _saved(models: list[str]) -> dict[str, str | None]:
    """Those of the first run folder among the models; empty without one."""
    from medsam_adapter.adapters.reading import damage_told

    for model in models:
        if has_settings(model):
            with damage_told(model, "preprocessor_config.json", "how scans are prepared for the model"):
                saved = dict(json.loads((Path(model) / "preprocessor_config.json").read_bytes()))
            window = saved.get("window_hu")
            return {
                "intensity": None if window else saved.get("intensity"),
                "window": ",".join(str(v) for v in window) if window else None,
                "orientation": saved.get("orientation"),
            }
    return {}
