"""ACDC: cine MRI of the heart, the two frames of each patient that are marked (end of diastole and of systole).

Accepted:
- the original: database/training/patient001/patient001_frame01.nii.gz with _gt and Info.cfg, beside database/testing,
  also the folder database, or training alone. The 4-D file of all frames is not read.
- HDF5 files of SSL4MIS (github.com/HiLab-git/SSL4MIS, data/ACDC): data/patient001_frame01.h5 with arrays image and
  label, training slices in data/slices/patient001_frame01_slice_1.h5, and train_slices.list, val.list, test.list. They
  are the 100 patients of the original training set in 70, 10 and 20, frames counted as 01 and 02. Volumes are cases; of
  a frame whose volume is not there, its slices are.

Values as in the challenge (https://www.creatis.insa-lyon.fr/Challenge/acdc/evaluation.html). Slices are short-axis,
the last axis of a file whatever its affine says, so the suggested orientation is the file's own.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import DataError
from ..sample import Case
from .acdc_h5 import find_h5, load_h5
from .base import Dataset
from .completeness import files_by_id, folders_by_id, keep_usable, refuse_channel, refuse_lacking
from .files import some
from .info import LayoutInfo

LABELS = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
LICENCE = "CC BY-NC-SA 4.0"

INFO = LayoutInfo(
    title="ACDC: Automated Cardiac Diagnosis Challenge",
    recognised_by="training/patient001/patient001_frame01.nii.gz, or data/patient001_frame01.h5 beside the .list files",
    example="""\
SET/database/
  training/patient001/Info.cfg                      ED: 1, ES: 12, Group: DCM, ...
  training/patient001/patient001_frame01.nii.gz     patient001_frame01_gt.nii.gz
  training/patient001/patient001_4d.nii.gz
  testing/patient101/...
or, of SSL4MIS:
SET/ACDC/
  train_slices.list  val.list  test.list
  data/patient001_frame01.h5                        arrays image and label
  data/slices/patient099_frame01_slice_1.h5""",
    labels=LABELS,
    modality="MRI",
    licence=LICENCE,
    where="https://humanheart-project.creatis.insa-lyon.fr/database/ (ACDC); HDF5: "
    "https://github.com/HiLab-git/SSL4MIS/tree/master/data/ACDC",
    size="100 + 50 patients, two frames each of 6 to 18 slices, about 1.4 x 1.4 x 10 mm",
    split="train: training (100 patients), test: testing (50); of the HDF5 files 70, 10 and 20 patients by their lists",
    citation="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation and "
    "Diagnosis: Is the Problem Solved?, IEEE TMI 37 (2018), doi:10.1109/TMI.2018.2837502",
)

_PLACES = (".", "database", "ACDC", "ACDC/database")
_PARTS = {"train": "training", "test": "testing"}
_PATIENT = r"patient\d{3}"


def detect(root: Path) -> bool:
    return bool(_find(root)) or find_h5(root) is not None


def _find(root: Path) -> dict[str, dict[str, Path]]:
    """{part: {patient: folder}} of the original; the part is "" where patients lie in the given folder itself."""
    for place in _PLACES:
        parts = {part: folders_by_id(root / place / folder, _PATIENT) for part, folder in _PARTS.items()}
        if any(_frames(folder) for patients in parts.values() for folder in patients.values()):
            return parts
    patients = folders_by_id(root, _PATIENT)
    return {"": patients} if any(map(_frames, patients.values())) else {}


def _frames(folder: Path) -> dict[str, Path]:
    """{patient001_frame01: its file}"""
    return files_by_id(folder, rf"({folder.name}_frame\d{{2}})\.nii(?:\.gz)?")


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`.

    Raises:
        DataError: neither form, a frame or label map that is missing, an Info.cfg or list that is damaged.
    """
    refuse_channel(channel, root)
    parts = _find(root)
    notes: list[str] = []
    if parts:
        cases, split, unlabelled, expected = *_original(parts), "patient001_frame01_gt.nii.gz for each frame"
    else:
        base = find_h5(root)
        if base is None:
            raise DataError(
                "is not ACDC as it is distributed",
                file=root,
                expected="training/patient001/patient001_frame01.nii.gz, or data/patient001_frame01.h5",
                found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
                hint="give the folder that holds training/, or that which holds train_slices.list",
            )
        cases, split, unlabelled, expected = *load_h5(base, notes), set(), "an array label in each file"
    cases = keep_usable(cases, root, require_labels, unlabelled, notes, expected)
    labelled = {case.case_id for case in cases if case.has_reference}
    split = {part: [case for case in ids if case in labelled] for part, ids in split.items()}
    return Dataset(
        name="ACDC",
        root=root,
        cases=cases,
        label_names=dict(LABELS),
        modality=INFO.modality,
        licence=LICENCE,
        official_split=split if split.get("train") and split.get("test") else None,
        intensity="percentile",
        orientation="file",
        notes=notes,
    )


def _original(parts: dict[str, dict[str, Path]]) -> tuple[list[Case], dict[str, list[str]], set[str]]:
    """Cases, split, and the ids of testing cases if none of them has labels, as before they were released."""
    cases: list[Case] = []
    split: dict[str, list[str]] = {}
    for part, patients in parts.items():
        found = [case for patient, folder in patients.items() for case in _patient(patient, folder)]
        split[part] = [case.case_id for case in found]
        cases += found
    labelled = {case.case_id for case in cases if case.has_reference}
    is_hidden = not labelled & set(split.get("test", ()))
    return cases, split, set(split.get("test", ())) if is_hidden else set()


def _patient(patient: str, folder: Path) -> list[Case]:
    frames = _frames(folder)
    labels = files_by_id(folder, rf"({patient}_frame\d{{2}})_gt\.nii(?:\.gz)?")
    wanted = {f"{patient}_frame{number:02d}" for number in _marked_frames(folder / "Info.cfg")}
    refuse_lacking(
        "lacks a frame", folder, (wanted | set(labels)) - set(frames),
        "the frames that Info.cfg names under ED and ES, as files of their own", "copy the patient's folder again",
    )  # fmt: skip
    if not frames:
        refuse_lacking(
            "has a patient without frames", folder, [patient], f"{patient}_frame01.nii.gz",
            "copy the patient's folder again, or remove it",
        )  # fmt: skip
    return [Case(name, path, labels.get(name), patient) for name, path in frames.items()]


def _marked_frames(file: Path) -> list[int]:
    """The frames at the end of diastole and systole; [] without the file."""
    if not file.is_file():
        return []
    lines = [line.partition(":") for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    values = {key.strip(): value.strip() for key, _, value in lines}
    if not all(values.get(key, "").isdigit() for key in ("ED", "ES")):
        raise DataError(
            "does not say which frames are marked",
            file=file,
            expected="lines ED: 1 and ES: 12",
            found=", ".join(f"{key}: {values[key]}" for key in ("ED", "ES") if key in values) or "neither",
            hint="copy Info.cfg again",
        )
    return [int(values[key]) for key in ("ED", "ES")]
