"""Which DICOM files make up one series: headers are read, pixels are not."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from ..ceiling import ceiling_bytes, refuse_bytes
from ..kinds import has_dicom_preamble, has_suffix, is_dicom_folder, missing_package, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # binary or fractional; labels
# What else may lie in the folder of a series and is known to be no part of it.
_OTHER_SUFFIXES = (
    ".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".pdf", ".html", ".ini", ".db", ".log", ".zip", ".gz",
    ".nii", ".nrrd", ".mha", ".mhd", ".raw", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".npz",
)  # fmt: skip
_DICOM_NAMES = (".dcm", ".dicom", ".ima")


def image_headers(path: Path, series: str | None = None) -> list[Dataset]:
    """The headers of the images of one series, in no order; `filename` of each is its file.

    Args:
        path: a DICOM file, which is taken alone, or a folder of such files, with any names and not in sub-folders.
            A DICOMDIR, segmentations, reports and other objects without an image are passed over.
        series: SeriesInstanceUID of the wanted one where a folder holds several.

    Raises:
        DataError: no DICOM files, no image among them, several series and none chosen, no such series, or a file that
            is damaged.
    """
    headers = [header(path)] if path.is_file() else _headers_in(path)
    by_series: dict[str, list[Dataset]] = defaultdict(list)
    for each in headers:
        if is_image(each):
            by_series[str(each.get("SeriesInstanceUID") or "")].append(each)
    if not by_series:
        kinds = sorted({sop_class_name(each) for each in headers})
        is_segmentation = any(sop_class(each) in SEGMENTATION_CLASSES for each in headers)
        raise DataError(
            "holds no DICOM image",
            file=path,
            expected="CT, MR or other images",
            found=", ".join(kinds),
            hint="a segmentation is a label map: give the series that it was made on as the image"
            if is_segmentation
            else "give the folder with the images; contours (RTSTRUCT) are turned to masks with 3D Slicer",
        )
    if series is not None:
        if series not in by_series:
            raise DataError(
                f"holds no series {series}", file=path, expected="one of its series", found=_listing(by_series)
            )
        return by_series[series]
    if len(by_series) > 1:
        raise DataError(
            "holds several series",
            file=path,
            expected="one series, or the SeriesInstanceUID of the wanted one",
            found=_listing(by_series),
            hint="choose one with series=UID (msa predict: --series UID), or give each series a folder of its own",
        )
    return next(iter(by_series.values()))


def segmentation_file(path: Path) -> Path | None:
    """The file itself if it is a DICOM SEG, or the one such file of a folder without images; None for anything else."""
    with damage_told(path):
        if path.is_file():
            return path if sop_class(header(path)) in SEGMENTATION_CLASSES else None
        headers = _headers_in(path)
        found = [Path(each.filename) for each in headers if sop_class(each) in SEGMENTATION_CLASSES]
        return found[0] if len(found) == 1 and not any(map(is_image, headers)) else None


def header(path: Path) -> Dataset:
    """Everything before the pixels. Raises DataError for a file that is damaged or no DICOM."""
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise missing_package("pydicom", path) from error
    with damage_told(path):
        refuse_bytes(path, _deflated_bytes(path, ceiling_bytes()))
        read = dcmread(path, stop_before_pixels=True)
        if int(read.get("NumberOfFrames") or 1) < 1:
            raise ValueError(f"NumberOfFrames is {read.NumberOfFrames}")
        refuse_bytes(path, image_bytes(read))
        return read


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Makes a DataError of what pydicom raises: what the damage happens to cause, and often when a value is used."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            "cannot be read as DICOM",
            file=path,
            expected="a whole DICOM file",
            found="0 bytes" if path.is_file() and not path.stat().st_size else one_line(error),
            hint="the file may be cut off or renamed: copy it again",
        ) from error


def claimed_bytes(path: Path, limit: int) -> int:
    """What the pixels of a file take, as its header says, or some number above `limit`; 0 if it cannot be read."""
    from pydicom import dcmread

    try:
        count = _deflated_bytes(path, limit)
        return count if count > limit else max(count, image_bytes(dcmread(path, stop_before_pixels=True)))
    except Exception:  # pydicom raises what the damage happens to cause
        return 0


def image_bytes(header: Dataset) -> int:
    """What the pixels of an image take when they are decoded, as its header says; 0 for what is no image.

    Raises:
        ValueError, TypeError, OverflowError: sizes that are no numbers.
    """
    count = max(1, (int(header.get("BitsAllocated") or 8) + 7) // 8)
    for keyword, default in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1), ("SamplesPerPixel", 1)):
        count *= max(0, int(header.get(keyword) or default))
    return count


def _deflated_bytes(path: Path, limit: int) -> int:
    """What a file with a deflated data set unpacks to, or some number above `limit`; 0 for all others."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with path.open("rb") as file:
        read_preamble(file, force=False)
        # As pydicom does: the head ends where its elements end, and not where it says that it ends.
        head = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
        if head.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return 0
        unpacker, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while count <= limit and (chunk := unpacker.unconsumed_tail or file.read(2**16)):
            count += len(unpacker.decompress(chunk, 2**20))
            if unpacker.eof:
                break
    return count


