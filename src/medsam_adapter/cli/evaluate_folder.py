"""Where `msa evaluate` puts each result: one alone into the output folder itself, several into folders below it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medsam_adapter.evaluation.results import EvaluationResult

MODEL_INDEX, PICTURES = "model_index.yaml", "best_median_worst.png"


def result_folder(output: Path, name: str, prompts: str, is_only: bool) -> Path:
    """Where one result goes: the output folder itself if there is no other."""
    return output if is_only else output / f"{name.replace('/', '_')}_{prompts}"


def write_result(result: EvaluationResult, folder: Path, pictures: list) -> None:
    """results.json, results.csv, prompts.json, model_index.yaml and, of those there are, best_median_worst.png of one
    result."""
    from medsam_adapter.evaluation.exports import write_model_index
    from medsam_adapter.evaluation.pictures import write_extremes

    result.save(folder)
    (folder / PICTURES).unlink(missing_ok=True)  # of an earlier evaluation: this one may have none
    write_model_index(folder / MODEL_INDEX, result.model, [result])
    write_extremes(folder / PICTURES, pictures)


def remove_other_form(output: Path, is_only: bool) -> None:
    """Remove what `write_result` has left of an earlier evaluation that had one result where this one has several, or
    the reverse: it would be read, compared and published beside this one.

    A folder below that was evaluated into by its own name (it has a table of its own) stays, as do files of others.

    Args:
        is_only: this evaluation has one result.
    """
    from medsam_adapter.writing import naming_write_errors

    with naming_write_errors(output):
        if not is_only:
            if _written_here(output):
                _remove_result(output)
            return
        for folder in sorted(file.parent for file in output.glob(f"*/{MODEL_INDEX}")):
            found = _written_here(folder)
            if found is None or folder.is_symlink() or (folder / "table.md").exists():
                continue
            if folder == result_folder(output, found.model, str(found.settings.get("protocol")), is_only=False):
                _remove_result(folder)
                with contextlib.suppress(OSError):  # somebody else's files are in it, too
                    folder.rmdir()


def _written_here(folder: Path) -> EvaluationResult | None:
    """The result that `write_result` has written into a folder; None without one."""
    from medsam_adapter.errors import MSAInputError
    from medsam_adapter.evaluation.results import EvaluationResult

    try:
        return EvaluationResult.load(folder) if (folder / MODEL_INDEX).is_file() else None
    except MSAInputError:
        return None


def _remove_result(folder: Path) -> None:
    from medsam_adapter.evaluation.results import PROMPTS_JSON, RESULTS_CSV, RESULTS_JSON

    for name in (RESULTS_JSON, RESULTS_CSV, PROMPTS_JSON, MODEL_INDEX, PICTURES):
        (folder / name).unlink(missing_ok=True)
