"""How results reach the disk: as plain JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MSAError


def to_json(content: dict[str, Any]) -> str:
    """JSON text; numpy, paths and tuples become what JSON has, nan becomes null.

    Raises:
        MSAError: a value that JSON cannot hold.
    """
    return json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """The value with numpy, paths and tuples as JSON has them; nan becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise MSAError(
        "results hold something that JSON cannot",
        expected="numbers, text, lists, dicts, numpy arrays, paths",
        found=type(value).__name__,
    )
