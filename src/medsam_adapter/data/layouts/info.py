"""What there is to know of a data set before one has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayoutInfo:
    """What `msa data info NAME` prints.

    Attributes:
        title: full name of the data set, or of the kind of folder.
        recognised_by: what "auto" looks for, in a few words.
        example: the tree of files as they are distributed.
        labels: {label value as read: name}.
        targets: {name: label values}, where targets are unions of labels.
        modality: "CT", "MRI", "fundus photograph", ...
        licence: name of the licence, or the terms in a few words.
        where: how to get it, with its address.
        size: cases and bytes, in words.
        split: its official split, in words.
        citation: authors, title, journal, year, DOI.
        channels: names that `data.channel` takes.
    """

    title: str
    recognised_by: str
    example: str
    labels: Mapping[int, str] = field(default_factory=dict)
    targets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    modality: str = ""
    licence: str = ""
    where: str = ""
    size: str = ""
    split: str = ""
    citation: str = ""
    channels: tuple[str, ...] = ()
