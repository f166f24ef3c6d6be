"""The Markdown pages of this repository: their code blocks, links, headings and words in backticks.

A block that a test cannot run stands under a comment that says why:

    <!-- not run: needs the Hub -->
    ```bash
    msa push outputs/mine --repo ORG/NAME
    ```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_FENCE = re.compile(r"^( *)(```+|~~~+) *([\w+-]*)[^\n]*\n(.*?)^\1\2 *$", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- *not run: *(.+?) *-->\s*$")
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of the fence, `reason` why it is not run (empty: it is)."""

    page: str
    line: int
    language: str
    text: str
    reason: str


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        found = []
        for match in _FENCE.finditer(self.text):
            above = self.text[: match.start()]
            reason = _NOT_RUN.search(above)
            indent = len(match[1])
            text = "".join(line[indent:] if line.strip() else line for line in match[4].splitlines(keepends=True))
            found.append(Block(self.name, above.count("\n") + 1, match[3], text, reason[1] if reason else ""))
        return found

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks and comments."""
        return re.sub(r"<!--.*?-->", "", _FENCE.sub("", self.text), flags=re.S)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    @property
    def code_words(self) -> list[str]:
        """What stands in backticks in the prose; a span may be broken over two lines."""
        return _CODE.findall(re.sub(r"(?<=[^\n|])\n(?=[^\n])", " ", self.prose))

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub and the site make them."""
        titles = re.findall(r"^#+ +(.+?) *#*$", self.prose, re.M)
        return {slug(title) for title in titles} | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", self.prose))


def slug(title: str) -> str:
    """The anchor of a heading: small letters, no punctuation, hyphens for spaces."""
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def pages() -> list[Page]:
    """Every page of the repository that people read."""
    files = [
        *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hub_configs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"), *ROOT.glob("demos/*.md"),
    ]  # fmt: skip
    return [Page(file) for file in sorted(files)]


def with_blocks() -> list[Page]:
    return [page for page in pages() if any(block.language in ("python", "bash", "console") for block in page.blocks)]
