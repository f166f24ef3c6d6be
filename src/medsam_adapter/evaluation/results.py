"""The results of one evaluation: every case, every target, and what they were made with.

Means follow one rule: metrics per case and target, then the mean over cases for each target, then the mean over
targets. A target with many cases does not outweigh one with few.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MSAInputError
from ..writing import naming_write_errors, write_text
from .files import to_json
from .metrics import METRIC_NAMES, MaskMetrics

FORMAT_VERSION = 1
RESULTS_JSON, RESULTS_CSV, PROMPTS_JSON = "results.json", "results.csv", "prompts.json"


@dataclass
class CaseResult:
    """One target in one case.

    Attributes:
        case_id: as in the data set.
        target: the target's name ("spleen").
        metrics: see `MaskMetrics`.
        prompts: the prompts that were given, as JSON can hold them (numpy arrays become lists), so that every method
            can get the same.
        seconds: wall time of the prediction; nan if it was not measured.
        object: its own name ("object 3") where several objects of a case are one target; else empty.
    """

    case_id: str
    target: str
    metrics: MaskMetrics
    prompts: dict[str, Any] = field(default_factory=dict)
    seconds: float = math.nan
    object: str = ""


@dataclass(frozen=True)
class Statistics:
    """Of n values: nan without values; `std` is the sample's (n - 1), nan for fewer than two values."""

    mean: float
    std: float
    median: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Statistics:
        """Of the values that are not nan."""
        kept = [value for value in values if not math.isnan(value)]
        if not kept:
            return cls(math.nan, math.nan, math.nan, 0)
        std = statistics.stdev(kept) if len(kept) > 1 else math.nan
        return cls(statistics.fmean(kept), std, statistics.median(kept), len(kept))


@dataclass(frozen=True)
class TargetSummary:
    """The metrics of one target over all cases, or of all targets.

    Attributes:
        dice, iou, hd95_mm: statistics over cases (overall: over the targets' means). HD95's n is smaller than the
            others' by the false positives, which have no HD95.
        n: case-target pairs with a Dice.
        n_excluded: pairs left out because prediction and reference are both empty.
        n_missed: pairs among n with an empty prediction (their HD95 is the image's diagonal).
        n_false_positive: pairs among n with an empty reference.
    """

    dice: Statistics
    iou: Statistics
    hd95_mm: Statistics
    n: int
    n_excluded: int
    n_missed: int
    n_false_positive: int


@dataclass(frozen=True)
class Summary:
    """Per target, in the order of first appearance, and overall: statistics over the targets' means, counts as sums."""

    targets: dict[str, TargetSummary]
    overall: TargetSummary


