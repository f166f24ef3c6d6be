"""LIDC-IDRI: chest CT with the contours of lung nodules that four readers drew, as XML beside the DICOM files.

Accepted: the download of The Cancer Imaging Archive with its annotation files (manifest-.../LIDC-IDRI/LIDC-IDRI-0001/
study/series/*.dcm with one .xml), the folder LIDC-IDRI, or the one above it. Series without CT (chest X-rays) are left
out. The separate download of all XML files is not read.

One label, "lung nodule": nodules of 3 mm and more, for only these have contours; smaller ones are a single point, and
nonNodule marks are none. Each reading session is a rater. A case by itself is what more than half of its readers
marked. Patients with two CT series make two cases of one patient.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from ..dicom.series import header
from ..sample import Case, Scan
from .base import Dataset
from .completeness import folders_by_id, keep_usable, refuse_channel, refuse_lacking
from .files import some
from .info import LayoutInfo
from .lidc_xml import draw_session, is_xray_reading, num_sessions

LABELS = {1: "lung nodule"}
LICENCE = "CC BY 3.0"

INFO = LayoutInfo(
    title="LIDC-IDRI: lung nodules in chest CT, marked by four readers",
    recognised_by="patient folders LIDC-IDRI-0001",
    example="""\
SET/LIDC-IDRI/
  LIDC-IDRI-0001/01-01-2000-NA-NA-30178/3000566.000000-NA-03192/1-001.dcm ...
  LIDC-IDRI-0001/01-01-2000-NA-NA-30178/3000566.000000-NA-03192/069.xml
  LIDC-IDRI-0001/01-01-2000-NA-NA-35511/3000923.000000-NA-62357/1-1.dcm    chest X-ray, left out""",
    labels=LABELS,
    modality="CT",
    licence=LICENCE,
    where="https://www.cancerimagingarchive.net/collection/lidc-idri/ (NBIA Data Retriever, annotation files included)",
    size="1,010 patients, 1,018 CT series of 65 to 764 slices, 512 x 512; 124 GB",
    split="none: split by patient",
    citation="Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI): "
    "A Completed Reference Database of Lung Nodules on CT Scans, Med. Phys. 38 (2011), doi:10.1118/1.3528204; data: "
    "doi:10.7937/K9/TCIA.2015.LO9QL9SX",
)

_PATIENT = r"LIDC-IDRI-\d{4}"


def detect(root: Path) -> bool:
    return bool(_patients(root))


def _patients(root: Path) -> dict[str, Path]:
    """{patient: folder}, of all parts of a download. Raises DataError for a patient who is in two of them."""
    manifests = folders_by_id(root, r"manifest-.*").values()
    patients: dict[str, Path] = {}
    for place in (root, root / "LIDC-IDRI", *(folder / "LIDC-IDRI" for folder in manifests)):
        for patient, folder in folders_by_id(place, _PATIENT).items():
            if patient in patients:
                raise DataError(
                    f"has {patient} twice", file=root, expected="each patient in one folder",
                    found=f"{patients[patient]} and {folder}", hint="remove one of them",
                )  # fmt: skip
            patients[patient] = folder
    return dict(sorted(patients.items()))


class LidcDataset(Dataset):
    """Case.image is a DICOM folder, and the file of each rater is the one XML file of all."""

    def read_labels(self, case: Case, like: Scan | None = None, rater: str | None = None) -> np.ndarray | None:
        """See `Dataset.read_labels`; (D, H, W) uint8, 1 where there is a nodule.

        Raises:
            DataError: also an XML file that is damaged, or contours that lie on no slice or outside the image.
        """
        if not case.raters or (rater is not None and rater not in case.raters):
            return super().read_labels(case, like, rater)
        like = self.read_scan(case) if like is None else like
        if rater is None:
            votes = np.zeros(like.shape_zyx, np.uint8)
            for number, file in enumerate(case.raters.values()):
                votes += draw_session(file, number, like)
            return (votes * 2 > len(case.raters)).astype(np.uint8)
        return draw_session(case.raters[rater], list(case.raters).index(rater), like)


def load(root: Path, *, require_labels: bool = True, channel: str = "") -> Dataset:
    """See `open_dataset`. Reads the XML files and a header of each series without one.

    Raises:
        DataError: no patient folders, no CT series, several XML files in a series, or a CT series without.
    """
    refuse_channel(channel, root)
    patients = _patients(root)
    if not patients:
        raise DataError(
            "is not LIDC-IDRI as it is distributed",
            file=root,
            expected="patient folders LIDC-IDRI-0001",
            found=some(sorted(entry.name for entry in root.iterdir())) or "an empty folder",
            hint="give the folder LIDC-IDRI of the download",
        )
    cases: list[Case] = []
    num_left_out = 0
    series_of = {
        patient: sorted(path for path in folder.glob("*/*") if path.is_dir() and any(path.glob("*.dcm")))
        for patient, folder in patients.items()
    }
    if any(series_of.values()):
        refuse_lacking(
            "has patients without a DICOM file", root, [name for name, found in series_of.items() if not found],
            "LIDC-IDRI-0001/<study>/<series>/*.dcm", "download these patients again, or remove their folders",
        )  # fmt: skip
    for patient, series in series_of.items():
        readings = {path: _reading(path) for path in series}
        scans = [path for path in series if _is_ct(path, readings[path])]
        num_left_out += len(series) - len(scans)
        # Names of folders differ between downloads; numbers of series do not.
        numbers = {path: _series_number(path) for path in scans} if len(scans) > 1 else {}
        for path in sorted(scans, key=lambda path: numbers.get(path, "")):
            name = f"{patient}-{numbers[path][-5:]}" if numbers else patient
            cases.append(Case(name, path, patient_id=patient, raters=_raters(readings[path])))
    if not cases:
        raise DataError(
            "holds no CT series",
            file=root,
            expected="LIDC-IDRI-0001/<study>/<series>/*.dcm",
            found=f"{num_left_out} series of another kind" if num_left_out else "patient folders without DICOM files",
            hint="unpack the download with its folders as they are",
        )
    notes = [
        "A voxel is a nodule where more than half of the readers marked one.",
        "Reader 1 of one scan is not reader 1 of another: the XML files do not say who read.",
    ]
    if num_left_out:
        notes.append(f"Left out, as they are no CT: {num_left_out} series.")
    cases = keep_usable(
        cases, root, require_labels, (), notes, "one .xml file beside the .dcm files (NBIA: include annotation files)"
    )
    return LidcDataset(
        name="LIDC-IDRI",
        root=root,
        cases=cases,
        label_names=dict(LABELS),
        modality=INFO.modality,
        licence=LICENCE,
        intensity="ct:lung",
        orientation="LPS",
        notes=notes,
    )


def _reading(series: Path) -> Path | None:
    """The XML file of a series."""
    files = sorted(path for path in series.glob("*.xml") if not path.name.startswith("."))
    if len(files) > 1:
        raise DataError(
            "holds several XML files", file=series, expected="one", found=some([path.name for path in files]),
            hint="keep the one that the download put there",
        )  # fmt: skip
    return files[0] if files else None


def _is_ct(series: Path, reading: Path | None) -> bool:
    if reading is not None:
        return not is_xray_reading(reading)
    return header(next(iter(sorted(series.glob("*.dcm"))))).get("Modality") == "CT"


def _series_number(series: Path) -> str:
    return str(header(next(iter(sorted(series.glob("*.dcm"))))).get("SeriesInstanceUID", series.name))


def _raters(reading: Path | None) -> dict[str, Path]:
    if reading is None:
        return {}
    return {f"reader {number}": reading for number in range(1, num_sessions(reading) + 1)}
