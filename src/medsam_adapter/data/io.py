"""Reading a scan or its label map from a file, and writing a mask.

Arrays are (z, y, x) everywhere; see `sample.py` for the frames.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .nifti import GRID_TOLERANCE_MM, grid_offset_mm, read_nifti, save_nifti
from .pictures import read_picture
from .sample import Scan

NIFTI_SUFFIXES = (".nii.gz", ".nii")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + PICTURE_SUFFIXES
_LOSSY_SUFFIXES = (".jpg", ".jpeg")


def is_nifti(path: str | Path) -> bool:
    """Whether the file name ends in .nii or .nii.gz."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def stem(path: str | Path) -> str:
    """The file name without its image suffix; `.nii.gz` is one suffix."""
    name = Path(path).name
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def read_scan(path: str | Path, *, channel: int | None = None) -> Scan:
    """Reads a volume or a picture as it is: no intensity change, no resampling, no reorientation.

    Args:
        channel: which volume of a 4-D NIfTI file to take.

    Returns:
        array (D, H, W) or (D, H, W, 3) in the file's dtype, spacing (z, y, x) in mm, affine (None for a picture).

    Raises:
        DataError: missing, empty or damaged file, unknown suffix, 4-D without `channel`, or NaN or infinite values.
    """
    path = _existing(path)
    if is_nifti(path):
        array, spacing_mm, affine = read_nifti(path, channel)
        scan = Scan(array, spacing_mm, affine, path)
    else:
        scan = Scan(read_picture(path), path=path)
    _refuse_not_finite(scan.array, path)
    return scan


def read_label(
    path: str | Path,
    *,
    like: Scan | None = None,
    colours: dict[tuple[int, int, int], int] | None = None,
    threshold: float | None = None,
) -> np.ndarray:
    """Reads a label map as the integers that the file holds; nothing is guessed or renumbered.

    Args:
        like: the scan it belongs to; grid and (NIfTI) affine must be the same, to 0.01 mm at the corners.
        colours: {(r, g, b): label} for a mask that codes labels as colours; black is 0 unless it is named.
        threshold: values at or above it become 1, all others 0 (for masks saved as JPEG or as probabilities).

    Returns:
        (D, H, W) integers. A palette picture gives its indices, an RGB mask of three equal channels its grey value.

    Raises:
        DataError: as `read_scan`; also a colour without label, a JPEG with more than two values and no threshold,
            values that are not whole numbers, or a grid unlike the scan's.
    """
    path = _existing(path)
    affine = None
    if is_nifti(path):
        array, _, affine = read_nifti(path)
    else:
        array = read_picture(path, keep_indices=colours is None)
    _refuse_not_finite(array, path)
    if colours is not None:
        array = _labels_from_colours(array, colours, path)
    elif array.ndim == 4:
        array = _grey_from_rgb(array, path)
    if threshold is not None:
        array = (array >= threshold).astype(np.uint8)
    elif path.suffix.lower() in _LOSSY_SUFFIXES and colours is None:
        _refuse_lossy_values(array, path)
    labels = _as_integers(array, path)
    if like is not None:
        _refuse_other_grid(labels, affine, path, like)
    return labels


