"""The places that `make mutations` spoils are in the code, once each, and docs/testing.md tells of all of them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"


def load():
    spec = importlib.util.spec_from_file_location("mutations", ROOT / ".ci" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutations = load()
every_mutation = pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda each: each.what)


@every_mutation
def test_a_place_is_in_the_code_once_and_stays_python(mutation):
    sound = (ROOT / mutations.SOURCE / mutation.file).read_text()
    text = mutations.spoiled(mutation)
    assert text != sound
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(sound))  # not only a comment
    assert mutation.tests and all((ROOT / "tests" / each).exists() for each in mutation.tests)


@every_mutation
def test_the_page_tells_of_it_and_some_test_failed(mutation):
    start = mutations.row(mutation, Counter(), 0).partition("**none**")[0]
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(start)]
    assert len(rows) == 1 and "**none**" not in rows[0]


def test_the_page_has_no_others():
    table = PAGE.read_text().partition("## Ten mutations")[2]
    rows = [line for line in table.splitlines() if ".py` |" in line]
    assert len(rows) == len(mutations.MUTATIONS) >= 10


@pytest.mark.parametrize("text", ["", "the place, the place"])
def test_a_place_that_is_gone_or_there_twice_is_refused(tmp_path, text):
    file = tmp_path / mutations.SOURCE / "adapters" / "some.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ValueError, match="expected once"):
        mutations.spoiled(mutations.Mutation("", "adapters/some.py", "the place", "another", ("unit",)), tmp_path)


def test_failures_are_counted_by_file(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow: minutes"]\n')
    (tmp_path / "tests" / "test_a.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_skipped(): pytest.skip('no reason')\n"
        "@pytest.mark.slow\n"
        "def test_slow(): assert False\n"
    )
    assert mutations.failures(tmp_path, ("test_a.py",)) == (Counter({"test_a.py": 1}), 2)
    with pytest.raises(RuntimeError, match="came to no result|pytest left with"):
        mutations.failures(tmp_path, ("test_nothing.py",))
