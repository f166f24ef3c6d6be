"""Splitting a data set by patient, reproducibly, and keeping the split in a file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from ..writing import write_text
from .sample import Case

DEFAULT_FRACTIONS = {"train": 0.8, "val": 0.0, "test": 0.2}
Split = dict[str, list[str]]


def make_split(cases: Iterable[Case], fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0) -> Split:
    """{part: sorted case ids}; the cases of one patient go to one part.

    Fractions are of patients. The order in which cases are listed does not matter, nor does the machine: patients are
    ordered by a hash of seed and id. A part with a fraction above 0 gets at least one patient.

    Raises:
        DataError: no cases, an id given twice, fractions that are negative or do not add up to 1, or fewer patients
            than parts.
    """
    cases = list(cases)
    _refuse_double_ids(cases)
    if any(not 0 <= fraction <= 1 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DataError(
            "the split's fractions do not add up",
            expected="fractions from 0 to 1 with the sum 1",
            found=", ".join(f"{part} {fraction:g}" for part, fraction in fractions.items()),
        )
    patients = sorted({case.patient_id for case in cases}, key=lambda patient: (_rank(seed, patient), patient))
    counts = _patient_counts(len(patients), fractions)
    split: Split = {}
    start = 0
    for part, count in counts.items():
        chosen = set(patients[start : start + count])
        split[part] = sorted(case.case_id for case in cases if case.patient_id in chosen)
        start += count
    return split


def with_validation(split: Mapping[str, list[str]], cases: Iterable[Case], fraction: float, seed: int = 0) -> Split:
    """A split that names no validation cases with this share of the training patients as such; others as they are."""
    split = {part: list(ids) for part, ids in split.items()}
    wanted = set(split.get("train", ()))
    train = [case for case in cases if case.case_id in wanted]
    if split.get("val") or not fraction or len({case.patient_id for case in train}) < 2:
        return split
    return {**split, **make_split(train, {"train": 1 - fraction, "val": fraction}, seed)}


def drawn(cases: Sequence[Case], most: int | None, seed: int) -> list[Case]:
    """At most so many of a part's cases, in their order; all if `most` is None.

    Drawn, since ids begin with what cases have in common (a site, a scanner, a modality) and parts are sorted by them.
    """
    chosen = sorted(cases, key=lambda case: (_rank(seed, case.case_id), case.case_id))[:most]
    names = {case.case_id for case in chosen}
    return [case for case in cases if case.case_id in names]


def _rank(seed: int, patient: str) -> str:
    return hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest()


def _patient_counts(num_patients: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that add up to `num_patients`: largest remainder, then one for every wanted part that has none."""
    wanted = [part for part, fraction in fractions.items() if fraction > 0]
    if num_patients < len(wanted):
        raise DataError(
            "there are too few patients to split",
            expected=f"at least {len(wanted)} patients for {', '.join(wanted)}",
            found=f"{num_patients}",
            hint="add cases, or set a fraction to 0",
        )
    exact = {part: fraction * num_patients for part, fraction in fractions.items()}
    counts = {part: int(value + 1e-9) for part, value in exact.items()}
    by_remainder = sorted(wanted, key=lambda part: counts[part] - exact[part])
    for part in by_remainder[: num_patients - sum(counts.values())]:
        counts[part] += 1
    for part in wanted:
        if counts[part] == 0:
            counts[max(counts, key=counts.__getitem__)] -= 1
            counts[part] = 1
    return counts


def verify_split(split: Mapping[str, list[str]], cases: Iterable[Case], file: str | Path | None = None) -> None:
    """Checks a split against the cases of a data set.

    Raises:
        DataError: an id that the data set does not have, an id in two parts or twice in one, or a patient in two parts.
    """
    cases = list(cases)
    _refuse_double_ids(cases)
    patient_of = {case.case_id: case.patient_id for case in cases}
    unknown = sorted({case_id for ids in split.values() for case_id in ids} - set(patient_of))
    if unknown:
        raise DataError(
            "the split names cases that the data set does not have",
            file=file,
            expected=f"ids of the {len(patient_of)} cases",
            found=f"{len(unknown)} unknown: {', '.join(unknown[:5])}",
            hint="the split belongs to another data set or another version of it; make a new one",
        )
    doubles = [case_id for case_id, n in Counter(i for ids in split.values() for i in ids).items() if n > 1]
    if doubles:
        raise DataError(
            "the split names cases more than once",
            file=file,
            expected="each case in one part, once",
            found=", ".join(doubles[:5]),
        )
    parts_of: dict[str, set[str]] = {}
    for part, ids in split.items():
        for case_id in ids:
            parts_of.setdefault(patient_of[case_id], set()).add(part)
    torn = [f"{patient} in {' and '.join(sorted(parts))}" for patient, parts in parts_of.items() if len(parts) > 1]
    if torn:
        raise DataError(
            "the split puts a patient on two sides",
            file=file,
            expected="all cases of a patient in one part",
            found="; ".join(torn[:5]),
            hint="a score on such a split is too good; make the split with make_split",
        )


def save_split(path: str | Path, split: Mapping[str, list[str]]) -> Path:
    """Writes the split as JSON, {part: [case id, ...]}."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(dict(split), indent=1) + "\n")
    return path


def is_split(content: object) -> bool:
    """Whether what was read has the form of a split, {part: [case id, ...]}."""
    return isinstance(content, dict) and all(
        isinstance(ids, list) and all(isinstance(case_id, str) for case_id in ids) for ids in content.values()
    )


def load_split(path: str | Path, cases: Iterable[Case] | None = None) -> Split:
    """Reads a split; with `cases` it is verified against them (see `verify_split`).

    Raises:
        DataError: no such file, or not {part: [case id, ...]}.
    """
    path = Path(path)
    form = '{"train": ["case_1", ...], "test": [...]}'
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("cannot be read as a split", file=path, expected=form, found=str(error)) from error
    if not is_split(split):
        raise DataError("is no split", file=path, expected=form, found=f"{type(split).__name__} of another form")
    if cases is not None:
        verify_split(split, cases, file=path)
    return split


def _refuse_double_ids(cases: list[Case]) -> None:
    doubles = [case_id for case_id, count in Counter(case.case_id for case in cases).items() if count > 1]
    if doubles or not cases:
        raise DataError(
            "case ids are not unique" if doubles else "there are no cases to split",
            expected="one id for each case",
            found=", ".join(doubles[:5]) or "no cases",
        )
