"""Files of strangers: bounded in size before anything is unpacked, and never written outside their own folder."""

from __future__ import annotations

import lzma
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from medsam_adapter.data.io import read_scan
from medsam_adapter.data.kinds import IMAGE_SUFFIXES, has_suffix, is_dicom_file, one_line
from medsam_adapter.data.limits import refuse_larger_than
from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.planes import planes_of
from medsam_adapter.demo.rendering import size_on_screen
from medsam_adapter.errors import DataError, MSAError

_CHUNK_BYTES = 2**20
# What reading a member may raise: NotImplementedError for a way of packing that is not known, EOFError where it ends.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
ACCEPTED = (".nii.gz", ".nii", ".zip", ".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".mha", ".nrrd")


@dataclass(frozen=True)
class Limits:
    """What one upload may be.

    Attributes:
        upload_bytes: of all its files as they arrive.
        unpacked_bytes: of its files, and of the scan, once unpacked.
        voxels: of the scan.
        picture_pixels: of a 2-D picture.
        files: in an archive or a DICOM series.
    """

    upload_bytes: int = 256 * 2**20
    unpacked_bytes: int = 768 * 2**20
    voxels: int = 120_000_000
    picture_pixels: int = 40_000_000
    files: int = 3000


def read_upload(paths: Sequence[str | Path], folder: Path, limits: Limits) -> Scan:
    """The scan of an upload: one image file, the .dcm files of a series, or a .zip with one of these.

    Args:
        paths: where the server put the files; their names are what the browser said.
        folder: an empty folder of this visitor, for what is unpacked.

    Raises:
        DataError: nothing, too much, or no scan; the sentences name files by their last part alone.
    """
    files = [Path(path) for path in paths]
    try:
        scan = read_scan(_unpacked(files, folder, limits))
    except MSAError as error:
        told = without_folders(error)
        if told.file == folder.name:  # a name that the server made up
            name = files[0].name if len(files) == 1 else None
            told = DataError(told.problem, file=name, expected=told.expected, found=told.found, hint=told.hint)
        raise told from error
    except (OSError, MemoryError, zipfile.BadZipFile, ValueError) as error:
        raise DataError("cannot be read", file=files[0].name if files else None, found=type(error).__name__) from error
    _refuse_unfit(scan, limits)
    return scan


def without_folders(error: MSAError) -> DataError:
    """The same sentence without the folders of this server."""
    file = None if error.file is None else Path(error.file).name
    hint = None if error.hint and "MSA_MAX_BYTES" in error.hint else error.hint  # not a visitor's to set
    parts = [error.expected, error.found, hint]
    if error.file is not None:
        parts = [None if part is None else part.replace(f"{Path(error.file).parent}/", "") for part in parts]
    return DataError(error.problem, file=file, expected=parts[0], found=parts[1], hint=parts[2])


def _unpacked(paths: Sequence[Path], folder: Path, limits: Limits) -> Path:
    if not paths:
        raise DataError("there is no file", expected="a picture, a volume, or a DICOM series", found="nothing")
    if len(paths) > limits.files:
        raise DataError("these are too many files", expected=f"up to {limits.files}", found=str(len(paths)))
    size = sum(path.stat().st_size for path in paths)
    if size > limits.upload_bytes:
        raise DataError(
            "the upload is too large", expected=f"up to {limits.upload_bytes / 2**20:.0f} MB",
            found=f"{size / 2**20:.0f} MB", hint="run `msa demo` on your own machine with a higher --max-upload-mb",
        )  # fmt: skip
    if len(paths) == 1 and paths[0].suffix.lower() == ".zip":
        found = _image_of(_extract(paths[0], folder, limits), paths[0])
    elif len(paths) == 1:
        if not (has_suffix(paths[0], IMAGE_SUFFIXES) or is_dicom_file(paths[0])):
            raise DataError(
                "is of a kind that cannot be opened here", file=paths[0].name, expected=", ".join(ACCEPTED),
                found=paths[0].suffix or "no suffix",
            )  # fmt: skip
        found = Path(shutil.copyfile(paths[0], folder / paths[0].name))  # the server may tidy up its own
    else:
        for number, path in enumerate(paths):
            if not is_dicom_file(path):
                raise DataError(
                    "several files are opened as one DICOM series only", file=path.name, expected="DICOM files",
                    found=path.suffix or "no suffix", hint="choose one picture or volume, or all files of one series",
                )  # fmt: skip
            shutil.copyfile(path, folder / f"{number:05d}.dcm")
        found = folder
    refuse_larger_than(found, limits.unpacked_bytes)
    return found


def _extract(archive: Path, folder: Path, limits: Limits) -> Path:
    """Unpack a .zip under names of our own, counting what really comes out rather than what its header says."""
    with zipfile.ZipFile(archive) as content:
        members = [each for each in content.infolist() if not each.is_dir() and _is_wanted(each.filename)]
        if len(members) > limits.files:
            raise DataError(
                "holds too many files", file=archive.name, expected=f"up to {limits.files}", found=str(len(members))
            )
        left = limits.unpacked_bytes
        for number, member in enumerate(members):
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError("holds a link", file=archive.name, expected="files only", found=member.filename[:80])
            if member.flag_bits & 1:
                raise DataError("is locked with a password", file=archive.name, expected="an open archive")
            name = PurePosixPath(member.filename.replace("\\", "/")).name
            suffix = next((each for each in IMAGE_SUFFIXES if name.lower().endswith(each)), "")
            # Nothing of the archive's own path is used: a member cannot say where it is written.
            at = folder / f"{number:05d}{suffix}"
            try:
                with content.open(member) as source, at.open("wb") as target:
                    while chunk := source.read(_CHUNK_BYTES):
                        left -= len(chunk)
                        if left < 0:
                            raise DataError(
                                "unpacks to too much", file=archive.name,
                                expected=f"up to {limits.unpacked_bytes / 2**20:.0f} MB", found="more",
                            )  # fmt: skip
                        target.write(chunk)
            except _DAMAGE as error:
                raise DataError(
                    "is damaged", file=archive.name, expected="a whole .zip", found=one_line(error),
                    hint="pack it anew",
                ) from error  # fmt: skip
    return folder


def _is_wanted(name: str) -> bool:
    """Not the droppings of an operating system."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return bool(parts) and "__MACOSX" not in parts and not parts[-1].startswith(".") and parts[-1] != "DICOMDIR"


def _image_of(folder: Path, archive: Path) -> Path:
    """The DICOM series of an unpacked archive, or its one image."""
    files = sorted(folder.iterdir())
    dicom = [file for file in files if is_dicom_file(file)]
    images = [file for file in files if file not in dicom and has_suffix(file, IMAGE_SUFFIXES)]
    if dicom and not images:
        for file in files:
            if file not in dicom:
                file.unlink()
        return folder
    if len(images) == 1 and not dicom:
        return images[0]
    raise DataError(
        "does not hold one scan", file=archive.name, expected="the files of one DICOM series, or one image",
        found=f"{len(dicom)} DICOM files and {len(images)} images",
    )  # fmt: skip


def _refuse_unfit(scan: Scan, limits: Limits) -> None:
    name = scan.path.name if scan.path else None
    depth, height, width = scan.shape_zyx
    most = limits.voxels if scan.is_volume else limits.picture_pixels
    if depth * height * width > most:
        raise DataError(
            "is too large for this demo", file=name, expected=f"up to {most / 1e6:.0f} million voxels",
            found=f"{depth} x {height} x {width}", hint="crop it, or use `msa predict` on your own machine",
        )  # fmt: skip
    if min(scan.shape_zyx) < 1 or max(height, width) < 8:
        found = f"{height} x {width}"
        raise DataError("is too small to see anything", file=name, expected="8 pixels or more", found=found)
    # Slices are drawn in the patient's proportions, so a few bytes in a header can ask for any amount of memory.
    shown = [size_on_screen(plane.shape_zyx[1:], plane.pixel_aspect) for plane in planes_of(scan).values()]
    if max(width * height for width, height in shown) > limits.picture_pixels:
        raise DataError(
            "has voxels that are too long to be drawn", file=name, expected="sides of 0.1 to 10 mm or so",
            found=" x ".join(f"{side:g}" for side in scan.spacing_mm) + " mm (z, y, x)",
            hint="mend the voxel size in the header",
        )  # fmt: skip
    if scan.array.ndim == 4 and scan.array.shape[3] not in (3,):
        raise DataError(
            "has several channels", file=name, expected="one value a voxel, or RGB",
            found=f"{scan.array.shape[3]} channels", hint="save the sequence that you want to see as its own volume",
        )  # fmt: skip
    if not np.ptp(scan.array[:: max(1, depth // 8)]) and not np.ptp(scan.array):
        found = f"{scan.array.flat[0]} everywhere"
        raise DataError("shows nothing", file=name, expected="different intensities", found=found)
