"""A session of interactive segmentation as a JSON file: what was asked of which model, from which masks follow again.

A mask is a function of what stands here: the prompts that were carried through the volume give it, and the slices
whose prompts have changed since are decoded anew, each correcting what was carried there (`session_masks.py`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam_adapter.errors import DataError
from medsam_adapter.prompts.types import ObjectPrompt
from medsam_adapter.writing import write_text

FORMAT = "medsam-adapter session 1"


@dataclass
class Carried:
    """Prompts whose mask was carried through the volume.

    Attributes:
        prompt: as it was then, in the file frame.
        rounds: after how many steps along the slices a person stopped it; None if it went to its end.
        before: what had been carried then, and was corrected; None the first time.
    """

    prompt: ObjectPrompt
    rounds: int | None = None
    before: Carried | None = None


@dataclass
class SessionObject:
    """One object.

    Attributes:
        name, colour: as shown; the colour is "#rrggbb".
        prompt: clicks, boxes and sentence, in the file frame.
        carried: None if only the prompted slices have a mask.
        intensity, window_hu: what a model without an intensity of its own sees (data.intensity); None where the model
            has one.
    """

    name: str
    colour: str
    prompt: ObjectPrompt = field(default_factory=ObjectPrompt)
    carried: Carried | None = None
    intensity: str | None = None
    window_hu: tuple[float, float] | None = None

    @property
    def is_asked(self) -> bool:
        """Whether anything was said of it: a click, a box or a sentence."""
        return bool(self.prompt.points or self.prompt.boxes or self.prompt.text)


@dataclass
class Session:
    """What `session.json` holds.

    Attributes:
        scan_name, scan_sha256, shape_zyx: of the file, which itself is not kept here.
        model: run folder, Hub id or sam-tiny.
        adapter: a further adapter that answered; None for the model as it is.
        is_plain: the plain SAM answered, the model's own adapter left out.
        objects: the i-th is label i + 1 of the label map; where two overlap the later one lies on top.
        window: (low, high) of the picture on the screen, which the model may not have seen.
    """

    scan_name: str
    scan_sha256: str
    shape_zyx: tuple[int, int, int]
    model: str
    adapter: str | None = None
    is_plain: bool = False
    objects: list[SessionObject] = field(default_factory=list)
    window: tuple[float, float] | None = None

    def save(self, path: str | Path) -> Path:
        """Write the file.

        Raises:
            OutputError: a full disk, or a folder that cannot be written to. What was there before is as it was.
        """
        path = Path(path)
        write_text(path, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Session:
        """Read a session.json.

        Raises:
            DataError: no such file, or not one of ours.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            depth, height, width = (int(size) for size in content["shape_zyx"])
            return cls(
                str(content["scan_name"]),
                str(content["scan_sha256"]),
                (depth, height, width),
                str(content["model"]),
                None if content.get("adapter") is None else str(content["adapter"]),
                bool(content.get("is_plain")),
                [_object(each) for each in content["objects"]],
                _pair(content.get("window")),
            )
        except OSError as error:
            raise DataError(
                "there is no session here", file=path, found=error.strerror, hint="save one in `msa demo`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                "is no session", file=path, expected=f"the JSON file that `msa demo` saves ({FORMAT})",
                found=repr(error).splitlines()[0][:200],
            ) from error  # fmt: skip


def _object(content: dict[str, Any]) -> SessionObject:
    return SessionObject(
        str(content["name"]),
        str(content["colour"]),
        ObjectPrompt.from_json(content["prompt"]),
        _carried(content.get("carried")),
        content.get("intensity"),
        _pair(content.get("window_hu")),
    )


def _carried(content: dict[str, Any] | None) -> Carried | None:
    if content is None:
        return None
    rounds = content.get("rounds")
    prompt = ObjectPrompt.from_json(content["prompt"])
    return Carried(prompt, None if rounds is None else int(rounds), _carried(content.get("before")))


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = values
    return float(low), float(high)
