"""LIDC-IDRI: DICOM series of The Cancer Imaging Archive with the readers' XML beside them, and a chest X-ray.

Nodules are boxes and diamonds, whose outlines can be told without the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEPTH, SIDE = 6, 32
SPACING_MM = (2.5, 0.7, 0.7)  # (z, y, x)
FIRST_Z_MM = -130.0
NUM_READERS = 4
_ROOT_UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001"
# (patient, series): the second patient has two CT series.
SERIES = (("0001", 1), ("0132", 2), ("0132", 3), ("0003", 4), ("0004", 5))


@dataclass
class Truth:
    """What was drawn: {reader's number from 0: (D, H, W) bool}, and the case's id."""

    case_id: str
    folder: Path
    readers: list[np.ndarray]


def series_uid(number: int) -> str:
    return f"{_ROOT_UID}.{30178 + number}"


def write(root: Path, seed: int = 0) -> dict[str, Truth]:
    """{case id: what was drawn}"""
    truth: dict[str, Truth] = {}
    for patient, number in SERIES:
        rng = np.random.default_rng(seed + number)
        study = root / f"LIDC-IDRI/LIDC-IDRI-{patient}" / f"01-01-2000-NA-NA-{30178 + number}"
        folder = study / f"30005{number:02d}.000000-NA-{3192 + number:05d}"
        readers, sessions = [], []
        for reader in range(NUM_READERS):
            marks, nodules = _reading(rng, reader, number)
            readers.append(marks)
            sessions.append(nodules)
        name = f"LIDC-IDRI-{patient}" + (f"-{30178 + number}" if patient == "0132" else "")
        scan = np.full((DEPTH, SIDE, SIDE), -850.0) + rng.normal(0, 20, (DEPTH, SIDE, SIDE))
        scan[np.sum(readers, axis=0) > 1] = 30
        _save_series(folder, scan, f"LIDC-IDRI-{patient}", number)
        (folder / f"{68 + number:03d}.xml").write_text(_xml(sessions, number))
        truth[name] = Truth(name, folder, readers)
    _save_xray(root / "LIDC-IDRI/LIDC-IDRI-0001/01-01-2000-NA-NA-35511/3000923.000000-NA-62357")
    (root / "LIDC-IDRI/LICENSE").write_text("Creative Commons Attribution 3.0 Unported License\n")
    return truth


def _reading(rng: np.random.Generator, reader: int, number: int) -> tuple[np.ndarray, list[list[dict]]]:
    """A box with a hole that all see a little differently, a diamond that only the first two see, and a point."""
    marks = np.zeros((DEPTH, SIDE, SIDE), bool)
    x, y = 6 + number, 5 + reader % 2
    box, hole = (x, y, x + 7, y + 6), (x + 3, y + 3, x + 4, y + 3)
    rois = []
    for z in (1, 2, 3):
        marks[z, box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        rois.append({"z": z, "inclusion": True, "points": _around_box(box)})
    marks[2, hole[1] : hole[3] + 1, hole[0] : hole[2] + 1] = False
    rois.append({"z": 2, "inclusion": False, "points": _around_box(hole)})
    nodules = [rois]
    if reader < 2:
        radius = 3
        ys, xs = np.mgrid[:SIDE, :SIDE]
        marks[4] |= abs(xs - 22) + abs(ys - 21) <= radius
        nodules.append([{"z": 4, "inclusion": True, "points": _around_diamond(22, 21, radius)}])
    point = tuple(int(value) for value in rng.integers(1, SIDE - 1, 2))
    nodules.append([{"z": 5, "inclusion": True, "points": [point]}])
    return marks, nodules


def _around_box(box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """The closed chain of pixels that touch a box (x0, y0, x1, y1) from outside."""
    x0, y0, x1, y1 = box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1
    top = [(x, y0) for x in range(x0, x1)]
    right = [(x1, y) for y in range(y0, y1)]
    bottom = [(x, y1) for x in range(x1, x0, -1)]
    left = [(x0, y) for y in range(y1, y0, -1)]
    return [*top, *right, *bottom, *left, (x0, y0)]


def _around_diamond(x: int, y: int, radius: int) -> list[tuple[int, int]]:
    """The pixels around a diamond, each touching the next at a corner; the last step back to the first is left out."""
    r = radius + 1
    sides = [((0, -r), (1, 1)), ((r, 0), (-1, 1)), ((0, r), (-1, -1)), ((-r, 0), (1, -1))]
    return [(x + dx + n * sx, y + dy + n * sy) for (dx, dy), (sx, sy) in sides for n in range(r)]


def _xml(sessions: list[list[list[dict]]], number: int) -> str:
    body = []
    for reader, nodules in enumerate(sessions):
        body.append(
            "<readingSession><annotationVersion>3.12</annotationVersion>"
            f"<servicingRadiologistID>anon{reader}</servicingRadiologistID>"
        )
        for index, rois in enumerate(nodules):
            is_small = len(rois[0]["points"]) == 1
            traits = (
                ""
                if is_small
                else "<characteristics><subtlety>5</subtlety><malignancy>4</malignancy></characteristics>"
            )
            body.append(f"<unblindedReadNodule><noduleID>Nodule {index:03d}</noduleID>{traits}")
            for roi in rois:
                edges = "".join(
                    f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in roi["points"]
                )
                body.append(
                    f"<roi><imageZposition>{FIRST_Z_MM + SPACING_MM[0] * roi['z']:.6f} </imageZposition>"
                    f"<imageSOP_UID>{series_uid(number)}.{roi['z']}</imageSOP_UID>"
                    f"<inclusion>{'TRUE' if roi['inclusion'] else 'FALSE'}</inclusion>{edges}</roi>"
                )
            body.append("</unblindedReadNodule>")
        body.append(
            "<nonNodule><nonNoduleID>1</nonNoduleID><imageZposition>-125.0</imageZposition><imageSOP_UID>1.2</imageSOP_UID>"
            "<locus><xCoord>3</xCoord><yCoord>4</yCoord></locus></nonNodule></readingSession>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<LidcReadMessage uid="1.3.6" xmlns="http://www.nih.gov" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<ResponseHeader><Version>1.7</Version><SeriesInstanceUid>{series_uid(number)}</SeriesInstanceUid>"
        f"</ResponseHeader>{''.join(body)}</LidcReadMessage>"
    )


def _save_series(folder: Path, hu_zyx: np.ndarray, patient: str, number: int) -> None:
    from pydicom.uid import CTImageStorage

    folder.mkdir(parents=True)
    # Files come in no order of position, as in the archive.
    for file, z in enumerate(np.random.default_rng(number).permutation(len(hu_zyx)), start=1):
        image = _image(hu_zyx[z] + 1024, "CT", CTImageStorage, patient, series_uid(number), f"{series_uid(number)}.{z}")
        image.ImagePositionPatient = [-160.0, -150.0, FIRST_Z_MM + SPACING_MM[0] * float(z)]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = list(SPACING_MM[1:])
        image.SliceThickness = SPACING_MM[0]
        image.RescaleSlope, image.RescaleIntercept = 1, -1024
        image.InstanceNumber = file
        image.save_as(folder / f"1-{file:03d}.dcm", enforce_file_format=True)


def _save_xray(folder: Path) -> None:
    from pydicom.uid import DigitalXRayImageStorageForPresentation

    folder.mkdir(parents=True)
    uid = f"{_ROOT_UID}.35511"
    picture = np.random.default_rng(0).integers(0, 4000, (40, 36))
    image = _image(picture, "DX", DigitalXRayImageStorageForPresentation, "LIDC-IDRI-0001", uid, f"{uid}.1")
    image.save_as(folder / "1-1.dcm", enforce_file_format=True)
    (folder / "072.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<IdriReadMessage uid="1.3.6" xmlns="http://www.nih.gov/idri">'
        "<ResponseHeader><Version>1.7</Version></ResponseHeader><CXRreadingSession></CXRreadingSession></IdriReadMessage>"
    )


def _image(pixels: np.ndarray, modality: str, kind: str, patient: str, series: str, instance: str):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = kind
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = instance
    image.PatientID, image.Modality = patient, modality
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{series}.9", series
    image.FrameOfReferenceUID = f"{series}.8"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = np.rint(pixels).clip(0).astype("<u2").tobytes()
    return image