def write_mask(path: str | Path, mask_zyx: np.ndarray, like: Scan) -> Path:
    """Writes a label map (D, H, W) on the grid of `like`; the file appears whole or not at all.

    NIfTI carries the geometry of `like` (and of its header where `like.path` still is that file) in the smallest
    integer dtype that holds the labels. PNG, TIFF and BMP hold the values as given, uint8 or uint16 (BMP: uint8).

    Raises:
        DataError: another grid than `like`, not integers, negative labels, values that the format cannot hold, a volume
            written as a picture, or a suffix that is lossy or unknown.
    """
    path, mask_zyx = Path(path), np.asarray(mask_zyx)
    if mask_zyx.shape != like.shape_zyx:
        raise DataError(
            "the mask is not on the grid of its scan",
            file=path,
            expected=f"shape {like.shape_zyx} (z, y, x)",
            found=f"shape {mask_zyx.shape}",
            hint="map the mask back to the scan's grid before writing it",
        )
    if mask_zyx.dtype != bool and not np.issubdtype(mask_zyx.dtype, np.integer):
        raise DataError(
            "a mask holds labels",
            file=path,
            expected="integers or booleans",
            found=str(mask_zyx.dtype),
            hint="round it",
        )
    lowest, highest = int(mask_zyx.min(initial=0)), int(mask_zyx.max(initial=0))
    if lowest < 0:
        raise DataError("a mask has no negative labels", file=path, expected="0 and above", found=str(lowest))
    data = mask_zyx.astype(np.min_scalar_type(highest))
    name = path.name.lower()
    if not is_nifti(path):
        limit = 255 if name.endswith(".bmp") else 65535
        if name.endswith(_LOSSY_SUFFIXES) or not name.endswith(PICTURE_SUFFIXES):
            raise DataError(
                "labels cannot be kept in this kind of file",
                file=path,
                expected=".nii.gz, .nii, .png, .tif or .bmp",
                found=path.suffix or "no suffix",
                hint="write masks as .nii.gz (volumes) or .png (pictures)",
            )
        if data.shape[0] != 1 or highest > limit:
            raise DataError(
                "this mask does not fit in a picture",
                file=path,
                expected=f"one slice with labels up to {limit}",
                found=f"{data.shape[0]} slices with labels up to {highest}",
                hint="write it as .nii.gz",
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-partial-{path.name}")
    try:
        if is_nifti(path):
            is_from_nifti = like.affine is not None and like.path is not None and is_nifti(like.path)
            affine = np.diag([*like.spacing_mm[::-1], 1.0]) if like.affine is None else like.affine
            save_nifti(partial, data, affine, geometry_from=like.path if is_from_nifti else None)
        else:
            Image.fromarray(data[0]).save(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _existing(path: str | Path) -> Path:
    path = Path(path)
    suffixes = "a file that ends in " + ", ".join(IMAGE_SUFFIXES)
    if path.is_dir():
        raise DataError("is a folder", file=path, expected=suffixes, hint="give the file inside it")
    if not path.is_file():
        raise DataError(
            "does not exist", file=path, expected=suffixes, found="no such file", hint="check the spelling of the path"
        )
    if not path.name.lower().endswith(IMAGE_SUFFIXES):
        raise DataError(
            "is of a kind that cannot be read here",
            file=path,
            expected=suffixes,
            found=f"'{path.suffix}'" if path.suffix else "no suffix",
            hint="convert it first: DICOM with dcm2niix, MetaImage and NRRD with SimpleITK or 3D Slicer, to .nii.gz",
        )
    if path.stat().st_size == 0:
        raise DataError("is empty", file=path, expected="an image", found="0 bytes", hint="copy the file again")
    return path


def _refuse_not_finite(array: np.ndarray, path: Path) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        return
    count = array.size - int(np.isfinite(array).sum())
    if count:
        raise DataError(
            "holds values that are not numbers",
            file=path,
            expected="finite values everywhere",
            found=f"{count} of {array.size} values are NaN or infinite",
            hint="replace them, for example with numpy.nan_to_num, and save the file again",
        )


def _labels_from_colours(array: np.ndarray, colours: dict[tuple[int, int, int], int], path: Path) -> np.ndarray:
    rgb = array if array.ndim == 4 else np.repeat(array[..., None], 3, axis=-1)
    if rgb.dtype != np.uint8:
        raise DataError("is no colour mask", file=path, expected="8-bit RGB", found=str(rgb.dtype))
    packed = _pack(rgb)
    labels = np.zeros(packed.shape, np.min_scalar_type(max(colours.values(), default=0)))
    is_known = packed == 0
    for colour, label in colours.items():
        is_colour = packed == _pack(np.array(colour))
        labels[is_colour] = label
        is_known |= is_colour
    if not is_known.all():
        raise DataError(
            "has colours that no label is given for",
            file=path,
            expected=", ".join(str(colour) for colour in colours) + " and black",
            found=_colour_list(packed[~is_known]),
            hint='name them in labels.json as "r,g,b": "name"; save masks without smoothing (no JPEG, no resizing)',
        )
    return labels


def _grey_from_rgb(array: np.ndarray, path: Path) -> np.ndarray:
    if (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        return array[..., 0]
    packed = _pack(array)
    raise DataError(
        "codes its labels as colours",
        file=path,
        expected="one channel of label values, or a colour for each label",
        found=_colour_list(packed[packed > 0]),
        hint='give read_label(colours={(r, g, b): label}), or labels.json with "r,g,b": "name"',
    )


def _pack(rgb: np.ndarray) -> np.ndarray:
    rgb = rgb.astype(np.int32)
    return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _colour_list(packed: np.ndarray, limit: int = 8) -> str:
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts)[:limit]
    named = [f"({values[i] >> 16}, {values[i] >> 8 & 255}, {values[i] & 255}) on {counts[i]} pixels" for i in order]
    return ", ".join(named) + (f" and {len(values) - limit} more" if len(values) > limit else "")


def _refuse_lossy_values(array: np.ndarray, path: Path) -> None:
    values = np.unique(array)
    if len(values) > 2:
        raise DataError(
            "is a JPEG whose compression has blurred the labels",
            file=path,
            expected="two values, or a threshold that makes them two",
            found=f"{len(values)} values from {values[0]} to {values[-1]}",
            hint="read it with threshold=128, or better save the masks again as PNG",
        )


def _as_integers(array: np.ndarray, path: Path) -> np.ndarray:
    if np.issubdtype(array.dtype, np.integer):
        return array
    is_whole = array == np.rint(array)
    if not is_whole.all():
        examples = ", ".join(f"{value:g}" for value in np.unique(array[~is_whole])[:5])
        raise DataError(
            "holds label values that are not whole numbers",
            file=path,
            expected="0 for background and one whole number for each label",
            found=f"{int((~is_whole).sum())} voxels such as {examples}",
            hint="resample label maps with nearest neighbour; give threshold=0.5 if these are probabilities",
        )
    return array.astype(np.promote_types(np.min_scalar_type(int(array.min())), np.min_scalar_type(int(array.max()))))


def _refuse_other_grid(labels: np.ndarray, affine: np.ndarray | None, path: Path, like: Scan) -> None:
    if labels.shape != like.shape_zyx:
        raise DataError(
            "the label map is not on the grid of its scan",
            file=path,
            expected=f"shape {like.shape_zyx} (z, y, x) as {like.path or 'the scan'}",
            found=f"shape {labels.shape}",
            hint="check that the two belong together; resample the label map (nearest neighbour) if they do",
        )
    if affine is None or like.affine is None:
        return
    offset_mm = grid_offset_mm(affine, like.affine, like.shape_zyx)
    if offset_mm > GRID_TOLERANCE_MM:
        raise DataError(
            "the label map lies elsewhere in space than its scan",
            file=path,
            expected=f"the affine of {like.path or 'the scan'}, to {GRID_TOLERANCE_MM:g} mm",
            found=f"corners up to {offset_mm:.3g} mm apart",
            hint="if the voxels do match, copy the scan's header to the label (fslcpgeom); resample it if they do not",
        )
