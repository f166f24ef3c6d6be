"""What a broken file is, and the ways of breaking any file whose kind does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FAIL, SAME, VALID, WHOLE = "fail", "same", "valid", "whole"


@dataclass(frozen=True)
class BrokenFile:
    """One input that a reader must come to an end with.

    Attributes:
        path: the file, or the folder for what is read as one.
        kind: which reader; see `tests/integration/test_fuzz.py`.
        what: how it is broken.
        rule: what is allowed beside a typed error. FAIL: nothing. SAME: what the whole file `original` gives, equal in
            every voxel and number (a file that lost only what nobody needs). VALID: a result that is what it should
            be, such as a scan of finite numbers with the shape of its header: a flipped byte may be one voxel. WHOLE:
            the file is not broken and must be read, which shows that its copies fail for what they are.
        original: the whole file, for SAME.
    """

    path: Path
    kind: str
    what: str
    rule: str
    original: Path | None = None


def damaged(
    data: bytes, rng: np.random.Generator, *, header: int, cuts: int, flips: int
) -> Iterator[tuple[str, bytes, str]]:
    """(what, bytes, rule) of copies that are cut off, have a byte flipped, or pieces blanked, lost or put in.

    Args:
        header: so many first bytes take three quarters of the flips.
    """
    for at in sorted({*np.linspace(0, len(data) - 1, cuts).astype(int).tolist(), 1, 3, len(data) - 1}):
        yield f"cut at {at} of {len(data)}", data[:at], SAME
    header = min(header, len(data))
    for number in range(flips):
        at = int(rng.integers(header if number % 4 else len(data)))
        value = data[at] ^ int(rng.integers(1, 256))
        yield f"byte {at} is {value} and not {data[at]}", data[:at] + bytes([value]) + data[at + 1 :], VALID
    for _ in range(max(2, flips // 8)):
        at, length = int(rng.integers(header)), int(rng.integers(1, 24))
        yield (
            f"{length} bytes at {at} are 0",
            data[:at] + bytes(len(data[at : at + length])) + data[at + length :],
            VALID,
        )
        yield f"{length} bytes at {at} are 255", data[:at] + b"\xff" * length + data[at + length :], VALID
        yield f"{length} bytes at {at} are lost", data[:at] + data[at + length :], VALID
        yield f"{length} random bytes at {at}", data[:at] + rng.bytes(length) + data[at:], VALID


class Writer:
    """Puts broken files into folders of their own, as some have neighbours, and keeps the list."""

    def __init__(self, root: Path, kind: str):
        self.root, self.kind, self.placed = root / kind, kind, 0
        self.made: list[BrokenFile] = []

    def place(self, name: str) -> Path:
        """A new path of this name."""
        self.placed += 1
        path = self.root / str(self.placed) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, path: Path, what: str, rule: str = FAIL, original: Path | None = None) -> None:
        self.made.append(BrokenFile(path, self.kind, what, rule, original))

    def put(self, name: str, content: bytes | str, what: str, rule: str = FAIL, original: Path | None = None) -> Path:
        path = self.place(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.add(path, what, rule, original)
        return path

    def damage(self, original: Path, rng: np.random.Generator, *, header: int, cuts: int = 12, flips: int = 40) -> None:
        self.add(original, "whole", WHOLE)
        for what, content, rule in damaged(original.read_bytes(), rng, header=header, cuts=cuts, flips=flips):
            self.put(original.name, content, what, rule, original)