def is_image(dataset: Dataset) -> bool:
    """Whether a header is that of an image, a segmentation aside."""
    return "Rows" in dataset and sop_class(dataset) not in SEGMENTATION_CLASSES


def sop_class(dataset: Dataset) -> str:
    """The kind of object as UID, from the file's own head where anonymising has emptied the data set's."""
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def sop_class_name(dataset: Dataset) -> str:
    from pydicom.uid import UID

    return UID(sop_class(dataset)).name or "an object of unknown kind"


def _headers_in(folder: Path) -> list[Dataset]:
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
    ]
    found = [path for path in files if has_dicom_preamble(path)]
    # An emptied or overwritten slice at the end of a stack would not show as a gap.
    broken = [path for path in files if path not in set(found) and _ought_to_be_dicom(path)] if found else []
    if broken:
        raise DataError(
            "lies among DICOM files and is none",
            file=broken[0],
            expected="DICOM, which has the letters DICM behind its first 128 bytes",
            found=f"{broken[0].stat().st_size} bytes without them",
            hint="copy the file again; move away what does not belong to the series",
        )
    if not found:
        below = [entry.name for entry in sorted(folder.iterdir()) if is_dicom_folder(entry)]
        raise DataError(
            "is a folder without DICOM files",
            file=folder,
            expected="the files of one DICOM series, or give a file",
            found=f"DICOM in its folders {_some(below)}" if below else f"{len(files)} other files",
            hint=f"give one of these folders, such as {folder / below[0]}" if below else "give the file inside it",
        )
    headers = [header(path) for path in found]
    for each in headers:  # pydicom reads what there is of a header; a slice that is passed over may not show as a gap
        if "Rows" not in each and sop_class_name(each).endswith("Image Storage"):
            raise DataError(
                "is a DICOM image without its size",
                file=each.filename,
                expected="Rows and Columns",
                found="a header that ends before them",
                hint="the file is probably cut off: copy it again",
            )
    return headers


def _ought_to_be_dicom(path: Path) -> bool:
    if has_suffix(path, _DICOM_NAMES) or path.suffix[1:].isdigit():
        return True
    return not path.stat().st_size and not has_suffix(path, _OTHER_SUFFIXES)


def _listing(by_series: dict[str, list[Dataset]]) -> str:
    lines = [
        f"{uid or 'a series without UID'}: {images[0].get('SeriesDescription') or 'no description'}, "
        f"{images[0].get('Modality') or 'no modality'}, {_count(images)} images"
        for uid, images in by_series.items()
    ]
    return "\n    " + "\n    ".join(lines)


def _count(images: Iterable[Dataset]) -> int:
    return sum(int(image.get("NumberOfFrames") or 1) for image in images)


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
