"""Whether a file, by its header, unpacks to more than is allowed: to be asked before the file of a stranger is read.

What is counted, and the ceiling that the readers themselves keep, stand in `ceiling`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from ..errors import DataError
from .ceiling import ceiling_bytes, refuse_bytes, within_memory
from .kinds import ARRAY_SUFFIXES, META_SUFFIXES, PICTURE_SUFFIXES, has_suffix, is_dicom_file, is_nifti

_CHUNK_BYTES = 2**20


def refuse_larger_than(path: str | Path, max_bytes: int | None = None) -> None:
    """Refuses a file, or a folder of DICOM files, that would unpack to more than `max_bytes`; no voxel is kept.

    For files of strangers, before `read_scan`: beside what the header claims, the members of an .npz (a zip) are added
    up, and a .gz is unpacked piece by piece until it ends or passes the ceiling. A file that is damaged so that no
    size can be told passes here and is refused when it is read.

    Args:
        max_bytes: the ceiling, `ceiling_bytes()` if None.

    Raises:
        DataError: too large, or no such file.
    """
    path = Path(path)
    limit = ceiling_bytes() if max_bytes is None else max_bytes
    if path.is_dir():
        total = 0
        for entry in sorted(path.iterdir()):
            if entry.is_file():
                total += max(entry.stat().st_size, _claimed_bytes(entry, limit) if is_dicom_file(entry) else 0)
                refuse_bytes(path, total, limit)
        return
    if not path.is_file():
        raise DataError("does not exist", file=path, expected="a file or a folder", found="no such file")
    refuse_bytes(path, path.stat().st_size, limit)
    refuse_bytes(path, _claimed_bytes(path, limit), limit)
    if has_suffix(path, (".gz",)):
        refuse_bytes(path, _unpacked_bytes(path, limit), limit)


def _claimed_bytes(path: Path, limit: int) -> int:
    """What a file would unpack to by its header; 0 where that cannot be told."""
    if has_suffix(path, PICTURE_SUFFIXES):
        from .pictures import claimed_bytes
    elif is_nifti(path):
        from .nifti import claimed_bytes
    elif has_suffix(path, META_SUFFIXES):
        from .metaimage import claimed_bytes
    elif has_suffix(path, ARRAY_SUFFIXES):
        from .arrays import claimed_bytes
    elif is_dicom_file(path):
        from .dicom.series import claimed_bytes
    else:
        return path.stat().st_size
    with within_memory(path):
        return claimed_bytes(path, limit)


def _unpacked_bytes(path: Path, limit: int) -> int:
    """The length of a .gz, or some number above `limit`; what stands before damage counts."""
    count = 0
    try:
        with gzip.open(path) as stream:
            while count <= limit and (chunk := stream.read(_CHUNK_BYTES)):
                count += len(chunk)
    except (OSError, EOFError, zlib.error):
        pass
    return count
