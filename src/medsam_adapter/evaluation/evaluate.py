"""Evaluate a model on a data set: prompts from the reference, masks on the source grid, metrics in mm."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.layouts import Dataset
from medsam_adapter.data.loader import target_values
from medsam_adapter.data.sample import Case, Scan
from medsam_adapter.evaluation.metrics import mask_metrics
from medsam_adapter.evaluation.protocol import check_protocol, draw_prompt
from medsam_adapter.evaluation.results import CaseResult, EvaluationResult
from medsam_adapter.inference.predictor import MSAPredictor
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
    predictor: MSAPredictor,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    model_name: str,
    protocol: str = "1-point",
    per: str = "volume",
    targets: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    keep: Callable[[Evaluated], None] | None = None,
) -> EvaluationResult:
    """Metrics of one model under one protocol.

    Args:
        cases: those with a reference count.
        protocol: 1-point, 3-points, 10-points, box, box-0.5, box-0.75.
        per: "volume" (prompts once, masks carried) or "slice" (every slice prompted).
        targets: names of labels; all if None.
        seed: of the prompts; the prompts of a case do not depend on the other cases.
        progress: called with (cases done, cases, case id).
        keep: called with each evaluated target, for pictures.

    A target that a case does not show cannot be prompted: reference and prediction are both empty, and it is counted as
    excluded.
    """
    check_protocol(protocol, per)
    result = EvaluationResult(model_name, f"{protocol} per {per}")
    wanted = target_values(dataset, targets)
    for done, case in enumerate(cases, 1):
        sample = dataset.read(case)
        if sample.labels is None:
            continue
        turn = predictor.processor.turn_of(sample.scan)
        labels = turn.array_to_source(sample.labels)
        names = {v: n for v, n in sample.label_names.items() if wanted is None or v in wanted}
        present = [v for v in names if (labels == v).any()]
        case_seed = np.frombuffer(case.case_id.encode(), np.uint8).tolist()
        prompts = [
            draw_prompt(labels == v, turn, protocol, per, np.random.default_rng([seed, v, *case_seed])) for v in present
        ]
        began = time.perf_counter()
        masks = []
        if present:
            encoded = predictor.encode(sample.scan)
            masks = predictor.predict_objects(encoded, prompts, carry=per == "volume") > 0
        seconds = (time.perf_counter() - began) / max(1, len(present))
        empty = np.zeros(sample.labels.shape, bool)
        for value, name in names.items():
            shown = value in present
            prediction = masks[present.index(value)] if shown else empty
            reference = sample.labels == value
            row = CaseResult(
                case.case_id,
                "object" if dataset.instances else name,
                mask_metrics(prediction, reference, sample.scan.spacing_mm),
                prompts[present.index(value)].to_json() if shown else {},
                seconds if shown else float("nan"),
            )
            result.cases.append(row)
            if keep and shown:
                keep(Evaluated(row, sample.scan, turn, prompts[present.index(value)], prediction, reference))
        if progress:
            progress(done, len(cases), case.case_id)
    result.settings = {
        "protocol": protocol, "per": per, "seed": seed, "data": str(dataset.root), "dataset": dataset.name,
        "cases": [c.case_id for c in cases], "intensity": predictor.processor.intensity,
        "orientation": predictor.processor.orientation, "image_size": predictor.processor.image_size,
        "num_slices": predictor.model.config.num_slices,
    }  # fmt: skip
    return result