@dataclass
class EvaluationResult:
    """One model under one protocol.

    Attributes:
        model: its name, a Hub id or a run folder.
        protocol: the prompts in words ("1 click", "box").
        cases: one entry for each case and target. Several entries of one pair (the objects of a picture, repeated draws
            of prompts) are averaged first and count as one.
        settings: what is needed to do it again: seed, data set, split, versions; and `seen_cases`, a sentence where
            the model was trained or chosen on some of the cases.
        raters: {name: the same masks scored against this person's marks alone}, where several marked the cases.
    """

    model: str
    protocol: str
    cases: list[CaseResult] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    raters: dict[str, list[CaseResult]] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The prompts that were drawn, in words: also those that a network without prompts did not hear."""
        drawn = [self.settings.get(key) for key in ("protocol", "per")]
        return " per ".join(map(str, drawn)) if all(drawn) else self.protocol

    def against_raters(self) -> list[EvaluationResult]:
        """The same masks against each rater, a result each."""
        return [
            EvaluationResult(self.model, f"{self.protocol}, against {name}", cases, self.settings)
            for name, cases in self.raters.items()
        ]

    def summary(self) -> Summary:
        """Mean, std and median per target and overall."""
        pairs: dict[str, dict[str, list[MaskMetrics]]] = {}
        for case in self.cases:
            pairs.setdefault(case.target, {}).setdefault(case.case_id, []).append(case.metrics)
        targets = {target: _target_summary(list(cases.values())) for target, cases in pairs.items()}
        overall: dict[str, Any] = {
            field_.name: sum(getattr(each, field_.name) for each in targets.values())
            for field_ in fields(TargetSummary)
            if field_.name not in METRIC_NAMES
        }
        for name in METRIC_NAMES:
            overall[name] = Statistics.of(getattr(each, name).mean for each in targets.values())
        return Summary(targets, TargetSummary(**overall))

    def case_values(self, metric: str) -> tuple[list[str], list[str], np.ndarray]:
        """Case ids, targets and a value of one metric for each: (cases, targets) float, nan where there is none.

        Several entries of one pair are averaged, as in `summary`.
        """
        cases = list(dict.fromkeys(case.case_id for case in self.cases))
        targets = list(dict.fromkeys(case.target for case in self.cases))
        pairs: dict[tuple[int, int], list[float]] = {}
        rows, columns = ({name: i for i, name in enumerate(names)} for names in (cases, targets))
        for case in self.cases:
            pairs.setdefault((rows[case.case_id], columns[case.target]), []).append(getattr(case.metrics, metric))
        values = np.full((len(cases), len(targets)), math.nan)
        for place, found in pairs.items():
            values[place] = Statistics.of(found).mean
        return cases, targets, values

    def prompts(self) -> dict[str, Any]:
        """What prompts.json holds: the prompts as {case: {target: prompt or None}} and how they were drawn.

        None stands for a target that the case does not show, so that nothing could be clicked.
        """
        asked: dict[str, dict[str, Any]] = {}
        for case in self.cases:
            of_case, name, number = asked.setdefault(case.case_id, {}), case.object or case.target, 1
            while name in of_case:  # repeated draws
                number += 1
                name = f"{case.object or case.target} #{number}"
            of_case[name] = case.prompts or None
        drawn = {key: self.settings.get(key) for key in ("protocol", "per", "seed", "dataset")}
        return {"format_version": FORMAT_VERSION, **drawn, "cases": asked}

    def save(self, folder: str | Path) -> Path:
        """Writes results.json (all of it, and the summary), results.csv (a line for each case and target) and
        prompts.json (see `prompts`).

        Each file is complete or not there: it is written beside its place and then renamed. Returns the folder.

        Raises:
            OutputError: a full disk, or a folder that cannot be made or written to.
        """
        folder = Path(folder)
        with naming_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "protocol": self.protocol,
            "settings": self.settings,
            "summary": asdict(self.summary()),
            "cases": [asdict(case) for case in self.cases],
            "raters": {name: [asdict(case) for case in cases] for name, cases in self.raters.items()},
        }
        write_text(folder / RESULTS_JSON, to_json(content))
        write_text(folder / RESULTS_CSV, self._csv())
        write_text(folder / PROMPTS_JSON, to_json(self.prompts()))
        return folder

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Reads what `save` wrote; `path` is the folder or its results.json.

        Raises:
            MSAInputError: no such file, or not one of ours.
        """
        path = Path(path)
        path = path / RESULTS_JSON if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format_version"]
            if version == FORMAT_VERSION:
                cases = [_case_from_json(case) for case in content["cases"]]
                raters = {  # absent from files of before there were any
                    name: [_case_from_json(case) for case in marked]
                    for name, marked in content.get("raters", {}).items()
                }
                return cls(content["model"], content["protocol"], cases, content["settings"], raters)
        except OSError as error:
            raise MSAInputError(
                "there are no results here", file=path, found=error.strerror, hint="give the folder of an evaluation"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MSAInputError(
                "is not a results file", file=path, expected="what an evaluation saved", found=repr(error)
            ) from error
        raise MSAInputError(
            "was written by another version", file=path, expected=f"format {FORMAT_VERSION}", found=f"format {version}"
        )

    def _csv(self) -> str:
        metric_columns = [each.name for each in fields(MaskMetrics)]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["case_id", "target", *metric_columns, "seconds"])
        for case in self.cases:
            values = [*(getattr(case.metrics, name) for name in metric_columns), case.seconds]
            writer.writerow([case.case_id, case.target, *("" if value != value else value for value in values)])
        return table.getvalue()


def _target_summary(cases: list[list[MaskMetrics]]) -> TargetSummary:
    """`cases`: for each case the metrics of its entries, mostly one."""
    scored = [kept for entries in cases if (kept := [each for each in entries if each.status != "both_empty"])]
    return TargetSummary(
        **{
            name: Statistics.of(Statistics.of(getattr(each, name) for each in entries).mean for entries in scored)
            for name in METRIC_NAMES
        },
        n=len(scored),
        n_excluded=len(cases) - len(scored),
        n_missed=sum(any(each.status == "missed" for each in entries) for entries in scored),
        n_false_positive=sum(any(each.status == "false_positive" for each in entries) for entries in scored),
    )


def _case_from_json(content: dict[str, Any]) -> CaseResult:
    metrics = dict(content["metrics"])
    for name in METRIC_NAMES:
        metrics[name] = math.nan if metrics[name] is None else metrics[name]
    seconds = math.nan if content["seconds"] is None else content["seconds"]
    texts = (content["case_id"], content["target"], content.get("object", ""), metrics.get("status", ""))
    numbers = [value for name, value in metrics.items() if name != "status"] + [seconds]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, (int, float)) for n in numbers):
        raise TypeError(f"a case is called {texts[0]!r}, its target {texts[1]!r}, its metrics {metrics}"[:300])
    return CaseResult(
        content["case_id"], content["target"], MaskMetrics(**metrics), content["prompts"], seconds,
        content.get("object", ""),
    )  # fmt: skip
