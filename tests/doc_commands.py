"""The shell commands of the documentation: cut into words, checked without running, or made small and run.

What the tests change in a command before they run it: `msa train` gets one epoch of one case at 64 px, `msa pretrain
ssl` two steps of two pictures, `msa evaluate` one case, `msa data phantom` four cases. All else stays as written.
"""

from __future__ import annotations

import re
import shlex
from configparser import ConfigParser
from dataclasses import dataclass

from doc_pages import ROOT, Block
from medsam_adapter.cli.main import app

SMALL_TRAINING = {
    "model.image_size": 64, "optim.epochs": 1, "optim.minutes": "null", "optim.batch_size": 1,
    "data.samples_per_case": 1, "data.max_train_cases": 1, "data.max_val_cases": 1, "data.workers": 0,
    "run.validate_every": 1, "run.checkpoint_every": 1,
}  # fmt: skip
SMALL_SSL = {
    "image_size": 64, "steps": 2, "batch_size": 2, "workers": 0, "mixed_precision": "no", "decoder_depth": 1,
    "log_every": 1, "check_every": 0,
}  # fmt: skip
EXAMPLE_RECIPE = ROOT / "hub_configs/msa-hippocampus/recipe.yaml"


@dataclass(frozen=True)
class Command:
    """One command of a block; `words` without environment and comment."""

    page: str
    line: int
    words: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"

    @property
    def is_msa(self) -> bool:
        return self.words[0] == "msa"


def commands(block: Block) -> list[Command]:
    """The commands of a bash block, or those behind `$ ` of a console block, whose other lines are output."""
    found, text = [], block.text
    if block.language == "console":
        text = "\n".join(line[2:] if line.startswith("$ ") else "" for line in text.splitlines())
    number, kept = block.line, ""
    for line in text.splitlines():
        number += 1
        kept += line
        if kept.endswith("\\"):
            kept = kept[:-1] + " "
            continue
        line, kept = kept, ""
        if block.reason and not re.match(r"(\w+=\S+ +)*(msa|accelerate launch|srun|torchrun) ", line.strip()):
            continue  # of a script that is not run only what calls this package can be checked
        words = shlex.split(line.replace("$(", "_("), comments=True)
        while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
            words.pop(0)  # environment
        for word in ("&&", "|", ">", ">>", "&", ";"):
            words = words[: words.index(word)] if word in words else words
        if words:
            found.append(Command(block.page, number, tuple(words), block.reason))
    return found


def check(command: Command) -> None:
    """Raises if a command could not run whatever the data: unknown options, recipe keys, targets, modules, extras."""
    words = list(command.words)
    for option, value in zip(words, words[1:], strict=False):
        assert option != "--config_file" or (ROOT / value).is_file(), f"there is no {value}"
    if "msa" in words[:6] and words[0] in ("srun", "accelerate"):
        words = words[words.index("msa") :]
    match words:
        case ["msa", *rest]:
            _check_msa(rest)
        case ["accelerate", "launch", *rest] if "medsam_adapter.cli.main" in rest:
            _check_msa(rest[rest.index("medsam_adapter.cli.main") + 1 :])
        case ["accelerate", "launch", *rest] | ["srun", *rest]:
            assert "train.py" in rest and (ROOT / "train.py").is_file()
            _check_msa(["train", *rest[rest.index("train.py") + 1 :]])
        case ["make", *rest]:
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert all(word in targets for word in rest if "=" not in word), rest
        case ["python", "-m", module, *rest] if module.startswith("benchmarks."):
            text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
            missing = [word for word in rest if word.startswith("--") and word != "--help" and f'"{word}"' not in text]
            assert not missing, missing
        case ["pip", "install", *rest]:
            for extra in re.findall(r"(?:medsam-adapter|\.)\[([\w,-]+)\]", " ".join(rest)):
                setup = ConfigParser()
                setup.read(ROOT / "setup.cfg")
                assert set(extra.split(",")) <= set(setup["options.extras_require"]), extra
        case ["git", "clone", *_] | ["cd", _] | ["hf", "auth", "login"] | ["hf", "download", *_]:
            pass
        case _:
            raise AssertionError(f"the tests know no way to check {words[0]!r}")


def _check_msa(words: list[str]) -> None:
    """Parses as the program does, and recipes' values with a recipe that is there; calls no command."""
    import typer

    from medsam_adapter.pretraining.ssl_recipe import load_ssl_recipe
    from medsam_adapter.training.recipe import load_recipe

    if "--help" in words or "--version" in words:
        words = [word for word in words if word not in ("--help", "--version")]
        if not words:
            return
    command, name, rest = typer.main.get_command(app), "msa", words
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"no command {name} {rest[:1]}"
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    context = command.make_context(name, list(rest), resilient_parsing=False)
    if name in ("msa train", "msa compare"):
        load_recipe(EXAMPLE_RECIPE, context.args)
    elif name == "msa pretrain ssl":
        load_ssl_recipe(EXAMPLE_RECIPE.parents[1] / "ssl-tiny", context.args)
    else:
        assert not context.args, context.args


def small(words: list[str]) -> list[str]:
    """The words after `msa` of a command, made small as the head of this file says."""
    match words:
        case ["train", *_] if "--dry-run" not in words:
            return [*words, *(f"--{key}={value}" for key, value in SMALL_TRAINING.items())]
        case ["train", *_]:
            return [*words, "--model.image_size=64"]
        case ["pretrain", "ssl", *_]:
            return [*words, *(f"--{key}={value}" for key, value in SMALL_SSL.items())]
        case ["evaluate", *_] if not {"--max-cases", "--replay", "--compare"} & set(words):
            return [*words, "--max-cases", "1"]
        case ["data", "phantom", *_] if "--cases" not in words:
            return [*words, "--cases", "4"]
        case _:
            return words
