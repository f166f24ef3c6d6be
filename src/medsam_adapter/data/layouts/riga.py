"""RIGA: optic disc and cup in fundus photographs, marked by six ophthalmologists each.

The original (University of Michigan, Deep Blue) holds for each picture image<N>prime.tif or .jpg and six copies
image<N>-1 ... image<N>-6 into which an ophthalmologist has drawn the outlines of disc and cup; labels are made from the
difference (see `drawn_contours`). As it is distributed: kinds of file are mixed (BinRushed is mostly JPEG), names begin
with image or Image, one folder is called MagrabiFemale, folder BinRushed1 has no prime pictures (BinRushed1-Corrected
replaces it), and MagrabiFemale/image48 has none either. Drawings without a prime picture are left out with a note.

RIGA+ (https://zenodo.org/records/6325549) is read as well: RIGA/<source>/<folder>/<name>.tif, crops of 800 x 800 pixels
around the disc, and RIGA-mask/<source>/<folder>/<name>-<rater>.tif, where 128 is the cup, 255 the disc around it and 0
background. Its Unlabeled pictures and its lists for domain adaptation are not used.

Split: BinRushed and MESSIDOR (195 + 460 = 655) for training, Magrabia (95) for the test, as papers on several raters
use it; for the original and RIGA+ alike. It is not the data set's own: that has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..io import IMAGE_SUFFIXES, read_label, read_scan, stem
from ..sample import Case, Scan
from .base import Dataset
from .completeness import keep_usable, refuse_channel
from .drawn_contours import two_curves
from .eye_masks import CUP, LABEL_NAMES, REGIONS, RIM, labels_from_greys
from .files import some
from .info import LayoutInfo
from .pairs import refuse_double_ids, split_of

INFO = LayoutInfo(
    title="RIGA: Retinal fundus images for glaucoma analysis, optic disc and cup by six ophthalmologists",
    recognised_by="folders BinRushed..., Magrabia or MESSIDOR with image1prime.*, or RIGA/ beside RIGA-mask/",
    example="""\
SET/
  BinRushedcorrected/BinRushed/BinRushed1-Corrected/image1prime.jpg, image1-1.jpg, ..., image1-6.jpg
  Magrabia/Magrabia/MagrabiFemale/image1prime.tif, image1-1.tif, ..., image1-6.tif
  MESSIDOR/MESSIDOR/image1prime.tif, image1-1.tif, ..., image1-6.tif
or RIGA+:
  RIGA/BinRushed/BinRushed1/image1.tif
  RIGA-mask/BinRushed/BinRushed1/image1-1.tif, ..., image1-6.tif      128 cup, 255 disc, 0 background""",
    labels=LABEL_NAMES,
    targets=REGIONS,
    modality="fundus photograph",
    licence="CC BY-NC 4.0",
    where="https://doi.org/10.7302/Z23R0R29 (Deep Blue Data, no registration); RIGA+: https://zenodo.org/records/6325549",
    size="750 pictures up to 2,743 x 1,936 pixels, 4,500 drawings, 13 GB",
    split="BinRushed and MESSIDOR (655) for training, Magrabia (95) for the test, as papers on several raters use it",
    citation="Almazroa et al., Retinal fundus images for glaucoma analysis: the RIGA dataset, Proc. SPIE 10579, "
    "105790B (2018), doi:10.1117/12.2293584",
)

RATERS = 6
_GREYS = {0: 0, 255: RIM, 128: CUP}
_PRIME = re.compile(r"(?i)image(\d+)prime")
_DRAWING = re.compile(r"(?i)image(\d+)-(\d)")
_MASK = re.compile(r"(.+)-(\d)")
# In this order: a path through BinRushed may also hold the word RIGA, none holds two of these.
_SOURCES = {"binrushed": "train", "messidor": "train", "magrabi": "test"}


@dataclass
class RigaDataset(Dataset):
    """Labels made from drawings where `primes` is {drawing: its clean picture}, and masks where it is empty."""

    primes: dict[Path, Path] = field(default_factory=dict)

    def read_label_file(self, file: Path, like: Scan | None) -> np.ndarray:
        if file not in self.primes:
            return labels_from_greys(read_label(file, like=like), _GREYS, file)
        clean = (read_scan(self.primes[file]) if like is None else like).array
        drawn = read_scan(file).array
        if drawn.shape != clean.shape or drawn.dtype != np.uint8 or clean.dtype != np.uint8:
            raise DataError(
                "is not on the grid of its clean picture", file=file,
                expected=f"uint8 of shape {clean.shape} as {self.primes[file].name}",
                found=f"{drawn.dtype} of shape {drawn.shape}", hint="copy both files again",
            )  # fmt: skip
        found = two_curves(drawn[0], clean[0])
        if isinstance(found, str):
            raise DataError(
                "has no outlines of disc and cup that can be told apart", file=file,
                expected=f"two closed curves, one within the other, that {self.primes[file].name} does not have",
                found=found, hint="move the file out of the data set: what the other raters say is used then",
            )  # fmt: skip
        disc, cup = found
        return (disc.astype(np.uint8) * RIM + (cup & disc) * np.uint8(CUP - RIM))[None]


def detect(root: Path) -> bool:
    if (root / "RIGA-mask").is_dir():
        return True
    folders = [entry for entry in root.iterdir() if entry.is_dir()]
    folders += [inner for entry in folders for inner in entry.iterdir() if inner.is_dir()]
    names = [root.name.lower(), *(folder.name.lower() for folder in folders)]
    if any(name.startswith(("binrushed", "magrabi")) for name in names):
        return True
    sources = [folder for folder in (root, *folders) if folder.name.lower().startswith("messidor")]
    return any(_PRIME.fullmatch(stem(file)) for folder in sources for file in folder.iterdir())


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: no pictures, two files of one name, masks without image (RIGA+), or pictures that nobody has marked
            where marks are required.
    """
    refuse_channel(channel, root)
    notes: list[str] = []
    primes: dict[Path, Path] = {}
    is_plus = (root / "RIGA-mask").is_dir()
    cases = _masked_cases(root) if is_plus else _drawn_cases(root, primes, notes)
    if not cases:
        raise DataError(
            "is no RIGA data set", file=root, expected=INFO.recognised_by,
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder that the archives were unpacked in",
        )  # fmt: skip
    refuse_double_ids(cases, root)
    few = [case.case_id for case in cases if 0 < len(case.raters) < RATERS]
    if few:
        notes.append(f"{len(few)} pictures were marked by fewer than {RATERS} raters: {some(few)}.")
    parts: dict[str, list[Case]] = {"train": [], "test": []}
    for case in cases:
        source = _source(case.image, root)
        assert source is not None  # other pictures are no cases
        parts[_SOURCES[source]].append(case)
    return RigaDataset(
        name="RIGA+" if is_plus else "RIGA",
        root=root,
        cases=keep_usable(cases, root, require_labels, (), notes, "six files <image>-1 to <image>-6"),
        label_names=dict(LABEL_NAMES),
        regions=dict(REGIONS),
        modality=INFO.modality,
        licence=INFO.licence,
        nested=True,
        official_split=split_of(parts, notes),
        notes=notes,
        primes=primes,
    )


