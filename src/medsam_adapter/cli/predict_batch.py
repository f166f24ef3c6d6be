"""`msa predict MODEL FOLDER|MANIFEST.csv -o OUT --prompts prompts.csv`: many cases, by one process or several.

Exit codes: 0 all done, 3 some cases failed (the others are done), and those of `msa` for what stops all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from medsam_adapter.inference.batch_cases import BatchCase

SOME_FAILED = 3
_SHOWN_FAILURES = 20


def is_many(source: Path, prompts: Path | None) -> bool:
    """Whether INPUT stands for many cases: --prompts is given, it is a .csv, or a folder of images.

    A folder that is one DICOM series is one scan, as ever, unless --prompts is given.
    """
    from medsam_adapter.data.io import is_dicom_folder
    from medsam_adapter.inference.batch_cases import find_cases

    if prompts is not None or source.suffix.lower() == ".csv":
        return True
    return source.is_dir() and not is_dicom_folder(source) and bool(find_cases(source))


def predict_many(
    model: str,
    source: Path,
    output: Path,
    *,
    prompts: Path | None,
    text: list[str] | None,
    min_score: float | None,
    intensity: str | None,
    window: str | None,
    orientation: str | None,
    carry: bool,
    retry_failed: bool,
    as_json: bool,
    not_for_many: dict[str, object],
) -> None:
    """Predict what is not done yet; tell what has become of all of it.

    Args:
        not_for_many: {option: its value} of those that make sense for one scan only.

    Raises:
        typer.Exit: with code 3 where cases have failed.
    """
    from medsam_adapter.cli.given_options import given_options, refuse_unheard
    from medsam_adapter.errors import PromptError

    given = given_options(not_for_many)
    if given:
        raise PromptError(
            f"{given[0]} belongs to one scan", expected="--prompts prompts.csv or --text for many cases",
            found=", ".join(given), hint="prompts.csv has the columns case,object,x,y,z,label,x0,y0,x1,y1,text",
        )  # fmt: skip
    began = time.perf_counter()
    cases, left_out = _cases(source, output, prompts, text)
    refuse_unheard([prompt for case in cases for prompt in case.prompts], not carry, min_score)
    is_main = int(os.environ.get("RANK", "0")) == 0
    with _ended_by_sigterm():
        _predict(model, cases, output, min_score, intensity, window, orientation, carry, retry_failed, is_main)
    if is_main:
        _report(cases, output, left_out, time.perf_counter() - began, as_json)


def accept_scores(predictor, min_score: float | None) -> None:
    """--min-score: how bad the best slice of a sentence's mask may be."""
    if min_score is not None:
        predictor.text_rules.min_best_score = min_score
        predictor.text_rules.min_score = min(min_score, predictor.text_rules.min_score)


def _cases(source: Path, output: Path, prompts: Path | None, text: list[str] | None) -> tuple[list[BatchCase], int]:
    """The cases, and how many scans are there that nothing is asked of."""
    from medsam_adapter.errors import DataError, PromptError
    from medsam_adapter.inference.batch_cases import ask_prompts, ask_texts, find_cases
    from medsam_adapter.inference.batch_output import refuse_overwriting

    if bool(prompts) == bool(text):
        raise PromptError(
            "says in two ways what is asked" if prompts else "there is no prompt", file=source,
            expected="--prompts prompts.csv, or --text for all cases", found="both" if prompts else "neither",
            hint="sentences for single cases stand in the column text of prompts.csv",
        )  # fmt: skip
    found = find_cases(source)
    if not found:
        raise DataError("holds no case", file=source, expected="image files, or folders of DICOM series", found="none")
    folder = source if source.is_dir() else source.parent
    if output.is_file() or (source.is_dir() and output.resolve() == source.resolve()):
        raise DataError(
            "cannot be the output of many cases", file=output, expected="a folder of its own for the masks",
            found="a file" if output.is_file() else "the folder of the images",
        )  # fmt: skip
    cases = ask_prompts(found, prompts, folder) if prompts else ask_texts(found, text or [])
    refuse_overwriting(cases, output, [each.image for each in found])
    return cases, len(found) - len({each.image for each in found} & {case.image for case in cases})


def _predict(model, cases, output, min_score, intensity, window, orientation, carry, retry_failed, is_main) -> None:
    from tqdm.auto import tqdm

    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.errors import PromptError, no_text_prompts
    from medsam_adapter.evaluation.model_hash import model_sha256
    from medsam_adapter.inference.batch import predict_cases
    from medsam_adapter.inference.batch_output import LABELS_JSON, names_of_labels
    from medsam_adapter.inference.predictor import MSAPredictor
    from medsam_adapter.writing import write_text

    names = names_of_labels(cases, output)
    predictor = open_predictor(model, intensity, window, orientation, device=_device())
    if not isinstance(predictor, MSAPredictor):
        raise PromptError("this network takes no prompts", file=model, expected="a SAM, with adapters or without")
    if predictor.model.text_model is None and any(prompt.text for case in cases for prompt in case.prompts):
        raise no_text_prompts()
    accept_scores(predictor, min_score)
    if is_main:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / LABELS_JSON, json.dumps(names, indent=1, ensure_ascii=False) + "\n")
    with contextlib.ExitStack() as stack:
        shown: list = []

        def progress(done: int, failed: int, total: int) -> None:
            if not is_main:
                return
            if not shown:  # what was done before tells nothing about the time left
                shown.append(stack.enter_context(tqdm(total=total, initial=done + failed, desc="cases", unit="case")))
            shown[0].set_postfix(failed=failed, refresh=False)
            shown[0].update(done + failed - shown[0].n)

        for _ in predict_cases(
            predictor, cases, output, model_id=model_sha256(model) or model, carry=carry, retry_failed=retry_failed,
            progress=progress,
        ):  # fmt: skip
            pass


def _device() -> str | None:
    """The accelerator of this process among those of `accelerate launch`; None leaves the choice to the predictor."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available():
        return None
    return f"cuda:{int(rank) % torch.cuda.device_count()}"


def _report(cases: list[BatchCase], output: Path, left_out: int, seconds: float, as_json: bool) -> None:
    from medsam_adapter.inference.batch_manifest import read_manifests

    records = read_manifests(output)
    failed = {case.case_id: records[case.case_id].why for case in cases if records[case.case_id].status == "failed"}
    if as_json:
        facts = {
            "output": str(output), "cases": len(cases), "done": len(cases) - len(failed),
            "failed": [{"case": case_id, "why": why} for case_id, why in failed.items()],
            "left_out": left_out, "seconds": round(seconds, 2),
        }  # fmt: skip
        typer.echo(json.dumps(facts))
    else:
        done = f"{len(cases) - len(failed)} of {len(cases)} cases done"
        extra = f", {left_out} without prompts left out" if left_out else ""
        typer.echo(f"{output}: {done}, {len(failed)} failed{extra}, {seconds:.1f} s")
        for case_id, why in list(failed.items())[:_SHOWN_FAILURES]:
            typer.secho(f"failed: {case_id}\n  " + why.replace("\n", "\n  "), err=True, fg=typer.colors.RED)
        if len(failed) > _SHOWN_FAILURES:
            typer.secho(f"and {len(failed) - _SHOWN_FAILURES} more, in {output}/manifest-*.jsonl", err=True)
        if failed:
            typer.secho("mend them and run the same command with --retry-failed", err=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A scheduler's notice ends the process as Ctrl-C does: the case at hand is given back, not counted as a death."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number, _frame):
        raise SystemExit(128 + number)  # no Exception: nothing on the way takes it for a broken case

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
