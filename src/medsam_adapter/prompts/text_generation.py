"""Texts written by a language model: asking for them, sorting out what breaks the bank's rules, and saving the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..errors import DataError
from ..writing import naming_write_errors, replacing
from .text_bank import TargetTexts, TextBank, UnionTexts
from .text_chats import Chat, Messages, endpoint_chat, local_chat
from .text_files import SHIPPED, read_file
from .text_names import Finder, plain_name, sentence_key, too_long

__all__ = ["append_texts", "endpoint_chat", "generate_texts", "local_chat"]

MAX_ROUNDS = 4
SYSTEM = (
    "You write short texts with which a model learns to segment medical images. You know anatomy and radiology. "
    "You answer with the texts alone, one a line, without numbers, quotes, headings or comments."
)
KINDS = (
    "definitions, sentences out of reports, commands to segment or outline it, questions where it is, "
    "and short noun phrases of two to six words"
)


def generate_texts(
    target: str,
    names: Sequence[str],
    chat: Chat,
    count: int,
    *,
    bank: TextBank | None = None,
    region: str | None = None,
    max_rounds: int = MAX_ROUNDS,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Asks a language model for sentences about one target until `count` are accepted.

    Args:
        target: the target's name.
        names: synonyms; each sentence must contain the target's name or one of them.
        chat: messages -> answer, for example of `local_chat` or `endpoint_chat`.
        bank: sentences that are in it are rejected, and so are those that name another target of the same region.
        region: region of a target that the bank does not have.
        max_rounds: how often to ask at most.

    Returns:
        At most `count` accepted sentences, and the others as (sentence, reason).
    """
    bank = bank or TextBank({}, [])
    standard = bank.find(target) or target
    names = _unique([target, *names, *(bank.targets[standard].names if standard in bank.targets else ())])
    strangers = _strangers(bank, standard, region, names)
    seen = {key: "it is in the bank already" for key in map(sentence_key, _all_sentences(bank))}
    accepted: list[str] = []
    rejected: list[tuple[str, str]] = []
    for _ in range(max_rounds):
        if len(accepted) >= count:
            break
        for sentence in _lines(chat(_messages(target, names, count - len(accepted), accepted, rejected))):
            reason = seen.get(sentence_key(sentence)) or _why_not(sentence, names, strangers)
            if reason:
                rejected.append((sentence, reason))
            elif len(accepted) < count:
                accepted.append(sentence)
            seen.setdefault(sentence_key(sentence), "it was given before")
    return accepted, rejected


def append_texts(
    file: Path | str, target: str, names: Sequence[str], region: str | None, accepted: Sequence[str]
) -> Path:
    """Adds sentences to a bank file of one's own: two thirds train, one third held out.

    What the file holds stays, comments excepted. The new text is checked with all rules before it takes the file's
    place, so that a file that was good stays good.

    Args:
        target: a new target, or a name of one that the shipped bank or the file has.
        names: synonyms to add.
        region: may be None if the file exists or the bank knows the target.

    Raises:
        DataError: the sentences break a rule, there are too few of them, the file is of another region or broken, or
            it is one of those that come with the package.
    """
    file = Path(file)
    if file.resolve().parent == SHIPPED.resolve():
        raise DataError(
            "comes with the package and is not changed", file=file, expected="a file of your own", found="a shipped one"
        )
    bank = TextBank.load(file if file.exists() else None)
    target = bank.find(target) or target
    region = _region(file, region, bank, target)
    content = _content(file) or {"region": region, "targets": {}}
    # The file may write the name in another way than the shipped bank does.
    key = next((name for name in content["targets"] if plain_name(str(name)) == plain_name(target)), target)
    entry = content["targets"].setdefault(key, {})
    entry["names"] = _unique([key, *(entry.get("names") or []), *names])
    known = bank.targets.get(target)
    train, held_out = _split(list(accepted), _unique([*entry["names"], *(known.names if known else ())]), known)
    for part, sentences in (("train", train), ("held_out", held_out)):
        entry[part] = [*(entry.get(part) or []), *sentences]
    with naming_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as temporary:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
            temporary.write_text(text, encoding="utf-8")
            TextBank.load(temporary)
    except DataError as error:
        raise DataError(
            f"the texts are not added: {error.problem}",
            file=file,
            expected=error.expected,
            found=(error.found or "").replace(str(temporary), "these texts or the file"),
            hint=error.hint,
        ) from error
    return file


