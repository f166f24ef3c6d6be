"""The errors a user can meet, in one small family.

Every error says what was wrong and, where it is known, in which file, what was expected, what was found and what to do
next. The command line shows the text without a traceback; it leaves with exit code 2 for `MSAInputError` (the user can
mend it) and 1 for everything else.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from pathlib import Path


class MSAError(Exception):
    """Base of all errors that this library raises on purpose; `exit_code` is what the command line leaves with.

    Args:
        problem: one sentence, what is wrong.
        file: the file or folder it was found in.
        expected: what should have been there.
        found: what was there instead.
        hint: what the user can do next.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ):
        self.problem, self.file, self.expected, self.found, self.hint = problem, file, expected, found, hint
        super().__init__(str(self))

    def __reduce__(self):
        """As it is, from process to process: whatever `__init__` of a class asks for, it is not asked again."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.problem}" if self.file else self.problem]
        lines += [
            f"  {name}: {text}"
            for name, text in (("expected", self.expected), ("found", self.found), ("next", self.hint))
            if text
        ]
        return "\n".join(lines)


class MSAInputError(MSAError, ValueError):
    """Something the user gave is wrong and the user can mend it (exit code 2)."""

    exit_code = 2


class DataError(MSAInputError):
    """A data file or data set is not what it should be."""


class PromptError(MSAInputError):
    """A point, box or mask prompt does not fit the image."""


class RecipeError(MSAInputError):
    """A recipe or a command line override has an unknown key or an impossible value."""


class CheckpointError(MSAInputError):
    """A model folder or Hub repo is not what it should be, or does not fit the base."""


class OutputError(MSAInputError):
    """A file cannot be written: the disk is full, the folder read-only, or another file would be lost."""


class Interrupted(MSAError):
    """A signal ended a run, which is saved and can go on.

    Args:
        signal_number: of the signal; the process leaves with 128 more, as a shell would say it: 130 for SIGINT, 143 for
            SIGTERM.
        texts: as those of `MSAError`.
    """

    def __init__(self, problem: str, *, signal_number: int, **texts):
        super().__init__(problem, **texts)
        self.exit_code = 128 + signal_number


class MergeNotSupportedError(MSAError, NotImplementedError):
    """MSA adapters have a non-linearity between their two projections, so no weight matrix equals base + adapter."""


def did_you_mean(word: object, known: Iterable[str], otherwise: str | None = None, where: str = "") -> str | None:
    """A hint for a mistyped word: the name that it is nearest to.

    Args:
        otherwise: the hint where no name is near.
        where: put before the name, such as the section of a key.
    """
    near = difflib.get_close_matches(str(word), [str(name) for name in known], 1, 0.4)
    return f"did you mean {where}{near[0]}?" if near else otherwise


def near_path(path: str | Path, pattern: str, otherwise: str) -> str:
    """A hint for a path that is not there: one like it among the folders beside it that hold a file.

    Args:
        pattern: of the file, such as "recipe.yaml".
    """
    path = Path(path)
    parent = path.parent if path.parent.is_dir() else path.parent.parent
    names = [str(found.parent) for found in sorted(parent.glob(f"*/{pattern}"))[:500]] if parent.is_dir() else []
    return did_you_mean(path, names, otherwise) or otherwise


def no_text_prompts() -> PromptError:
    """The error of a model that takes no texts."""
    return PromptError(
        "this model takes no text prompts",
        expected="an adapter trained with them (use_text)",
        found="none that is active",
        hint="prompt with points or boxes, or train with prompts.text above 0",
    )
