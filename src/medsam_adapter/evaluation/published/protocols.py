"""What the columns of the paper's tables are, so that they can be measured: data, targets, metrics and prompts.

Names of targets are those of our layouts; other data sets fit too if their targets have the same names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from ...errors import DataError, PromptError
from .printed import NO_FIGURE, PrintedTable, average_note, footnotes, from_percent, printed_table


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: as printed.
        metric: "dice", "iou" or "hd95_mm".
        targets: names in our layouts; the column is the mean over them.
        printed: the column of the CSV file; empty if nothing is printed.
        is_percent: printed in percent.
    """

    heading: str
    metric: str
    targets: tuple[str, ...]
    printed: str = ""
    is_percent: bool = False


@dataclass(frozen=True)
class PaperProtocol:
    """One table, or the part of one that is about one data set.

    Attributes:
        name: as `msa evaluate --protocol` takes it.
        title: over the table.
        layouts: the paper's data sets.
        columns: without the average.
        average: heading of the mean over the columns as printed; empty for none.
        table: name of the CSV file; empty if the paper prints nothing.
        prompts, per: of the paper's MSA rows. That a click is one for a whole volume is **ours**.
        is_volumes: the cases are volumes.
    """

    name: str
    title: str
    layouts: tuple[str, ...]
    columns: tuple[Column, ...]
    average: str = ""
    table: str = ""
    prompts: str = "1-point"
    per: str = "volume"
    is_volumes: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of all targets, in the order of the columns."""
        return tuple(dict.fromkeys(target for column in self.columns for target in column.targets))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.metric for column in self.columns))

    @property
    def remark(self) -> str:
        """What has to be said of the whole table; empty for nothing."""
        return footnotes()["remarks"].get(self.name, "")

    def column_note(self, heading: str) -> str:
        """The footnote of a column; empty for none."""
        return footnotes()["columns"].get(self.name, {}).get(heading, "")

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """{target of this protocol: the data set's name for it}; upper case, "_" and "-" make no difference."""
        by_key = {_key(name): name for name in names}
        return {target: by_key[_key(target)] for target in self.targets if _key(target) in by_key}

    def matched(self, names: Iterable[str], file) -> dict[str, str]:
        """As `match`.

        Raises:
            DataError: none of the targets is among the names.
        """
        names = list(names)
        found = self.match(names)
        if not found:
            raise DataError(
                f"has no target of the protocol '{self.name}'", file=file, expected=", ".join(self.targets),
                found=", ".join(names) or "no named targets",
                hint="name the labels so in labels.json or dataset.json, or leave out --protocol",
            )  # fmt: skip
        return found

    def published_rows(self) -> list[tuple[str, list[str], str, str]]:
        """(method, figures of the columns, average, footnote of the average), all as printed; rows without a figure
        are left out. Percent become the scale of 0 to 1, without a change of digits."""
        if not self.table:
            return []
        table: PrintedTable = printed_table(self.table)
        rows = []
        for method, printed in table.rows.items():
            figures = [from_percent(printed[c.printed]) if c.is_percent else printed[c.printed] for c in self.columns]
            if any(figure != NO_FIGURE for figure in figures):
                average = printed[self.average] if self.average else ""
                rows.append((method, figures, average, average_note(table, method) if self.average else ""))
        return rows


def protocol_of_layout(layout: str) -> PaperProtocol | None:
    """The table about the data set of that layout; None if the paper has none."""
    return next((each for each in PAPER_PROTOCOLS.values() if layout in each.layouts), None)


def paper_protocol(name: str) -> PaperProtocol:
    """The protocol of that name. Raises PromptError if there is none."""
    if name not in PAPER_PROTOCOLS:
        nearest = difflib.get_close_matches(name, PAPER_PROTOCOLS, n=1, cutoff=0.0)[0]
        raise PromptError(
            f"there is no protocol '{name}'", expected=", ".join(PAPER_PROTOCOLS), found=name,
            hint=f"did you mean '{nearest}'? Kinds of prompts, such as box, go to --prompts",
        )  # fmt: skip
    return PAPER_PROTOCOLS[name]


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _organs(**targets: str) -> tuple[Column, ...]:
    """Dice columns from {heading: targets, separated by commas}."""
    return tuple(
        Column(heading, "dice", tuple(names.split(", ")), printed=heading) for heading, names in targets.items()
    )


def _one_target(target: str, printed: str, *metrics: str) -> tuple[Column, ...]:
    """A column for each metric of one target; `printed` is what its columns in multimodal.csv begin with."""
    headings = {"dice": ("Dice", "Dice"), "iou": ("IoU", "IoU"), "hd95_mm": ("HD95 (mm)", "HD95")}
    return tuple(
        Column(
            headings[metric][0], metric, (target,), f"{printed}_{headings[metric][1]}" if printed else "",
            is_percent=bool(printed) and metric != "hd95_mm",
        )
        for metric in metrics
    )  # fmt: skip


_SHARED = {
    "Spleen": "spleen", "R.Kid": "right kidney", "L.Kid": "left kidney", "Gall.": "gallbladder", "Eso.": "esophagus",
    "Liver": "liver", "Stom.": "stomach", "Aorta": "aorta", "IVC": "inferior vena cava",
}  # fmt: skip
PAPER_PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        PaperProtocol(
            "btcv", "BTCV, abdominal CT: Dice", ("btcv",),
            _organs(**_SHARED, **{
                "Veins": "portal and splenic veins", "Panc.": "pancreas",
                "AG": "right adrenal gland, left adrenal gland",
            }),
            average="Ave", table="btcv_dice", is_volumes=True,
        ),
        PaperProtocol(
            "amos22", "AMOS 2022, abdominal CT and MRI: Dice", ("amos22",),
            _organs(**_SHARED, **{
                "Panc.": "pancreas", "RAG": "right adrenal gland", "LAG": "left adrenal gland", "Duo.": "duodenum",
                "Blad.": "bladder", "Postc.": "prostate or uterus",
            }),
            average="Avg", table="amos_dice", is_volumes=True,
        ),
        PaperProtocol(
            "optic-cup", "Optic cup, fundus photographs", ("refuge", "riga"),
            _one_target("optic cup", "OpticCup", "dice", "iou"), table="multimodal",
        ),
        PaperProtocol(
            "brain-tumor", "Brain tumor, MRI", ("brats",),
            _one_target("whole tumor", "BrainTumor", "dice", "iou", "hd95_mm"), table="multimodal", is_volumes=True,
        ),
        PaperProtocol(
            "thyroid", "Thyroid nodule, ultrasound", ("tnscui", "ddti"),
            _one_target("thyroid nodule", "ThyroidNodule", "dice", "iou"), table="multimodal",
        ),
        PaperProtocol(
            "isic", "Skin lesion, dermoscopy", ("isic2016", "isic2017", "isic2018"),
            _one_target("skin lesion", "", "dice", "iou"),
        ),
    )
}  # fmt: skip
"""The protocols that `msa evaluate --protocol` knows."""
