"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) through SimpleITK, which knows space as LPS; affines here are RAS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from .grids import LPS_TO_RAS
from .kinds import missing_package, one_line


def _simpleitk(path: Path):
    try:
        import SimpleITK
    except ImportError as error:
        raise missing_package("SimpleITK", path) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # what matters arrives as an exception
    return SimpleITK


def read_metaimage(
    path: Path, channel: int | None = None
) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray | None]:
    """The voxels (D, H, W) or (D, H, W, 3), spacing (z, y, x) in mm and affine (4, 4) to RAS mm of a file.

    The dtype stays. Three components of uint8 are colour. A file of two axes is a picture: affine None.

    Args:
        channel: which component of a vector image, or which entry of the fourth axis, to take; None makes both errors.

    Raises:
        DataError: damaged, another kind of file, several channels without `channel`, complex, or no voxels.
    """
    sitk = _simpleitk(path)
    image = _opened(sitk, path)
    array = sitk.GetArrayFromImage(image)  # axes backwards, components last
    axes, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if np.iscomplexobj(array):
        raise DataError("holds complex numbers", file=path, expected="real voxels", hint="save the magnitude first")
    is_colour = components == 3 and array.dtype == np.uint8 and channel is None
    if components > 1 and not is_colour:
        array = _chosen(array, -1, components, channel, path, "components in each voxel")
    if axes == 4:
        array = _chosen(array, 0, array.shape[0], channel if components == 1 else None, path, "volumes in one file")
    spacing_xyz, direction, origin = image.GetSpacing(), image.GetDirection(), image.GetOrigin()
    if axes == 2:
        return array[None], (1.0, *map(float, spacing_xyz[::-1])), None
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(direction, (axes, axes))[:3, :3] * spacing_xyz[:3]
    lps[:3, 3] = origin[:3]
    return array, tuple(float(size) for size in spacing_xyz[2::-1]), LPS_TO_RAS @ lps


def voxels_and_header(path: Path) -> tuple[np.ndarray, str]:
    """All voxels of a file, whatever its channels, and size, dtype and geometry as text; for telling copies.

    Raises:
        DataError: damaged, or another kind of file.
    """
    sitk = _simpleitk(path)
    image = _opened(sitk, path)
    geometry = (image.GetSize(), image.GetPixelIDTypeAsString(), image.GetSpacing(), image.GetOrigin())
    return sitk.GetArrayFromImage(image), str((*geometry, image.GetDirection()))


def _opened(sitk, path: Path):
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DataError(
            "cannot be read as MetaImage or NRRD",
            file=path,
            expected="a whole .mha, .mhd, .nrrd or .nhdr file, and beside a .mhd or .nhdr the file with its voxels",
            found=_last_words(error),
            hint="the file may be cut off or renamed: copy it again, or open it in 3D Slicer",
        ) from error


def _chosen(array: np.ndarray, axis: int, count: int, channel: int | None, path: Path, what: str) -> np.ndarray:
    if count == 1:
        return array.take(0, axis=axis)
    if channel is None:
        hint = "choose one with channel=0, or save each as a file of its own"
        if path.name.lower().endswith(".seg.nrrd"):
            hint = "its segments overlap: in 3D Slicer export them as a labelmap, or collapse them to one layer"
        raise DataError(
            "has more than one channel", file=path, expected="one volume", found=f"{count} {what}", hint=hint
        )
    if not 0 <= channel < count:
        raise DataError(
            "does not have the wanted channel",
            file=path,
            expected=f"a channel from 0 to {count - 1}",
            found=str(channel),
        )
    return np.ascontiguousarray(array.take(channel, axis=axis))


def save_metaimage(path: Path, array_zyx: np.ndarray, spacing_mm: tuple[float, ...], affine: np.ndarray | None) -> None:
    """Writes (D, H, W) voxels compressed, not atomically; without an affine only the spacing goes along."""
    sitk = _simpleitk(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_zyx))
    image.SetSpacing([float(size) for size in spacing_mm[::-1]])
    if affine is not None:
        lps = LPS_TO_RAS @ affine
        sizes = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(sizes.tolist())
        image.SetDirection((lps[:3, :3] / sizes).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def _last_words(error: RuntimeError) -> str:
    """The end of what ITK says: the beginning names its own source files, and its reason is a left-over errno."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1] if lines else one_line(error)
