"""Prediction of many cases, by as many processes as there are, restartable at any point.

`predict_cases` is a plain function over cases: call it in one process, in each process of `accelerate launch` or in
each worker of Ray, all with the same cases or each with its own, as long as the output folder is the same. A case is
claimed before it is begun (`claims.py`) and noted when it is settled (`batch_manifest.py`).
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medsam_adapter.data.file_state import file_state
from medsam_adapter.data.io import read_scan, write_mask
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, MSAError, OutputError, PromptError
from medsam_adapter.inference.batch_cases import BatchCase, check_cases
from medsam_adapter.inference.batch_manifest import DONE, FAILED, INTERRUPTED, STARTED, Manifest, Record
from medsam_adapter.inference.batch_output import refuse_overwriting
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.prompts.checks import check_point
from medsam_adapter.prompts.types import ObjectPrompt
from medsam_adapter.writing import naming_write_errors

MAX_DEATHS = 3
"""A case that so many processes died of, one after another, has failed."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_WAIT_S = 0.5


@dataclass(frozen=True)
class BatchResult:
    """What became of a case.

    Attributes:
        output: the mask; None if it failed.
        why: what was wrong, in which file and what to do; empty if it is done.
        voxels: of all objects together.
    """

    case_id: str
    output: Path | None
    why: str = ""
    voxels: int = 0
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.output is not None


