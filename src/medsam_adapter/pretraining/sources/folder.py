"""`kind: folder`: any folder of pictures and NIfTI volumes, subfolders included.

Every picture is an image; of a volume every slice along the slicing axis is one, each channel of a 4-D file for itself.
A slice without content (one value all over) is answered with the nearest slice of its volume that has some, because
headers, which are all that opening reads, do not tell them apart.

Left out are hidden files, and what looks like a reference: folders `masks`, `labels`, `labelsTr`, `labelsTs`,
`segmentations`, files `*_mask.*`, `*_segmentation.*`, `*_seg.*`, `*_label.*` and files called just so.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.intensity import check_mode, to_unit
from medsam_adapter.data.io import is_nifti, read_scan
from medsam_adapter.errors import DataError
from medsam_adapter.pretraining.sources.base import Picture, evenly, read_pages, with_file
from medsam_adapter.pretraining.sources.listing import SUFFIXES, image_files_below, is_reference, of_part, without

# Volumes are kept as one byte a value. An order mixes the slices of as many volumes as fit in the first figure; the
# cache is larger, so that passing from one such window to the next throws nothing away too early.
WINDOW_BYTES = 512 * 2**20
CACHE_BYTES = 1024 * 2**20


@dataclass
class _Unit:
    """A picture, or a stack of slices: a volume, one channel of it, or a TIFF of several pages."""

    file: str
    depth: int = 1
    size: int = 0
    is_stack: bool = False
    channel: int | None = None


class FolderSource:
    """Images of a folder, in the order of their names.

    Args:
        path: the folder.
        intensity, window_hu: how values become [0, 1], see `data.intensity.to_unit`; None is for 8-bit data.
        orientation: where x, y and z of a volume point: "LPS" cuts axial slices, "file" the file's own last axis.
        exclude: patterns of files to leave out (test cases), matched against the path below `path`, the file name and
            the name without suffix; each must match something.
        max_images: take so many, evenly spread.
        cases: a split file, {part: [case id, ...]}; only files whose name without suffix (and without nnU-Net's channel
            number) or path without suffix is in `part` are taken.
        part: see `cases`.
        name: what messages call this source.

    Raises:
        DataError: no such folder, no image left, a pattern without match, a part or cases that are not there, an
            unknown intensity or orientation, or volumes that are not 8 bit with `intensity` not said.
    """

    def __init__(
        self,
        path: str,
        intensity: str | None = None,
        window_hu: list[float] | None = None,
        orientation: str = "LPS",
        exclude: list[str] | None = None,
        max_images: int | None = None,
        cases: str | None = None,
        part: str = "train",
        name: str | None = None,
    ):
        self.root = Path(path)
        self.name = name or f"folder {self.root.name}"
        self.intensity = "window" if intensity is None and window_hu is not None else intensity
        self.window_hu = None if window_hu is None else tuple(window_hu)
        self.orientation = orientation
        check_mode(self.intensity, self.window_hu)
        if orientation != "file":
            Turn.to_codes(np.eye(4), (1, 1, 1), orientation)
        files = without(image_files_below(self.root), exclude or [], self.root)
        if cases is not None:
            files = of_part(files, cases, part, self.root)
        files = [file for file in files if not is_reference(file)]
        if not files:
            raise DataError(
                "holds no images to learn from", file=self.root, expected=", ".join(SUFFIXES),
                found="none, or only references and left-out files",
            )  # fmt: skip
        self._units = [unit for file in files for unit in self._index(file)]
        self._first = np.cumsum([0, *(unit.depth for unit in self._units)])
        self._chosen = evenly(int(self._first[-1]), max_images)
        self._cache: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._damaged: dict[int, DataError] = {}  # so that each slice of a damaged volume does not unpack it again

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, index: int) -> Picture:
        """The picture or slice. Raises DataError for a file that cannot be read or a volume without content."""
        at, number = self._chosen[index], int(self._units_of(self._chosen[index]))
        unit = self._units[number]
        file = self.root / unit.file
        if not unit.is_stack:
            return Picture(str(file), read_pages(file, file, self.intensity, self.window_hu)[0])
        stack, filled = self._stack(number)
        z = int(filled[np.abs(filled - (at - self._first[number])).argmin()])
        channel = "" if unit.channel is None else f"channel {unit.channel} "
        return Picture(f"{file} [{channel}slice {z}]", stack[z].astype(np.float32) / 255)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) random permutation that finishes with a handful of volumes before it takes the next."""
        unit_of = self._units_of(self._chosen)
        shuffled = rng.permutation(len(self._units))
        sizes = np.array([self._units[number].size for number in shuffled], dtype=np.int64)
        window_of = np.empty(len(self._units), dtype=np.int64)
        window_of[shuffled] = (np.cumsum(sizes) - sizes) // WINDOW_BYTES
        return np.lexsort((rng.random(len(self)), window_of[unit_of]))

    def after(self, index: int) -> int:
        """The first image of the next file or channel; the other slices of a damaged volume need no trying."""
        following = self._first[self._units_of(self._chosen[index]) + 1]
        return int(np.searchsorted(self._chosen, following)) % len(self)

    def _units_of(self, at: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first, at, side="right") - 1

    def _index(self, file: str) -> list[_Unit]:
        """What an image file holds by its header; a damaged one is one image, and reading it says what is wrong."""
        path = self.root / file
        if is_nifti(file):
            try:
                image = nib.load(path)
                shape = (*image.shape, 1, 1, 1)[: max(3, len(image.shape))]
                depth = shape[2]
                if self.orientation != "file":
                    turn = Turn.to_codes(image.affine, shape[:3], self.orientation)
                    depth = next(shape[i] for i, (axis, _) in enumerate(turn.orientation) if axis == 2)
            except Exception:  # nibabel raises whatever a damaged header leads it to
                return [_Unit(file, is_stack=True)]
            self._refuse_unknown_scale(path, image)
            size = int(np.prod(shape[:3])) * (3 if image.get_data_dtype().names else 1)
            if len(shape) == 4 and shape[3] > 1:
                return [_Unit(file, depth, size, True, channel) for channel in range(shape[3])]
            return [_Unit(file, depth, size, True)]
        if file.lower().endswith((".tif", ".tiff")):
            try:
                with Image.open(path, formats=("TIFF",)) as picture:
                    pages = getattr(picture, "n_frames", 1)
                    size = pages * picture.width * picture.height * len(picture.getbands())
            except Exception:  # as above
                return [_Unit(file)]
            if pages > 1:
                return [_Unit(file, pages, size, True)]
        return [_Unit(file)]

    def _refuse_unknown_scale(self, path: Path, image) -> None:
        dtype = image.get_data_dtype()
        if self.intensity is None and dtype != np.uint8 and not dtype.names:
            raise DataError(
                "the scale of this volume is not known", file=path, expected="`intensity` in the recipe",
                found=f"{dtype} values", hint="intensity: percentile for MR, ct:soft-tissue or such for CT",
            )  # fmt: skip

    def _stack(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A unit as (D, H, W) or (D, H, W, 3) uint8, and which slices have content; kept until others need the room."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        if number in self._damaged:
            error = self._damaged[number]
            raise with_file(error, error.file)  # a new one: an error raised again and again gathers its tracebacks
        try:
            stack = self._read_stack(self._units[number])
            filled = _slices_with_content(stack, self.root / self._units[number].file)
        except DataError as error:
            self._damaged[number] = with_file(error, error.file)
            raise
        self._cache[number] = stack, filled
        while len(self._cache) > 1 and sum(kept.nbytes for kept, _ in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return stack, filled

    def _read_stack(self, unit: _Unit) -> np.ndarray:
        file = self.root / unit.file
        if not is_nifti(unit.file):
            return _to_bytes(read_pages(file, file, self.intensity, self.window_hu))
        try:
            scan = read_scan(file, channel=unit.channel)
            values = _to_bytes(to_unit(scan.array, self.intensity, self.window_hu))
            if self.orientation != "file" and scan.affine is not None:
                turn = Turn.to_codes(scan.affine, scan.shape_zyx[::-1], self.orientation)
                values = np.ascontiguousarray(turn.array_to_source(values))
            return values
        except DataError as error:
            raise with_file(error, file) from error
        except Exception as error:  # see read_pages
            raise DataError("cannot be read", file=file, found=f"{type(error).__name__}: {error}") from error


def _slices_with_content(stack: np.ndarray, file: Path) -> np.ndarray:
    flat = stack.reshape(len(stack), -1)
    filled = np.flatnonzero(flat.min(1) != flat.max(1))
    if not len(filled):
        raise DataError(
            "has no content", file=file, expected="values that differ in a slice", found="one value in each slice",
            hint="check `intensity`, or leave the file out with `exclude`",
        )  # fmt: skip
    return filled


def _to_bytes(unit: np.ndarray) -> np.ndarray:
    return (unit * 255).round().astype(np.uint8)