def _drawn_cases(root: Path, primes: dict[Path, Path], notes: list[str]) -> list[Case]:
    """The cases of the original; fills `primes`, {drawing: clean picture}."""
    files = [
        file for file in sorted(root.rglob("*"))
        if not file.name.startswith(".") and file.name.lower().endswith(IMAGE_SUFFIXES) and _source(file, root)
    ]  # fmt: skip
    drawings: dict[tuple[Path, int], dict[str, Path]] = {}
    for file in files:
        match = _DRAWING.fullmatch(stem(file))
        if match:
            raters = drawings.setdefault((file.parent, int(match[1])), {})
            _add(raters, f"rater {match[2]}", file)
    cases: list[Case] = []
    for file in files:
        match = _PRIME.fullmatch(stem(file))
        if match:
            raters = drawings.pop((file.parent, int(match[1])), {})
            primes |= dict.fromkeys(raters.values(), file)
            cases.append(Case(f"{file.parent.name}_image{int(match[1])}", file, raters=dict(sorted(raters.items()))))
    if drawings:
        names = [f"{folder.name}/image{number}" for folder, number in drawings]
        notes.append(f"{len(names)} pictures have drawings but no clean picture and are left out: {some(names)}.")
    return sorted(cases, key=lambda case: (len(case.case_id), case.case_id))


def _masked_cases(root: Path) -> list[Case]:
    """The cases of RIGA+."""
    masks: dict[Path, dict[str, Path]] = {}
    for file in sorted((root / "RIGA-mask").rglob("*.tif")):
        match = _MASK.fullmatch(stem(file))
        if match and not file.name.startswith(".") and _source(file, root):
            _add(
                masks.setdefault(file.parent.relative_to(root / "RIGA-mask") / match[1], {}), f"rater {match[2]}", file
            )
    cases: list[Case] = []
    for file in sorted((root / "RIGA").rglob("*.tif")) if (root / "RIGA").is_dir() else ():
        place = file.relative_to(root / "RIGA")
        if file.name.startswith(".") or "Unlabeled" in place.parts or not _source(file, root):
            continue
        raters = masks.pop(place.with_suffix(""), {})
        cases.append(Case("_".join(place.with_suffix("").parts), file, raters=dict(sorted(raters.items()))))
    if masks:
        raise DataError(
            "has masks without their images", file=root / "RIGA", expected="RIGA/<source>/<folder>/<name>.tif",
            found=f"{len(masks)} lacking: {some([str(place) for place in masks])}", hint="unpack the archive again",
        )  # fmt: skip
    return cases


def _add(raters: dict[str, Path], rater: str, file: Path) -> None:
    if rater in raters:
        raise DataError(
            f"holds two files of {rater} for one picture", file=file.parent, expected="one file for each rater",
            found=f"{raters[rater].name} and {file.name}", hint="remove one of them",
        )  # fmt: skip
    raters[rater] = file


def _source(file: Path, root: Path) -> str | None:
    """Which of the three sources a file is from, by the folders it lies in; None if it is in none of them."""
    parts = [root.name, *file.relative_to(root).parts[:-1]]
    return next((source for source in _SOURCES for part in parts if part.lower().startswith(source)), None)
