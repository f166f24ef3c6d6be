"""Which kinds of image files there are, told by their names; DICOM also by its first bytes."""

from __future__ import annotations

from pathlib import Path, PurePath

from ..errors import DataError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
META_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
ARRAY_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")
DICOM_SUFFIXES = (".dcm",)
IMAGE_SUFFIXES = NIFTI_SUFFIXES + PICTURE_SUFFIXES + META_SUFFIXES + ARRAY_SUFFIXES + DICOM_SUFFIXES
# What a mask can be written as, lossless and as one file.
VOLUME_MASK_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")
PICTURE_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
LOSSY_SUFFIXES = (".jpg", ".jpeg")
_PREAMBLE_BYTES = 128
# Entries looked at before a folder is said to hold no DICOM.
_MAX_LOOKS = 8


def has_suffix(path: str | PurePath, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name ends in one of these, in any case of letters."""
    return Path(path).name.lower().endswith(suffixes)


def is_nifti(path: str | Path) -> bool:
    """Whether the file name ends in .nii or .nii.gz."""
    return has_suffix(path, NIFTI_SUFFIXES)


def is_volume_file(path: str | Path) -> bool:
    """Whether a mask of a volume can be written under this name (DICOM SEG aside, which needs a DICOM scan)."""
    return has_suffix(path, VOLUME_MASK_SUFFIXES)


def is_picture_file(path: str | Path) -> bool:
    """Whether a mask of a picture can be written under this name: a picture format that loses nothing."""
    return has_suffix(path, PICTURE_MASK_SUFFIXES)


def stem(path: str | Path) -> str:
    """The file name without its image suffix; `.nii.gz` is one suffix."""
    name = Path(path).name
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def has_dicom_preamble(path: Path) -> bool:
    """Whether a file has the letters DICM behind its first 128 bytes (DICOM PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            file.seek(_PREAMBLE_BYTES)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def is_dicom_file(path: str | Path) -> bool:
    """Whether a path is a file that is DICOM by its first bytes, or by its name .dcm."""
    path = Path(path)
    return path.is_file() and (has_suffix(path, DICOM_SUFFIXES) or has_dicom_preamble(path))


def is_dicom_folder(path: str | Path) -> bool:
    """Whether a folder holds DICOM files: looks at the first bytes of its first few files only."""
    path = Path(path)
    if not path.is_dir():
        return False
    looks = 0
    for entry in path.iterdir():
        if entry.name.startswith(".") or entry.name.upper() == "DICOMDIR" or not entry.is_file():
            continue
        if has_dicom_preamble(entry):
            return True
        looks += 1
        if looks >= _MAX_LOOKS:
            return False
    return False


def missing_package(package: str, path: Path) -> DataError:
    """The error of a file whose reader is not installed."""
    return DataError(
        f"needs the Python package {package}",
        file=path,
        expected="the extra 'formats'",
        found="an installation without it",
        hint="pip install 'medsam-adapter[formats]'",
    )


def one_line(error: Exception) -> str:
    """What a library said, as one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
