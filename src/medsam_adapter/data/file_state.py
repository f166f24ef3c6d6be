"""What tells a file that was changed from what it was, without reading it."""

from __future__ import annotations

from pathlib import Path


def file_state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change (ns) of a file, or of each file of a DICOM series; [] of what is not there."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    except OSError:
        return []
