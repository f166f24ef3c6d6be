"""Splits: by patient, the same on every machine, and checked when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.sample import Case
from medsam_adapter.data.splits import drawn, load_split, make_split, save_split, verify_split, with_validation
from medsam_adapter.errors import DataError


def cases(num_patients: int, cases_each: int = 1) -> list[Case]:
    return [
        Case(f"p{patient}_{number}", Path(f"{patient}_{number}.nii.gz"), patient_id=f"p{patient}")
        for patient in range(num_patients)
        for number in range(cases_each)
    ]


@settings(max_examples=60, deadline=None)
@given(
    num_patients=st.integers(3, 40),
    cases_each=st.integers(1, 3),
    train=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
    shuffler=st.randoms(),
)
def test_every_case_once_no_patient_twice_whatever_the_order(num_patients, cases_each, train, seed, shuffler):
    listed = cases(num_patients, cases_each)
    fractions = {"train": train, "val": (1 - train) / 2, "test": (1 - train) / 2}
    split = make_split(listed, fractions, seed)
    verify_split(split, listed)
    assert sorted(case_id for ids in split.values() for case_id in ids) == sorted(case.case_id for case in listed)
    assert all(split.values())
    shuffled = list(listed)
    shuffler.shuffle(shuffled)
    assert make_split(shuffled, fractions, seed) == split


def test_default_fractions_and_seed():
    split = make_split(cases(20))
    assert {part: len(ids) for part, ids in split.items()} == {"train": 16, "val": 0, "test": 4}
    assert make_split(cases(20), seed=1) != split
    # The split of a published run must not move: stored once, by this very call.
    assert split["test"] == STORED_TEST_PART


STORED_TEST_PART = ["p18_0", "p19_0", "p1_0", "p9_0"]


def test_a_small_part_still_gets_a_patient():
    split = make_split(cases(4), {"train": 0.9, "val": 0.05, "test": 0.05})
    assert [len(ids) for ids in split.values()] == [2, 1, 1]


@pytest.mark.parametrize("fractions", [{"train": 0.5, "test": 0.4}, {"train": 1.2, "test": -0.2}])
def test_impossible_fractions(fractions):
    with pytest.raises(DataError, match="do not add up"):
        make_split(cases(5), fractions)


def test_too_few_patients_and_double_ids():
    with pytest.raises(DataError, match="too few patients"):
        make_split(cases(1, cases_each=9))
    with pytest.raises(DataError, match="not unique"):
        make_split(cases(3) + cases(3))
    with pytest.raises(DataError, match="no cases"):
        make_split([])


def test_file_goes_there_and_back(tmp_path):
    split = make_split(cases(10))
    assert load_split(save_split(tmp_path / "deep" / "split.json", split), cases(10)) == split


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"train": ["p0_0"], "test": ["nobody"]}, "does not have"),
        ({"train": ["p0_0"], "test": ["p0_0"]}, "more than once"),
        ({"train": ["p0_0", "p0_0"], "test": []}, "more than once"),
        ({"train": ["p0_0"], "test": ["p0_1"]}, "two sides"),
    ],
)
def test_wrong_splits_are_refused_with_their_file(tmp_path, split, problem):
    path = save_split(tmp_path / "split.json", split)
    assert load_split(path) == split
    with pytest.raises(DataError, match=problem) as caught:
        load_split(path, cases(3, cases_each=2))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1]", '{"train": "a"}', '{"train": [1]}'])
def test_files_that_are_no_split(tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match="split"):
        load_split(tmp_path / "split.json")
    with pytest.raises(DataError, match="split"):
        load_split(tmp_path / "missing.json")


def test_validation_cases_are_taken_from_the_training_part_alone_and_by_patient():
    listed = cases(12, 2)
    official = {"train": [c.case_id for c in listed[:20]], "test": [c.case_id for c in listed[20:]]}
    split = with_validation(official, listed, 0.2, seed=3)
    verify_split(split, listed)
    assert split["test"] == official["test"] and len(split["val"]) == 4 and len(split["train"]) == 16
    assert split == with_validation(official, listed[::-1], 0.2, seed=3)
    assert with_validation({**official, "val": ["p1_0"]}, listed, 0.2)["val"] == ["p1_0"]
    assert with_validation(official, listed, 0.0) == official


def test_some_cases_of_a_part_are_drawn():
    """Ids begin with what cases have in common: the first ten would be of one site."""
    part = [Case(f"{site}_{number:02d}", Path("a.png")) for site in ("a", "b", "c") for number in range(20)]
    chosen = drawn(part, 15, 0)
    assert len(chosen) == 15 and chosen == [case for case in part if case in chosen]
    assert {case.case_id[0] for case in chosen} == {"a", "b", "c"}
    assert drawn(part[::-1], 15, 0) == chosen[::-1] and drawn(part, 15, 1) != chosen
    assert drawn(part, None, 0) == part == drawn(part, 99, 0)
    assert set(map(id, drawn(part, 10, 0))) < set(map(id, chosen))  # more cases are the same and some more
