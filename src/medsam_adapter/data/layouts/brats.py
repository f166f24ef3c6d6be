"""BraTS 2020, 2021 and 2023 (adult glioma): four MR sequences of one patient on one grid, 1 mm.

Accepted: the folder of the case folders, or one or two above it, training and validation parts together (2020 and its
copies on Kaggle: BraTS2020_TrainingData/MICCAI_BraTS2020_TrainingData/BraTS20_Training_001; 2021: BraTS2021_00000;
2023: ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000), files .nii.gz or .nii. In 2020 the label
map of BraTS20_Training_355 is called W39_1998.09.19_Segm.nii in the original and in its copies.

Values in the files: 1 necrotic core, 2 edema, 4 (2020, 2021) or 3 (2023) enhancing tumor; they become 1, 2, 3. Scored
are the regions that these make up (https://www.med.upenn.edu/cbica/brats2020/data.html). The last number of a 2023 name
counts the visits of one patient. 2023 holds the patients of 2021 again, so years are not mixed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import DataError
from ..sample import Case
from .base import Dataset
from .completeness import files_by_id, keep_usable
from .files import some
from .info import LayoutInfo

LABELS = {1: "necrotic core", 2: "edema", 3: "enhancing tumor"}
REGIONS = {"whole tumor": (1, 2, 3), "tumor core": (1, 3), "enhancing tumor": (3,)}
LICENCE = "terms of the challenge: registration, research use, citations"
SEQUENCES = ("t1", "t1ce", "t2", "flair")
DEFAULT_CHANNEL = "t1ce,t2,flair"

INFO = LayoutInfo(
    title="BraTS 2020, 2021, 2023: brain tumor segmentation in multi-parametric MRI (adult glioma)",
    recognised_by="case folders BraTS20_Training_001, BraTS2021_00000 or BraTS-GLI-00000-000",
    example="""\
SET/MICCAI_BraTS2020_TrainingData/
  name_mapping.csv
  BraTS20_Training_001/BraTS20_Training_001_flair.nii   _t1, _t1ce, _t2, _seg
or SET/
  BraTS2021_00000/BraTS2021_00000_flair.nii.gz          _t1, _t1ce, _t2, _seg
