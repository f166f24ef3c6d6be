"""What tells a file that was changed from what it was, without reading it."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from .kinds import has_suffix
from .metaimage import voxel_files


def file_state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change (ns) of a file, of each file of a DICOM series, or of a header and its voxels.

    [] of what is not there.
    """
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path, *_voxel_files(path)]
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    except OSError:
        return []


def _voxel_files(path: Path) -> list[Path]:
    try:
        return voxel_files(path) if has_suffix(path, (".mhd", ".nhdr")) else []
    except DataError:  # whoever reads the scan says so
        return []