def predict_cases(
    predictor: MSAPredictor,
    cases: Iterable[BatchCase],
    output: str | Path,
    *,
    model_id: str = "",
    carry: bool = True,
    retry_failed: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> Iterator[BatchResult]:
    """Predict the cases that are not settled yet, in the order given, and write their label maps.

    Several processes may do this at once in one output folder: each case is predicted by one of them. A process
    that ends in the middle leaves its case to the others, or to the next run. The iterator ends when all cases are
    settled, by whomever. A broken case is a result like others. A case counts as settled only if the same was asked:
    with other prompts, another `model_id`, other settings or an image that has changed it is predicted again.

    Args:
        output: folder; the masks appear whole or not at all, beside the manifests.
        model_id: which weights the predictor has; a hash of them, say.
        carry: carry masks through volumes; otherwise only prompted slices get one.
        retry_failed: predict cases again that have failed before.
        progress: called with (done, failed, all) cases, those of other processes included.

    Yields:
        The results of this process, each after its file and its line in the manifest are on the disk.

    Raises:
        DataError: two cases of one name or output, a folder without locks.
        OutputError: there is no room, or no right, to write, or a mask would take the place of a scan.
    """
    cases = check_cases(cases)
    output = Path(output)
    refuse_overwriting(cases, output)
    asked = {case.case_id: _digest(predictor, case, model_id, carry) for case in cases}
    with Manifest.open(output) as (manifest, claims):
        # Turns up to these do not count: failures to be tried again, and masks that somebody has removed.
        void = {}
        for case in cases:
            last = manifest.last(case.case_id)
            if last and (last.status == FAILED and retry_failed or last.status == DONE and not _is_there(output, last)):
                void[case.case_id] = last.turn

        def settled(case: BatchCase) -> Record | None:
            last = manifest.last(case.case_id)
            if last is None or last.status not in (DONE, FAILED) or last.asked != asked[case.case_id]:
                return None
            return last if last.turn > void.get(case.case_id, 0) else None

        def tell() -> None:
            if progress:
                states = [record.status for case in cases if (record := settled(case))]
                progress(states.count(DONE), states.count(FAILED), len(cases))

        # What a process may have died of comes last.
        left = sorted(cases, key=lambda case: manifest.died(case.case_id, asked[case.case_id]))
        tell()
        while left:
            busy = []
            for case in left:
                if settled(case):
                    continue
                if not claims.take(case.case_id):
                    busy.append(case)
                    continue
                try:
                    manifest.refresh()
                    if not settled(case):
                        result = _settle(predictor, case, output, carry, manifest, asked[case.case_id])
                        tell()
                        yield result
                finally:
                    claims.give_back(case.case_id)
            left = busy
            if left:
                time.sleep(_WAIT_S)
                manifest.refresh()
                tell()


def _settle(predictor, case: BatchCase, output: Path, carry: bool, manifest: Manifest, asked: str) -> BatchResult:
    """Predict a claimed case and note it."""
    last, began = manifest.last(case.case_id), time.perf_counter()
    turn = Record(case.case_id, last.turn + 1 if last else 1, STARTED, asked)
    deaths = manifest.died(case.case_id, asked)
    manifest.write(turn)
    path = output / case.output
    try:
        _remove_partial(path)
        if deaths >= MAX_DEATHS:
            raise DataError(
                f"{deaths} processes have died of it", file=case.image,
                hint="it may need more memory than there is; --retry-failed tries again",
            )  # fmt: skip
        voxels = _predict(predictor, case, path, carry)
    except Exception as error:
        if _is_no_room(error):
            _note_interruption(manifest, turn)
            raise
        if isinstance(error, torch.AcceleratorError):  # the device is lost to this process, and to all cases after
            raise
        why = _why(error, case)
        if manifest.wrote(case.case_id, case.output):  # for another question: nobody is to take it for this one's
            with naming_write_errors(path):
                path.unlink(missing_ok=True)
        manifest.write(replace(turn, status=FAILED, why=why, seconds=_since(began)))
        return BatchResult(case.case_id, None, why, seconds=_since(began))
    except BaseException:  # Ctrl-C: nobody died
        _note_interruption(manifest, turn)
        raise
    manifest.write(replace(turn, status=DONE, output=case.output, voxels=voxels, seconds=_since(began)))
    return BatchResult(case.case_id, path, voxels=voxels, seconds=_since(began))


def _predict(predictor: MSAPredictor, case: BatchCase, path: Path, carry: bool) -> int:
    """Write the label map; the number of voxels in it."""
    scan = read_scan(case.image)
    prompts = [_fit(prompt, scan) for prompt in case.prompts]
    labels = predictor.predict_labels(predictor.encode(scan), prompts, carry, labels=case.labels)
    write_mask(path, labels, scan, dict(zip(case.labels, case.names, strict=True)))
    return int(np.count_nonzero(labels))


def _fit(prompt: ObjectPrompt, scan: Scan) -> ObjectPrompt:
    """The prompt of a scan whose kind is known now: in a picture z may be left out.

    Raises:
        PromptError: numbers that do not fit the scan; before anything is encoded.
    """
    if scan.is_volume:
        points, boxes = prompt.points, prompt.boxes
        if any(len(box) == 4 for box in boxes):
            raise PromptError("a box of a volume needs its slice", expected="x0, y0, x1, y1 and z", found="no z")
    else:
        points = [(*point, 0.0) if len(point) == 2 else tuple(point) for point in prompt.points]
        boxes = [(*box[:2], 0.0, *box[2:], 0.0) if len(box) == 4 else tuple(box) for box in prompt.boxes]
    for point in [*points, *(box[:3] for box in boxes), *(box[3:] for box in boxes)]:
        is_flat = not scan.is_volume and point[2] == 0
        check_point(point[:2] if is_flat else point, scan.shape_zyx, scan.is_volume)
    return ObjectPrompt(list(points), prompt.labels, list(boxes), prompt.text)


def _digest(predictor: MSAPredictor, case: BatchCase, model_id: str, carry: bool) -> str:
    rules = asdict(predictor.text_rules) if any(prompt.text for prompt in case.prompts) else None
    facts = [
        str(case.image.absolute()), file_state(case.image), case.output, case.labels, case.names,
        [prompt.to_json() for prompt in case.prompts], model_id, predictor.settings(), predictor.processor.window_hu,
        rules, carry,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_no_room(error: Exception) -> bool:
    """Whether no other case could be written either."""
    return isinstance(error, OutputError) and getattr(error.__cause__, "errno", None) in _NO_ROOM


def _why(error: Exception, case: BatchCase) -> str:
    if isinstance(error, MSAError):
        return str(error) if error.file else f"{case.image}: {error}"
    said = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        torch.cuda.empty_cache()
        problem, hint = "there is not enough memory", "take a larger machine or a smaller model, then --retry-failed"
    elif isinstance(error, OSError):
        problem, hint = "cannot be read or written", "look at the file, then --retry-failed"
    else:
        problem = "cannot be predicted, for a reason that nobody thought of"
        hint = "msa predict it alone with MSA_DEBUG=1 and report it"
    return str(DataError(problem, file=case.image, found=f"{type(error).__name__}: {said}", hint=hint))


def _note_interruption(manifest: Manifest, turn: Record) -> None:
    try:
        manifest.write(replace(turn, status=INTERRUPTED))
    except OutputError:  # the disk is full: then it counts as a death
        pass


def _remove_partial(path: Path) -> None:
    """What killed processes left of this mask; nobody else writes it now."""
    for left in path.parent.glob(f".*-partial-{glob.escape(path.name)}"):
        left.unlink(missing_ok=True)


def _is_there(output: Path, record: Record) -> bool:
    return bool(record.output) and (output / record.output).is_file()


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)