or SET/ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/
  BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz    -t1n, -t1c, -t2w, -seg""",
    labels=LABELS,
    targets=REGIONS,
    modality="MRI",
    licence=LICENCE,
    where="2020: https://www.med.upenn.edu/cbica/brats2020/data.html (registration); 2021: "
    "https://www.synapse.org/Synapse:syn25829067; 2023: https://www.synapse.org/Synapse:syn51156910; copies on Kaggle",
    size="labelled: 369 (2020), 1,251 (2021 and 2023) cases of four volumes, 240 x 240 x 155",
    split="none with labels: the training cases are split by patient, validation and test have no labels",
    citation="Menze et al., The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS), IEEE TMI 34 (2015), "
    "doi:10.1109/TMI.2014.2377694; Bakas et al., Scientific Data 4, 170117 (2017), doi:10.1038/sdata.2017.117; "
    "Baid et al., doi:10.48550/arXiv.2107.02314 (2021)",
    channels=(*SEQUENCES, "three of them by commas", "all"),
)

_CASES = {
    "2020": re.compile(r"BraTS20_(?:Training|Validation)_\d{3}"),
    "2021": re.compile(r"BraTS2021_\d{5}"),
    "2023": re.compile(r"BraTS-GLI-\d{5}-\d{3}"),
}
_NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_OTHER_NAMES = {new: old for old, new in _NAMES_2023.items()}
_VALUES = {
    "2020": {1: 1, 2: 2, 4: 3},
    "2021": {1: 1, 2: 2, 4: 3},
    "2023": {1: 1, 2: 2, 3: 3},
}
_MISNAMED_LABEL = "W39_1998.09.19_Segm"
_DEPTH = 2


def detect(root: Path) -> bool:
    return bool(_case_folders(root))


def _case_folders(root: Path) -> dict[str, list[Path]]:
    """{year: case folders} in the folder, or one or two below; what lies inside a case is not looked at."""
    found: dict[str, list[Path]] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        below = [folder for parent in level for folder in _folders_in(parent)]
        for folder in below:
            for year, name in _CASES.items():
                if name.fullmatch(folder.name):
                    found.setdefault(year, []).append(folder)
        if found:
            return found
        level = below
    return found


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # iterdir would ask the disk about each of 100,000 pictures
        return sorted(Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Args:
        channel: one sequence; three by commas, which become the three colours that a SAM takes; "all" for an array of
            four channels; t1ce, t2 and flair if empty.

    Raises:
        DataError: no case folders, cases of several years or twice, another channel, a sequence or label map that is
            missing.
    """
    sequences = _sequences(channel, root)
    by_year = _case_folders(root)
    if len(by_year) != 1:
        raise DataError(
            "holds cases of several years" if by_year else "is not BraTS as it is distributed",
            file=root,
            expected="case folders of one year: BraTS20_Training_001, BraTS2021_00000 or BraTS-GLI-00000-000",
            found=", ".join(f"{len(folders)} of {year}" for year, folders in sorted(by_year.items()))
            or some(sorted(entry.name for entry in root.iterdir()))
            or "an empty folder",
            hint="give the folder of one year: BraTS 2023 has the patients of 2021 again"
            if by_year
            else "give the folder that holds the case folders",
        )
    ((year, folders),) = by_year.items()
    cases = [_case(folder, year, sequences) for folder in sorted(folders, key=lambda folder: folder.name)]
    twice = sorted({a.case_id for a, b in zip(cases, cases[1:], strict=False) if a.case_id == b.case_id})
    if twice:
        raise DataError("holds cases twice", file=root, expected="one folder for each case", found=some(twice))
    notes: list[str] = []
    # The validation cases of 2021 and 2023 are called as the training cases: a part in which none has labels is theirs.
    labelled_parts = {case.image.parents[1] for case in cases if case.has_reference}
    unlabelled = {
        case.case_id for case in cases if "Validation" in case.case_id or case.image.parents[1] not in labelled_parts
    }
    unlabelled = unlabelled if labelled_parts else set()
    expected = f"{folders[0].name}{_separator(year)}seg.nii.gz"
    cases = keep_usable(cases, root, require_labels, unlabelled, notes, expected)
    return Dataset(
        name=f"BraTS {year}",
        root=root,
        cases=cases,
        label_names=dict(LABELS),
        regions=dict(REGIONS),
        modality=INFO.modality,
        mask_values=dict(_VALUES[year]),
        licence=LICENCE,
        intensity="percentile",
        orientation="LPS",
        notes=[f"Channels are {', '.join(sequences)}.", *notes],
    )


def _sequences(channel: str, root: Path) -> list[str]:
    words = [word.strip().lower() for word in (channel or DEFAULT_CHANNEL).split(",")]
    names = list(SEQUENCES) if words == ["all"] else [_OTHER_NAMES.get(word, word) for word in words]
    if len(names) == 2 or len(set(names)) != len(names) or not set(names) <= set(SEQUENCES):
        raise DataError(
            "does not have the wanted channel",
            file=root,
            expected=f"one of {', '.join(SEQUENCES)}, three of them by commas, or all",
            found=channel,
            hint=f"set data.channel; empty is {DEFAULT_CHANNEL}",
        )
    return names


def _separator(year: str) -> str:
    return "-" if year == "2023" else "_"


def _case(folder: Path, year: str, sequences: list[str]) -> Case:
    prefix = re.escape(folder.name + _separator(year))
    files = files_by_id(folder, rf"{prefix}(\w+)\.nii(?:\.gz)?")
    files = {_OTHER_NAMES.get(name, name): path for name, path in files.items()}
    lacking = [name for name in sequences if name not in files]
    if lacking:
        raise DataError(
            "lacks a sequence",
            file=folder,
            expected=", ".join(
                f"{folder.name}-{_NAMES_2023[name]}.nii.gz" if year == "2023" else f"{folder.name}_{name}.nii.gz"
                for name in lacking
            ),
            found=some([path.name for path in files.values()]) or "no such file",
            hint="copy the case again, or choose other sequences with data.channel",
        )
    misnamed = files_by_id(folder, rf"({re.escape(_MISNAMED_LABEL)})\.nii(?:\.gz)?")
    label = files.get("seg") or misnamed.get(_MISNAMED_LABEL)
    first, *others = (files[name] for name in sequences)
    patient = folder.name.rpartition("-")[0] if year == "2023" else folder.name
    return Case(folder.name, first, label, patient, tuple(others))
