"""Locks of single bytes of a file (POSIX record locks): the death of their owner releases them.

The kernel, or over NFS the server, drops them when a process ends, however it ends. Two locks of one process do not
keep each other out, and closing the file a second time that was opened drops them: open it once.
"""

from __future__ import annotations

import errno
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # `has_locks` looks

_TAKEN = (errno.EACCES, errno.EAGAIN)


def has_locks() -> bool:
    """Whether the system has them; a file system may still have none."""
    return fcntl is not None


def try_lock(file: IO, byte: int = 0) -> bool:
    """Lock a byte of a file that is open for writing; False if another process has it.

    Raises:
        OSError: the system, or the file system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, "the system has no file locks")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def unlock(file: IO, byte: int = 0) -> None:
    """Give a byte back."""
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)
