"""Names of SAM backbones: Hub ids, folders, and the one that ships with the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = {"sam-tiny": Path(__file__).parent / "assets" / "sam-tiny"}
"""Backbones inside the package, small enough to ship; trained on synthetic scenes only (see hub_configs/sam-tiny)."""


def resolve_base(name: str | Path) -> str:
    """What `from_pretrained` opens for a base: a shipped backbone's folder, else the name as it is."""
    return str(EMBEDDED.get(str(name), name))


def base_name(path: str | Path) -> str:
    """The name under which an adapter remembers its base: a shipped backbone by name, to open on any machine."""
    resolved = Path(path).resolve()
    for name, folder in EMBEDDED.items():
        if resolved == folder.resolve():
            return name
    return str(path)
