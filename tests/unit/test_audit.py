"""`make audit` says what was asked and what could not be."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {"name": "a", "version": "1", "vulns": []}
HIT = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SOUND, UNKNOWN], 0, "audited: 1 of 2 packages, 0 known"),
        ([SOUND, HIT], 1, "b 2: CVE-1, mended in 3"),
        ([UNKNOWN], 0, "not audited: no network"),
        ([], 0, "not audited"),
    ],
)
def test_what_is_told(audit, capsys, packages, status, said):
    assert audit.told(packages) == status
    assert said in capsys.readouterr().out


def test_only_a_missing_network_is_excused(audit, capsys):
    assert audit.without_network("requests.exceptions.ConnectionError: Max retries exceeded") == 0
    assert "not audited: no network" in capsys.readouterr().out
    assert audit.without_network("Traceback: KeyError") == 1
    assert "KeyError" in capsys.readouterr().err
