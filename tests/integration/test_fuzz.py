"""Every reader comes to an end with every broken file: a typed error, or a result that is right, in 5 s and 1 GiB."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from broken_files import GROUPS, WHOLE, BrokenFile, write

SECONDS = 5
MAX_BYTES = 512 * 2**20  # the ceiling of the readers here: reading may take twice that
SEED = 2026
# So many are made at least; a maker that makes less is no longer what it was.
FEWEST = {"volumes": 1400, "pictures": 600, "dicom": 600, "texts": 800, "models": 600}
_TESTS = Path(__file__).parents[1]


def read_all(inputs: list[BrokenFile], folder: Path, trace: Path) -> list[tuple[BrokenFile, dict]]:
    """What became of each, by workers that are started again where one hangs or crashes."""
    list_file = folder / "inputs.json"
    list_file.write_text(
        json.dumps([{"path": str(i.path), "kind": i.kind, "rule": i.rule, "original": str(i.original)} for i in inputs])
    )
    ends: dict[int, dict] = {}
    while len(ends) < len(inputs):
        first = len(ends)
        ends |= _one_worker(list_file, first, trace)
        if len(ends) == first:
            raise AssertionError(f"the worker does not start:\n{(folder / 'stderr.txt').read_text()[-2000:]}")
    return [(each, ends[number]) for number, each in enumerate(inputs)]


def _one_worker(list_file: Path, first: int, trace: Path) -> dict[int, dict]:
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path]), "MSA_MAX_BYTES": str(MAX_BYTES),
        "MSA_FUZZ_TRACE": str(trace), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "critical", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    with (list_file.parent / "stderr.txt").open("w") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "broken_files.worker", str(list_file), str(first)],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in worker.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=listen, daemon=True).start()
    ends: dict[int, dict] = {}
    running, wait = None, 120.0  # for the imports
    try:
        while True:
            line = lines.get(timeout=wait)
            wait = 4 * SECONDS  # the worker measures; this is for one that never comes back
            if line.startswith("start "):
                running = int(line.split()[1])
            elif line.startswith("end "):
                _, number, content = line.split(" ", 2)
                ends[int(number)], running = json.loads(content), None
            elif not line:
                worker.wait(10)
                if running is not None:
                    ends[running] = {"outcome": "crash", "text": f"exit code {worker.returncode}", "seconds": 0}
                return ends
    except queue.Empty:
        if running is not None:
            ends[running] = {"outcome": "hang", "text": "", "seconds": wait}
        return ends
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_broken_files_end_in_an_error_or_a_right_result(group, tmp_path, record_property):
    trace = tmp_path / "trace of a pickle that was run"
    results = read_all(write(tmp_path / "files", SEED, group), tmp_path, trace)
    broken = [(each, end) for each, end in results if each.rule != WHOLE]
    counts = Counter(end["outcome"] for _, end in broken)
    record_property("broken files", (group, dict(counts)))  # for the summary, see tests/conftest.py
    faults = [
        f"{each.kind}, {each.what} ({each.rule}): {end['outcome']}, {end['seconds']:.1f} s\n  {end['text']}"
        for each, end in results
        if end["outcome"] not in ("error", "ok") or end["seconds"] > SECONDS
    ]
    assert not faults, f"{len(faults)} of {len(results)}:\n" + "\n".join(faults)
    assert not trace.exists(), "a pickle was run"
    assert len(broken) >= FEWEST[group] and counts["error"] > len(broken) / 2
    kinds = {each.kind for each, _ in results}
    assert kinds == {each.kind for each, _ in results if each.rule == WHOLE}, "each kind has a file that is not broken"
