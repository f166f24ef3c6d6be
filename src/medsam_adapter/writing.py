"""Writing files: each is there whole or not at all, and a full disk or a read-only folder is named as what it is."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from medsam_adapter.errors import OutputError

MEGABYTE = 1024**2


@contextlib.contextmanager
def naming_write_errors(path: Path, hint: str | None = None) -> Iterator[None]:
    """What fails inside when files are written, as an `OutputError` that names the place and the reason.

    Args:
        path: the file or folder that is written.
        hint: what to do next where the disk is full, in place of the plain advice.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _named(_as_os_error(error), Path(path), hint) from error


def write_text(file: Path, text: str) -> None:
    """Write a small file of text in one step; errors as `replacing`."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The name under which a file is written first, before it takes its place. Who reads meanwhile sees the old one.

    Raises:
        OutputError: a full disk, or a folder that cannot be written to. What was there before is as it was.
    """
    temporary = partial_name(file)
    with naming_write_errors(file):
        try:
            yield temporary
            temporary.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def partial_name(path: Path) -> Path:
    """A name beside a file or folder for what is not whole yet: hidden, with its suffix, and nobody else's.

    Drawn by chance, since several processes may write the same file, and in containers and on other machines their
    numbers are often the same. Killed processes leave such names: `.*-partial-NAME`.
    """
    return path.with_name(f".{secrets.token_hex(4)}-partial-{path.name}")


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """safetensors gives the number of the system's error in its text only: "... (os error 28)"."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


def _named(error: OSError, path: Path, hint: str | None) -> OutputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            "cannot be written: the disk is full", file=path, expected="room for it",
            found=_room(path), hint=hint or "make room, then try again",
        )  # fmt: skip
    return OutputError(
        "cannot be written", file=path, expected="a folder that you may write to",
        found=error.strerror or str(error), hint="choose another folder, or ask for the right to write there",
    )  # fmt: skip


def _room(path: Path) -> str:
    there = next((each for each in (path, *path.parents) if each.exists()), Path("."))
    return f"{shutil.disk_usage(there).free / MEGABYTE:.1f} MB free"
