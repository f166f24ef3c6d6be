"""Shows that the tests can fail (`make mutations`): spoils the code in one place at a time, in a copy, and tests it.

Prints a table, the one of docs/testing.md: what was spoiled, and how many tests of which files failed. Leaves with 1
where all passed for some place (a test is missing there), and where a place is not in the code exactly once.

    .venv/bin/python .ci/mutations.py            # all, about six minutes on one core
    .venv/bin/python .ci/mutations.py windows    # those whose file has the word in its path
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
SOURCE = "src/medsam_adapter"
COPIED = ("src", "tests", "pyproject.toml", "setup.cfg")


@dataclass(frozen=True)
class Mutation:
    """One place to spoil.

    Attributes:
        what: what is wrong then, in a few words.
        file: below src/medsam_adapter.
        old, new: text that stands in the file exactly once, and what takes its place.
        tests: files or folders below tests/ of which some test has to fail.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ADAPTERS = ("contract/test_adapter_contract.py",)
GEOMETRY = ("unit/data/test_geometry.py", "unit/data/test_properties_frames.py", "unit/test_processing.py")
METRICS = ("unit/evaluation/test_metrics.py",)

MUTATIONS = [
    Mutation(
        "a fresh adapter does not start at zero",
        "adapters/bottleneck.py", "nn.init.zeros_(self.up.weight)", "nn.init.normal_(self.up.weight)", ADAPTERS,
    ),
    Mutation(
        "the encoder's MLP adapter without its factor s",
        "adapters/vision_layer.py", "total.add_(out, alpha=scale)", "total.add_(out)", ADAPTERS,
    ),
    Mutation(
        "one of the decoder's own tokens counts as a prompt",
        "adapters/two_way_block.py", "output_tokens = 2 +", "output_tokens = 1 +", ADAPTERS,
    ),
    Mutation(
        "slices that only fill up a chunk are attended to",
        "adapters/attention.py", "masked_fill(~allowed,", "masked_fill(allowed & ~allowed,",
        ("contract/test_volume_contract.py",),
    ),
    Mutation(
        "relative positions of space attention the wrong way round",
        "adapters/windows.py", "tables.append(table.flip(0))", "tables.append(table)",
        ("contract/test_fast_path.py",),
    ),
    Mutation(
        "points scaled by pixel corners, not centres",
        "data/geometry.py", "+ 0.5) * self.scale_xy - 0.5)", "+ 0.0) * self.scale_xy - 0.0)", GEOMETRY,
    ),
    Mutation(
        "logits of the padding stretched over the picture",
        "data/geometry.py", "logits[..., :height, :width]", "logits", GEOMETRY,
    ),
    Mutation(
        "points on a flipped axis off by one",
        "data/geometry.py", "out[..., axis] = value if flip > 0 else self.shape_ijk[axis] - 1 - value",
        "out[..., axis] = value if flip > 0 else self.shape_ijk[axis] - value", GEOMETRY,
    ),
    Mutation(
        "HD100 in place of HD95",
        "evaluation/metrics.py", "percentile=95,", "percentile=100,", METRICS,
    ),
    Mutation(
        "a missed target gets no distance, in place of the diagonal",
        "evaluation/metrics.py", "MaskMetrics(0.0, 0.0, diagonal_mm,", "MaskMetrics(0.0, 0.0, nan,", METRICS,
    ),
]  # fmt: skip


def spoiled(mutation: Mutation, root: Path = ROOT) -> str:
    """The text of the file with the mutation in it.

    Raises:
        ValueError: the place is not in the file exactly once.
    """
    text = (root / SOURCE / mutation.file).read_text(encoding="utf-8")
    if (found := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.file} has {mutation.old!r} {found} times, expected once: mend .ci/mutations.py")
    return text.replace(mutation.old, mutation.new)


def failures(copy: Path, tests: tuple[str, ...]) -> tuple[Counter[str], int]:
    """Failed tests by file below tests/, and how many ran.

    Raises:
        RuntimeError: pytest came to no result.
    """
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--junitxml={report}",
         "-o", "junit_family=xunit1", *(f"tests/{each}" for each in tests)],
        cwd=copy, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if not report.exists() or run.returncode not in (0, 1):
        raise RuntimeError(f"pytest left with {run.returncode}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.find("skipped") is None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return Counter(case.get("file", "").removeprefix("tests/") for case in failed), len(cases)


def row(mutation: Mutation, failed: Counter[str], ran: int) -> str:
    """A line of the table in docs/testing.md."""
    named = ", ".join(f"`{name}` {number}" for name, number in sorted(failed.items())) or "**none**"
    return f"| {mutation.what} | `{mutation.file}` | {named} | {ran} |"


def main(words: list[str]) -> int:
    chosen = [each for each in MUTATIONS if not words or any(re.search(word, each.file) for word in words)]
    try:
        texts = [spoiled(each) for each in chosen]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        before, _ = failures(copy, tuple(dict.fromkeys(test for each in chosen for test in each.tests)))
        if before:
            print(f"these tests fail as it is: {', '.join(before)}", file=sys.stderr)
            return 1
        print("| spoiled | file | tests that fail | of |\n|---|---|---|---|", flush=True)
        for mutation, text in zip(chosen, texts, strict=True):
            file = copy / SOURCE / mutation.file
            sound = file.read_text(encoding="utf-8")
            file.write_text(text, encoding="utf-8")
            failed, ran = failures(copy, mutation.tests)
            file.write_text(sound, encoding="utf-8")
            survived += not failed
            print(row(mutation, failed, ran), flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} noticed", flush=True)
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
