"""Training and scoring the methods one after the other, each in a process of its own.

A process each, so that a method that fails, even for want of memory, does not stop the others, and so that its peak
memory is its own. A method that is done is not done again; one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsam_adapter.comparison.contestants import CONTESTANTS, UNPROMPTED, ZERO_SHOT
from medsam_adapter.comparison.key import run_key
from medsam_adapter.training.checkpoint import has_checkpoint
from medsam_adapter.writing import write_text

OUTCOME = "outcome.json"


@dataclass
class Outcome:
    """How one method fared.

    Attributes:
        key: a hash of all that made it (`run_key`); another recipe, budget, split or state of the data makes another.
        failed: why it failed, "" if it did not.
        minutes: of training, reading and planning included, over all attempts that went on from each other.
        peak_mb: largest resident memory of the training process.
        trained_parameters: their number.
        results: folders of results, by kind of prompts. In the file they are names of folders beside it.
    """

    key: str
    failed: str = ""
    minutes: float = 0.0
    peak_mb: float = 0.0
    trained_parameters: int = 0
    results: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        names = {prompts: Path(place).name for prompts, place in self.results.items()}
        write_text(folder / OUTCOME, json.dumps(asdict(self) | {"results": names}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """None where there is none that can be read."""
        try:
            outcome = cls(**json.loads((folder / OUTCOME).read_bytes()))
            # Earlier versions wrote the whole way, from the folder that was the current one.
            outcome.results = {prompts: str(folder / Path(place).name) for prompts, place in outcome.results.items()}
            return outcome
        except (OSError, ValueError, TypeError, AttributeError):
            return None


def run_method(
    name: str,
    recipe: Path,
    overrides: Mapping[str, Any],
    evaluation: list[str],
    base: str,
    output: Path,
    say: Callable[[str], None],
    state: str = "",
) -> Outcome:
    """Train one method and score it; nothing where that is done already.

    Args:
        recipe: a file with every value of the recipe.
        overrides: {key: value} for all methods; the method's own come on top.
        evaluation: words of `msa evaluate` behind the model.
        base: what SAM as it is stands for.
        say: told what is being done.
        state: of the data and their split (`data_state`); in another one, all is done again.
    """
    method, folder = CONTESTANTS[name], output / name
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {**overrides, **method.overrides}
    words = _training_words(recipe, overrides, folder / "run")
    key = run_key(recipe, overrides, evaluation, base, method.prompts, state)
    found = Outcome.load(folder)
    if found and found.key == key and not found.failed:
        say(f"{name}: done before, in {found.minutes:.1f} min")
        return found
    outcome, model = Outcome(key), base
    if method.group != ZERO_SHOT:
        say(f"{name}: training")
        model = str(folder / "run")
        is_resumed = (folder / "key").is_file() and (folder / "key").read_text(encoding="utf-8") == key
        is_resumed = is_resumed and has_checkpoint(folder / "run")
        write_text(folder / "key", key)
        earlier = found if found and is_resumed else outcome
        spent_minutes, peak_mb, began = earlier.minutes, earlier.peak_mb, time.perf_counter()
        outcome.failed = "interrupted"  # what is on record if this process is stopped as well
        try:
            words += ["--resume" if is_resumed else "--overwrite"]
            outcome.failed, outcome.peak_mb = _run(words, folder / "train.log")
        finally:
            outcome.minutes = spent_minutes + (time.perf_counter() - began) / 60
            outcome.peak_mb = max(peak_mb, outcome.peak_mb)
            outcome.save(folder)
        if not outcome.failed:
            outcome.trained_parameters = json.loads((folder / "run" / "best.json").read_bytes())["trained_parameters"]
    for prompts in () if outcome.failed else method.prompts:
        say(f"{name}: scoring" + ("" if method.group == UNPROMPTED else f", {prompts}"))
        results = folder / prompts
        words = ["evaluate", model, "--prompts", prompts, "--output", str(results), *evaluation]
        outcome.failed, _ = _run(words, folder / f"evaluate_{prompts}.log")
        if outcome.failed:
            break
        outcome.results[prompts] = str(results)
    outcome.save(folder)
    return outcome


def _training_words(recipe: Path, overrides: Mapping[str, Any], run: Path) -> list[str]:
    # A value that replaces a whole section comes before single keys of it.
    pairs = sorted(overrides.items(), key=lambda pair: pair[0].count("."))
    words = [(f"--{key}", value if isinstance(value, str) else json.dumps(value)) for key, value in pairs]
    values = [word for pair in words for word in pair]
    return ["train", str(recipe), *values, "--run.output", str(run), "--run.tracker", "none"]


def _run(words: list[str], log: Path) -> tuple[str, float]:
    """Why `msa WORDS` failed, "" if it did not, and its peak memory in MB. What it prints goes to the log."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "medsam_adapter.cli.main", *words], stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    peak_mb = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return ("" if process.returncode == 0 else _reason(process.returncode, log)), peak_mb


def _reason(code: int, log: Path) -> str:
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"exit code {code}, see {log}"
