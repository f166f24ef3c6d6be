"""Names of backbones and text models: Hub ids, folders, and the small ones that ship with the package."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = {"sam-tiny": Path(__file__).parent / "assets" / "sam-tiny"}
"""Backbones inside the package, small enough to ship; trained on synthetic scenes only (see hub_configs/sam-tiny)."""

EMBEDDED_TEXT_MODELS = {"clip-tiny": Path(__file__).parent / "assets" / "clip-tiny"}
"""Text models inside the package; clip-tiny knows the words of the bank of texts only (see hub_configs/clip-tiny)."""


def resolve_text_model(name: str) -> str:
    """What transformers opens for a text model: a shipped one's folder, else the name as it is."""
    return str(EMBEDDED_TEXT_MODELS.get(name, name))


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
