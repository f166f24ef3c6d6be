"""What transformers, PEFT and safetensors raise for a broken model folder, told as a CheckpointError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from medsam_adapter.errors import CheckpointError, MSAError

READ_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError, OverflowError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip
"""RuntimeError stands for too deep nesting and for tensors of other shapes too."""


@contextmanager
def damage_told(name: str | Path, what: str, expected: str) -> Iterator[None]:
    """Makes a CheckpointError of an error in reading a folder or Hub repo.

    What is raised for a folder without the file, and an OSError of a Hub id, such as no network or no such repo, stay
    as they are: transformers says what to do.

    Args:
        name: the folder or Hub id.
        what: the file that is read, such as "config.json".
        expected: what should stand in it.
    """
    try:
        yield
    except MSAError:
        raise
    except (OSError, *READ_ERRORS) as error:
        is_folder = Path(name).is_dir()
        if isinstance(error, OSError) and not is_folder or is_folder and not list(Path(name).rglob(what)):
            raise
        raise unreadable(name, what, expected, error) from error


def unreadable(name: str | Path, what: str, expected: str, error: Exception) -> CheckpointError:
    """The error of a file of a model that cannot be read; arguments as `damage_told`."""
    lines = str(error).strip().splitlines()
    return CheckpointError(
        f"its {what} cannot be read",
        file=name,
        expected=expected,
        found=f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}",
        hint="copy or download the folder again",
    )
