"""The evaluation itself: each model under each kind of prompts, written as soon as it is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapter.cli.evaluate_cases import has_settings
from medsam_adapter.cli.evaluate_folder import remove_other_form, result_folder, write_result
from medsam_adapter.cli.evaluate_outputs import model_names

if TYPE_CHECKING:
    from medsam_adapter.cli.evaluate_cases import Chosen
    from medsam_adapter.evaluation.results import EvaluationResult


def evaluate_models(
    models: list[str],
    chosen: Chosen,
    kinds: list[str],
    settings: dict,
    pictures: dict[str, Any],
    output: Path,
    is_quiet: bool,
    paper_name: str | None,
) -> list[EvaluationResult]:
    """Each model under each kind of prompts; every result is written as soon as it is there.

    Where `accelerate launch` has started several processes they share the cases; the first one writes.

    Args:
        kinds: of prompts.
        settings: keywords of `evaluate`.
        pictures: see `picture_settings`.
    """
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.evaluation.evaluate import Evaluated, evaluate
    from medsam_adapter.evaluation.model_hash import model_sha256
    from medsam_adapter.evaluation.pictures import overlay_item
    from medsam_adapter.evaluation.shares import gather_extremes
    from medsam_adapter.evaluation.sheets import PANEL_PIXELS
    from medsam_adapter.training.processes import join_processes
    from medsam_adapter.training.run_folder import versions

    is_main = join_processes()
    results, names = [], model_names(models)
    is_only = len(names) == len(kinds) == 1
    number_of = {case.case_id: number for number, case in enumerate(chosen.cases)}
    for model in dict.fromkeys(models):
        predictor, name = open_predictor(model, **({} if has_settings(model) else pictures)), names[model]
        for kind in kinds:
            scored: list = []

            def keep(done: Evaluated, predictor=predictor, scored=scored) -> None:
                dice = done.result.metrics.dice
                if dice == dice:
                    caption = f"{done.result.case_id}, {done.result.target}"
                    picture = overlay_item(
                        done.scan, predictor.processor, done.turn, done.prediction, done.reference, done.prompt,
                        caption, PANEL_PIXELS,
                    )  # fmt: skip
                    scored.append((number_of[done.result.case_id], dice, picture))

            with bar(f"{name}, {kind}", len(chosen.cases), "case", is_main and not is_quiet) as show:
                result = evaluate(
                    predictor, chosen.dataset, chosen.cases, model_name=name, protocol=kind, progress=show, keep=keep,
                    share_cases=True, **settings,
                )  # fmt: skip
            result.settings |= {
                "versions": versions(), "part": chosen.part, "layout": chosen.layout, "paper_protocol": paper_name,
                "model_sha256": model_sha256(model), "seen_cases": chosen.seen.get(model),
            }  # fmt: skip
            of_all = gather_extremes(scored)
            if is_main:
                write_result(result, result_folder(output, name, kind, is_only), of_all)
            results.append(result)
    if is_main:
        remove_other_form(output, is_only)
    return results
