"""The cases of an evaluation, shared among the processes of `accelerate launch`, and their results put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medsam_adapter.data.sample import Case
from medsam_adapter.errors import MSAError
from medsam_adapter.evaluation.results import CaseResult
from medsam_adapter.training.processes import gather_list, num_processes, process_index


@dataclass
class CaseRows:
    """Results of one case: its targets in the order they were asked for, and the same against single raters."""

    own: list[CaseResult] = field(default_factory=list)
    raters: dict[str, list[CaseResult]] = field(default_factory=dict)


def over_processes(
    evaluate_case: Callable[[Case], CaseRows],
    cases: Sequence[Case],
    progress: Callable[[int, int, str], None] | None = None,
    share: bool = True,
) -> list[CaseRows]:
    """The rows of each case, once and in the order of `cases`, in every process.

    Process i of n evaluates the cases i, i + n, i + 2n, ... Nothing is filled up to equal shares, so that no case is
    counted twice; a process may have none. All processes must call this together.

    Args:
        progress: called with (cases done, cases, case id) for this process's own, as if the others were as far.
        share: False where this process is to evaluate all cases, whoever else there is.

    Raises:
        MSAError: what the first process that met one met; in all of them.
    """
    count, index = (num_processes(), process_index()) if share else (1, 0)
    rows: dict[int, CaseRows] = {}
    error: MSAError | None = None
    try:
        for number in range(index, len(cases), count):
            rows[number] = evaluate_case(cases[number])
            if progress:
                progress(min(len(rows) * count, len(cases)), len(cases), cases[number].case_id)
    except MSAError as raised:
        if count == 1:
            raise
        error = raised
    if count == 1:
        return list(rows.values())
    gathered = gather_list([(rows, error)])
    for _, met in gathered:
        if met is not None:
            raise met
    rows = {number: found for part, _ in gathered for number, found in part.items()}
    return [rows[number] for number in range(len(cases))]


def gather_extremes(scored: Sequence[tuple[int, float, Any]]) -> list[tuple[float, Any]]:
    """The (Dice, picture) of all processes in the order of the cases, as `pictures.write_extremes` takes them.

    Only the pictures that it will take travel, the best, the median and the worst; the others are None. All processes
    must call this together.

    Args:
        scored: (number of the case, Dice, picture) of this process.
    """
    if num_processes() == 1:
        return [(dice, picture) for _, dice, picture in scored]
    pictures = {(case, place): picture for place, (case, _, picture) in enumerate(scored)}
    own = [(case, place, dice) for place, (case, dice, _) in enumerate(scored)]
    everyone = sorted(gather_list(own))  # a case is of one process, so that its places are in order
    ranked = sorted(everyone, key=lambda each: -each[2])
    wanted = {ranked[at][:2] for at in (0, len(ranked) // 2, -1)} if ranked else set()
    found = dict(gather_list([(key, picture) for key, picture in pictures.items() if key in wanted]))
    return [(dice, found.get((case, place))) for case, place, dice in everyone]
