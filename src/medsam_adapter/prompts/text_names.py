"""Names in sentences: which occur, which sentences count as equal, and which are too long."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_WORDS, MAX_CJK = 40, 60

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
IS_CJK = re.compile(f"[{CJK}]")
# A letter, digit or underscore that is no CJK character: "分割liver区域" has "liver" as a word.
LETTER = rf"[^\W{CJK}]"


class Finder:
    """Finds names in sentences: `finder(sentence)` is the set of those that occur.

    Whole words in any case for names in Latin script, anywhere in the text for names with CJK characters. Where a name
    lies inside a longer one, the longer counts: "gall bladder" is no "bladder". A name behind "non-" is not that name.
    """

    def __init__(self, names: Iterable[str]):
        self.name_of = {plain_name(name): name for name in names}
        # A search takes the first alternative that fits at the leftmost place.
        longest_first = sorted(self.name_of, key=len, reverse=True)
        latin, cjk = ([n for n in longest_first if bool(IS_CJK.search(n)) == is_cjk] for is_cjk in (False, True))
        words = rf"(?<!{LETTER})(?<!(?i:non-))(?i:{_any_of(latin)})(?!{LETTER})"
        self.pattern = re.compile(f"{words}|(?i:{_any_of(cjk)})")

    def __call__(self, sentence: str) -> set[str]:
        return {self.name_of[plain_name(match.group())] for match in self.pattern.finditer(sentence)}


def _any_of(names: list[str]) -> str:
    nothing = "(?!)"
    return "|".join(r"[\s_-]+".join(map(re.escape, name.split())) for name in names) or nothing


def plain_name(name: str) -> str:
    """Names that differ in case, "_", "-" and spaces are the same name."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold())).strip()


def sentence_key(sentence: str) -> str:
    """Sentences with the same key count as the same: letters and digits only, case folded."""
    return "".join(c for c in unicodedata.normalize("NFKC", sentence).casefold() if c.isalnum())


def too_long(sentence: str) -> str | None:
    """Says how long a sentence is if it is too long for CLIP's window of 77 tokens, None if it may fit."""
    num_words, num_cjk = len(sentence.split()), len(IS_CJK.findall(sentence))
    if num_cjk > MAX_CJK:
        return f"{num_cjk} Chinese characters, at most {MAX_CJK} are allowed"
    return f"{num_words} words, at most {MAX_WORDS} are allowed" if num_words > MAX_WORDS else None
