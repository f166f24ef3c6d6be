"""The bank of free texts: sentences that name a target, for training and evaluating text prompts.

The shipped sentences stand in `prompts/texts/*.yaml`; the form of a file is described in `text_files`, what its
sentences must be like in `text_rules`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .text_files import files_of_bank, group, joined, read_file
from .text_names import Finder, plain_name
from .text_rules import violations

# What label files of the bank's data sets say for a target, and others for something else: MONAI's BTCV, the Decathlon.
AMBIGUOUS = {"anterior", "eso", "gall", "lad", "mole", "posterior", "rad", "sto", "veins"}
# For labels that the bank does not know; {} is the label's name.
PLAIN_TRAIN = (
    "{}",
    "the {}",
    "Segment the {}.",
    "Where is the {}?",
    "Outline the {} in this image.",
    "a medical image showing the {}",
    "Please mark every pixel of the {}.",
    "The {} is visible here.",
)
PLAIN_HELD_OUT = (
    "Show me the {}.",
    "a scan of the {}",
    "Which part of the picture is the {}?",
    "Delineate the {} as exactly as possible.",
)


@dataclass(frozen=True)
class TargetTexts:
    """What the bank says about one target.

    Attributes:
        names: the standard name first, then synonyms.
        train: sentences to train on.
        held_out: sentences for evaluation only.
        region: body region, "" for a label that the bank does not know.
        data: public data sets that label the target.
    """

    names: tuple[str, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    region: str = ""
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnionTexts:
    """Sentences that name all of several targets; `names` are words for the group, such as "both kidneys"."""

    targets: tuple[str, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    names: tuple[str, ...] = ()


class AbsentTexts(NamedTuple):
    """Sentences about what is surely not in the images: their mask is empty."""

    train: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()


@dataclass
class LabelTexts:
    """What one data set can be told.

    Attributes:
        targets: {the data set's own label name: its texts}.
        unions: their `targets` are the data set's own label names.
        absent: sentences about targets of regions in which no label lies.
        notes: one sentence for each label that has only plain templates, or a short name that could mean another thing.
    """

    targets: dict[str, TargetTexts] = field(default_factory=dict)
    unions: list[UnionTexts] = field(default_factory=list)
    absent: AbsentTexts = AbsentTexts()
    notes: list[str] = field(default_factory=list)


@dataclass
class TextBank:
    """All targets by standard name, and the unions of them."""

    targets: dict[str, TargetTexts]
    unions: list[UnionTexts]

    @classmethod
    def load(cls, path: Path | str | None = None) -> TextBank:
        """The shipped bank and, in addition to it, a YAML file or a folder of them.

        A target that is defined twice has the names and sentences of both; so has a union.

        Raises:
            DataError: a file cannot be read or breaks a rule; the first finding.
        """
        bank, findings = _read(path)
        for first in findings:
            raise first
        return bank

    def find(self, label_name: str) -> str | None:
        """The standard name for a name or synonym; case, "_" and "-" do not matter. None where there is none."""
        wanted = plain_name(label_name)
        same = (n for n, target in self.targets.items() if wanted in (plain_name(name) for name in target.names))
        return next(same, None)

    def for_labels(self, label_names: Sequence[str]) -> LabelTexts:
        """The texts for the labels of a data set; a label that the bank does not know gets plain templates.

        A short name that means something else elsewhere ("LAD") counts where another label is of its target's region.
        """
        texts = LabelTexts()
        label_of: dict[str, str] = {}
        found = {label: self.find(label) for label in dict.fromkeys(label_names)}
        for label, target in found.items():
            is_short = target is not None and plain_name(label) in AMBIGUOUS - {plain_name(target)}
            if target is not None and is_short and not self._has_company(target, found.values()):
                texts.targets[label] = plain_texts(label)
                texts.notes.append(
                    f"label {label!r} may be the {target}, or not: plain templates only (if it is, call it that)"
                )
            elif target is None:
                texts.targets[label] = plain_texts(label)
                texts.notes.append(f"label {label!r} is not in the text bank: plain templates only{self._near(label)}")
            elif target in label_of:  # one sentence cannot have two masks
                texts.targets[label] = plain_texts(label)
                texts.notes.append(f"label {label!r} is {label_of[target]!r} to the text bank: plain templates only")
            else:
                label_of[target] = label
                texts.targets[label] = self.targets[target]
                if is_short:
                    texts.notes.append(f"label {label!r} is taken for the {target}: if it is not, name it in full")
        for union in self.unions:
            if set(union.targets) <= label_of.keys():
                texts.unions.append(replace(union, targets=tuple(label_of[target] for target in union.targets)))
        regions = {self.targets[target].region for target in label_of}
        if regions:  # where the bank knows no label, nothing is surely absent
            texts.absent = self._absent(regions, texts)
        return texts

    def _has_company(self, target: str, found: Iterable[str | None]) -> bool:
        region = self.targets[target].region
        return any(other != target and self.targets[other].region == region for other in found if other)

    def _absent(self, regions: set[str], texts: LabelTexts) -> AbsentTexts:
        others = [target for target in self.targets.values() if target.region not in regions]
        # "tumor" may be a label of this data set and a word in a sentence about another region.
        present = Finder(name for target in texts.targets.values() for name in target.names)
        return AbsentTexts(
            tuple(sentence for other in others for sentence in other.train if not present(sentence)),
            tuple(sentence for other in others for sentence in other.held_out if not present(sentence)),
        )

    def _near(self, label: str) -> str:
        known = {plain_name(name): name for target in self.targets.values() for name in target.names}
        near = difflib.get_close_matches(plain_name(label), known, 1, 0.8)
        return f" (if it is the {known[near[0]]}, call it that)" if near else ""


def check_bank(path: Path | str) -> tuple[TextBank, list[DataError]]:
    """The shipped bank with a file or folder, and all that breaks a rule instead of the first finding only.

    Raises:
        DataError: a file cannot be read as a bank file at all.
    """
    bank, findings = _read(path)
    return bank, list(findings)


def plain_texts(label_name: str) -> TargetTexts:
    """12 templates with the name of a label, 4 of them held out."""
    name = re.sub(r"[\s_]+", " ", label_name).strip()
    return TargetTexts(
        (name,),
        tuple(template.format(name) for template in PLAIN_TRAIN),
        tuple(template.format(name) for template in PLAIN_HELD_OUT),
    )


def _read(path: Path | str | None) -> tuple[TextBank, Iterator[DataError]]:
    targets, unions = [], []
    for file in files_of_bank(path):
        of_file = read_file(file)
        targets += of_file[0]
        unions += of_file[1]
    # Files may write the same standard name in several ways; the first way counts.
    standard: dict[str, str] = {}
    for entry in targets:
        standard.setdefault(plain_name(entry.title), entry.title)
    targets, unions = (
        [replace(e, owner=tuple(standard.get(plain_name(name), name) for name in e.owner)) for e in entries]
        for entries in (targets, unions)
    )
    bank = TextBank({}, [])
    for entry in map(joined, group(targets)):
        bank.targets[entry.title] = TargetTexts(entry.names, entry.train, entry.held_out, entry.region, entry.data)
    for entry in map(joined, group(unions)):
        bank.unions.append(UnionTexts(entry.owner, entry.train, entry.held_out, entry.names))
    return bank, violations(targets, unions)
