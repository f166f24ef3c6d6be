"""Evaluate a model on a data set: prompts from the reference, masks on the source grid, metrics in mm."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapter.baselines.predictor import NetworkPredictor
from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.loader import wanted_targets
from medsam_adapter.data.sample import Case, Scan
from medsam_adapter.errors import PromptError
from medsam_adapter.evaluation.metrics import mask_metrics
from medsam_adapter.evaluation.protocol import SPOKEN, check_protocol
from medsam_adapter.evaluation.questions import Question, questions
from medsam_adapter.evaluation.replay import Replay
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.evaluation.shares import CaseRows, over_processes
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.prompts.text_bank import LabelTexts, TextBank
from medsam_adapter.prompts.types import ObjectPrompt


@dataclass
class Evaluated:
    """What `evaluate` hands to its `keep` callback: one target of one case; masks (D, H, W) bool, file frame."""

    result: CaseResult
    scan: Scan
    turn: Turn
    prompt: ObjectPrompt
    prediction: np.ndarray
    reference: np.ndarray


def evaluate(
    predictor: MSAPredictor | NetworkPredictor,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    model_name: str,
    protocol: str = "1-point",
    per: str = "volume",
    targets: Sequence[str] | None = None,
    seed: int = 0,
    bank: str | Path | None = None,
    raters: bool = False,
    replay: Replay | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    keep: Callable[[Evaluated], None] | None = None,
    share_cases: bool = False,
) -> EvaluationResult:
    """Metrics of one model under one protocol.

    A network without prompts is asked for the same targets of the same cases, and does not hear the prompts.

    Args:
        cases: those with a reference count.
        protocol: 1-point, 3-points, 10-points, box, box-0.5, box-0.75, text, text-union, text-absent.
        per: "volume" (prompts once, masks carried) or "slice" (every slice prompted).
        targets: names of targets; all if None.
        raters: of cases that several people marked, score each mask against each of them too. The prompts come from the
            majority's map in any case.
        seed: of the prompts; the prompts of a case do not depend on the other cases.
        replay: prompts to give in place of drawn ones; then it says protocol, per, seed and targets.
        bank: sentences in addition to the shipped bank of texts.
        progress: called with (cases done, cases, case id).
        keep: called with each evaluated target, for pictures.
        share_cases: where `accelerate launch` has started several processes, share the cases among them; see
            `over_processes`. `progress` and `keep` hear of a process's own cases only.

    A target that a case does not show cannot be clicked: reference and prediction are both empty, and it is counted as
    excluded. It can be asked for by a sentence: an empty answer is counted as excluded, any other has Dice 0.
    """
    if replay:
        protocol, per, seed, targets = replay.protocol, replay.per, replay.seed, None
    check_protocol(protocol, per)
    is_network = isinstance(predictor, NetworkPredictor)
    result = EvaluationResult(model_name, "none" if is_network else f"{protocol} per {per}")
    wanted = wanted_targets(dataset, targets)
    texts = None
    if protocol in SPOKEN and not replay:
        if not wanted:
            raise PromptError(
                "the labels have no names, so no sentence can name them", expected="named labels",
                found="numbered objects", hint="use --prompts 1-point, or name the labels in labels.json",
            )  # fmt: skip
        texts = TextBank.load(bank).for_labels(list(wanted))

    def one_case(case: Case) -> CaseRows:
        return _evaluate_case(
            predictor, dataset, case, wanted, texts, protocol=protocol, per=per, seed=seed, raters=raters,
            replay=replay, keep=keep,
        )  # fmt: skip

    for rows in over_processes(one_case, cases, progress, share_cases):
        result.cases += rows.own
        for name, marked in rows.raters.items():
            result.raters.setdefault(name, []).extend(marked)
    result.settings = {
        "protocol": protocol, "per": per, "seed": seed, "data": str(dataset.root), "dataset": dataset.name,
        "cases": [c.case_id for c in cases], **predictor.settings(),
    }  # fmt: skip
    return result


def _evaluate_case(
    predictor: MSAPredictor | NetworkPredictor,
    dataset: Dataset,
    case: Case,
    wanted: dict[str, tuple[int, ...]],
    texts: LabelTexts | None,
    *,
    protocol: str,
    per: str,
    seed: int,
    raters: bool,
    replay: Replay | None,
    keep: Callable[[Evaluated], None] | None,
) -> CaseRows:
    """The rows of one case; none if it has no reference."""
    rows, sample = CaseRows(), dataset.read(case)
    if sample.labels is None:
        return rows
    turn = predictor.processor.turn_of(sample.scan)
    asked_for = sample.targets if dataset.instances else wanted
    if replay:
        asked = replay.questions(case.case_id, sample.labels, asked_for)
    else:
        source = turn.array_to_source(sample.labels)
        asked = questions(case.case_id, source, asked_for, turn, protocol, per, seed, texts)
    prompted = [question for question in asked if question.prompt]
    began = time.perf_counter()
    masks = iter(_masks(predictor, sample.scan, prompted, per) if prompted else ())
    seconds = (time.perf_counter() - began) / max(1, len(prompted))
    empty = np.zeros(sample.labels.shape, bool)
    marked = dataset.read_raters(case, sample.scan) if raters else {}
    for question in asked:
        prompt = question.prompt
        prediction, reference = next(masks) if prompt else empty, np.isin(sample.labels, question.values)
        row = CaseResult(
            case.case_id,
            "object" if dataset.instances else question.target,
            mask_metrics(prediction, reference, sample.scan.spacing_mm),
            prompt.to_json() if prompt else {},
            seconds if prompt else float("nan"),
            question.target if dataset.instances else "",
        )
        rows.own.append(row)
        for name, labels in marked.items():
            metrics = mask_metrics(prediction, np.isin(labels, question.values), sample.scan.spacing_mm)
            rows.raters.setdefault(name, []).append(dataclasses.replace(row, metrics=metrics))
        if keep and prompt:
            keep(Evaluated(row, sample.scan, turn, prompt, prediction, reference))
    return rows


def _masks(predictor: MSAPredictor | NetworkPredictor, scan: Scan, asked: Sequence[Question], per: str) -> np.ndarray:
    """(n, D, H, W) bool in the file frame."""
    if isinstance(predictor, NetworkPredictor):
        return predictor.masks(scan, [question.target for question in asked])
    prompts = [question.prompt for question in asked if question.prompt]
    return predictor.predict_objects(predictor.encode(scan), prompts, carry=per == "volume") > 0
