"""The rules of the text bank.

A target's sentence is supervised by the target's mask and a union's sentence by the union of the masks of its targets,
so a sentence must name what its mask shows and nothing else of its region. What is held out must be new as a sentence,
but have no name that training never saw.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from ..errors import DataError
from .text_files import Entry, group, joined
from .text_names import MAX_CJK, MAX_WORDS, Finder, plain_name, sentence_key, too_long


def violations(targets: list[Entry], unions: list[Entry]) -> Iterator[DataError]:
    """Everything in which the entries of all files break the rules; each error names file, target and sentence."""
    entries = [*targets, *unions]
    yield from _regions(targets, unions)
    yield from _shared_names(entries)
    yield from _missing_parts(entries)
    yield from _long(entries)
    yield from _repeated(entries)
    for region in dict.fromkeys(entry.region for entry in entries):
        here = [entry for entry in entries if entry.region == region]
        yield from _wrongly_named(here)
        yield from _unseen_names(here)


def _regions(targets: list[Entry], unions: list[Entry]) -> Iterator[DataError]:
    region_of: dict[str, str] = {}
    for entry in targets:
        region = region_of.setdefault(entry.title, entry.region)
        if region != entry.region:
            yield DataError(
                f"{entry.title}: the target is in two regions", file=entry.file, expected=region, found=entry.region
            )
    for entry in unions:
        own = [name for name, region in region_of.items() if region == entry.region]
        for name in entry.owner:
            if name not in own:
                near = difflib.get_close_matches(name, own, 1, 0.4)
                yield DataError(
                    f"{entry.title}: the union has an unknown target",
                    file=entry.file,
                    expected=f"standard names of targets of the region {entry.region}",
                    found=name,
                    hint=f"did you mean {near[0]}?" if near else "define the target, or remove the union",
                )


def _shared_names(entries: list[Entry]) -> Iterator[DataError]:
    owner_of: dict[str, Entry] = {}
    for entry in entries:
        for name in entry.names:
            other = owner_of.setdefault(plain_name(name), entry)
            if set(other.owner) != set(entry.owner):
                yield DataError(
                    f"{entry.title}: the name {name!r} belongs to two targets",
                    file=entry.file,
                    expected="each name at one target of the whole bank",
                    found=f"it is a name of {other.title} already",
                    hint=f"to add sentences about the {other.title}, use that as the key",
                )


def _missing_parts(entries: list[Entry]) -> Iterator[DataError]:
    for same in group(entries):
        whole = joined(same)
        for part in ("train", "held_out"):
            if not getattr(whole, part):
                yield DataError(
                    f"{whole.title}: there is no {part} sentence",
                    file=same[-1].file,
                    expected="at least one train and one held_out sentence",
                    found=f"{len(whole.train)} train, {len(whole.held_out)} held_out",
                )


def _long(entries: list[Entry]) -> Iterator[DataError]:
    for entry in entries:
        for sentence in entry.sentences:
            if length := too_long(sentence):
                yield DataError(
                    f"{entry.title}: a sentence is too long: {sentence!r}",
                    file=entry.file,
                    expected=f"at most {MAX_WORDS} words and {MAX_CJK} Chinese characters, for CLIP reads 77 tokens",
                    found=length,
                )


def _repeated(entries: list[Entry]) -> Iterator[DataError]:
    seen: dict[str, Entry] = {}
    for entry in entries:
        for sentence in entry.sentences:
            other = seen.get(sentence_key(sentence))
            if other:
                yield DataError(
                    f"{entry.title}: a sentence stands twice in the bank: {sentence!r}",
                    file=entry.file,
                    expected="each sentence once; case, spaces and punctuation make no difference",
                    found=f"it stands at {other.title} in {other.file} already",
                )
            seen[sentence_key(sentence)] = other or entry


def _wrongly_named(entries: list[Entry]) -> Iterator[DataError]:
    """Sentences that do not name what their mask shows, or name something else of the region."""
    owner_of = {name: frozenset(entry.owner) for entry in entries for name in entry.names}
    finder = Finder(owner_of)
    for entry in entries:
        whole = frozenset(entry.owner)
        for sentence in entry.sentences:
            found = {owner_of[name] for name in finder(sentence)}
            missing = [name for name in entry.owner if frozenset([name]) not in found]
            if missing and whole not in found:
                wanted = [name for name, owner in owner_of.items() if owner in ({missing[0]}, whole)]
                yield DataError(
                    f"{entry.title}: a sentence does not name the {missing[0]}: {sentence!r}",
                    file=entry.file,
                    expected=f"one of its names: {', '.join(wanted)}",
                    found=_listed(found) or "no name",
                )
            strangers = {owner for owner in found if not owner <= whole}
            if strangers:
                yield DataError(
                    f"{entry.title}: a sentence names another target: {sentence!r}",
                    file=entry.file,
                    expected=f"{entry.title} alone, for the mask shows nothing else",
                    found=_listed(strangers),
                    hint="change the sentence, or make it one of a union",
                )


def _unseen_names(entries: list[Entry]) -> Iterator[DataError]:
    """Held-out names that training never saw. A union's names may have been seen with its targets."""
    finder = Finder(name for entry in entries for name in entry.names)
    for same in group(entries):
        own = set(same[0].owner)
        seen = {n for entry in entries if set(entry.owner) <= own for s in entry.train for n in finder(s)}
        for entry in same:
            for sentence in entry.held_out:
                for name in sorted(finder(sentence) - seen):
                    yield DataError(
                        f"{entry.title}: a held_out sentence has a name that training never sees: {sentence!r}",
                        file=entry.file,
                        expected="each name of the held_out sentences in a train sentence too",
                        found=name,
                        hint=f"write a train sentence with {name!r}, or use another name",
                    )


def _listed(owners: Iterable[frozenset[str]]) -> str:
    return ", ".join(sorted(" + ".join(sorted(owner)) for owner in owners))