# -- asking ------------------------------------------------------------------------------------------------------------


def _messages(
    target: str, names: list[str], count: int, accepted: list[str], rejected: list[tuple[str, str]]
) -> Messages:
    lines = [
        f"Write {count} different texts about the {target}.",
        f"Mix {KINDS}.",
        f"Each must contain one of these names, letter by letter: {'; '.join(names)}.",
        "Name no other organ or structure. At most 25 words each. Vary wording and length.",
    ]
    if accepted:
        lines += ["Do not repeat or merely reword these:", *accepted[-20:]]
    if rejected:
        lines += ["These were of no use:", *(f"{sentence[:200]} ({reason})" for sentence, reason in rejected[-5:])]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join(lines)}]


def _lines(answer: str) -> list[str]:
    """The sentences of an answer, without what models put around them: thoughts, headings, numbers, quotes."""
    answer = re.sub(r"<think>.*?(</think>|\Z)", "", answer, flags=re.DOTALL)
    sentences = []
    for line in answer.splitlines():
        line = re.sub(r"^\s*(?:[-*•–]\s+|[(（]?\d+\s*[.):、）．](?!\d)\s*)+", "", line)
        line = " ".join(line.replace("**", "").strip(" \t\"'`“”‘’「」『』").split())
        if line and not line.startswith("#") and not line.endswith((":", "：")):
            sentences.append(line)
    return sentences


def _why_not(sentence: str, names: list[str], strangers: list[str]) -> str | None:
    found = Finder([*names, *strangers])(sentence)
    if not found & set(names):
        return "it does not name the target"
    if others := found & set(strangers):
        return f"it names another target: {', '.join(sorted(others))}"
    return f"it is too long: {length}" if (length := too_long(sentence)) else None


def _strangers(bank: TextBank, standard: str, region: str | None, names: list[str]) -> list[str]:
    """Names of the other targets and the unions of the region."""
    region = bank.targets[standard].region if standard in bank.targets else plain_name(region or "")
    others = {name: target for name, target in bank.targets.items() if target.region == region and name != standard}
    found = [name for target in others.values() for name in target.names]
    found += [name for union in bank.unions if set(union.targets) & set(others) for name in union.names]
    return [name for name in found if plain_name(name) not in map(plain_name, names)]


def _all_sentences(bank: TextBank) -> list[str]:
    every: list[TargetTexts | UnionTexts] = [*bank.targets.values(), *bank.unions]
    return [sentence for texts in every for sentence in texts.train + texts.held_out]


def _unique(names: Sequence[str]) -> list[str]:
    """Each name once, as it is written first."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(plain_name(name), name)
    return list(found.values())


# -- saving ------------------------------------------------------------------------------------------------------------


def _split(sentences: list[str], names: list[str], known: TargetTexts | None) -> tuple[list[str], list[str]]:
    """Every third sentence is held out, unless it has a name that no sentence to train on has."""
    finder = Finder(names)
    num_held_out = round(len(sentences) / 3) or int(len(sentences) > 1)
    chosen: set[int] = set()
    order = [*range(2, len(sentences), 3), *(i for i in reversed(range(len(sentences))) if i % 3 != 2)]
    for index in order:
        rest = [s for i, s in enumerate(sentences) if i != index and i not in chosen]
        trained = {name for s in [*rest, *(known.train if known else ())] for name in finder(s)}
        needed = {name for i in (*chosen, index) for name in finder(sentences[i])}
        if len(chosen) < num_held_out and needed <= trained:
            chosen.add(index)
    return (
        [sentence for i, sentence in enumerate(sentences) if i not in chosen],
        [sentence for i, sentence in enumerate(sentences) if i in chosen],
    )


def _region(file: Path, region: str | None, bank: TextBank, target: str) -> str:
    """The region the file has or is to have."""
    found = {
        "the file's region": read_file(file)[0][0].region if file.exists() else None,
        f"the region of the {target}": bank.targets[target].region if target in bank.targets else None,
        "the region asked for": plain_name(region) if region else None,
    }
    known = {where: name for where, name in found.items() if name}
    if len(set(known.values())) != 1:
        raise DataError(
            f"the {target} belongs to no region" if not known else "the regions differ, and a file has one region",
            file=file,
            expected="one region, such as abdomen",
            found=", ".join(f"{where}: {name}" for where, name in known.items()) or "none",
            hint="say its region" if not known else "write to another file",
        )
    return next(iter(known.values()))


def _content(file: Path) -> dict | None:
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
