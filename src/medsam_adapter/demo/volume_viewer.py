"""The 3-D view: NiiVue (https://github.com/niivue/niivue, BSD-2-Clause) with the scan, the masks and their surfaces.

The volumes travel inside the component's value, so that no file of a patient lies where others could ask for it. To
keep that small both are sampled to at most `MAX_SIDE` voxels along each axis; masks are saved from the full grid.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import gradio as gr
import nibabel as nib
import numpy as np

from medsam_adapter.demo.objects import Segmented
from medsam_adapter.demo.rendering import rgb
from medsam_adapter.demo.surface import surface_of
from medsam_adapter.demo.windows import to_bytes
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import DataError

STATIC = Path(__file__).parent / "static"
MAX_SIDE = 160
_TEMPLATE = '<div class="msa-solid"><canvas></canvas></div>'
_SCRIPT = "window.msaVolume({ element, read: () => props.value, watch });"


def volume_viewer() -> gr.HTML:
    """An empty view; its value is what `volume_content` gives."""
    gr.set_static_paths([STATIC])
    script = (STATIC / "volume.js").read_text(encoding="utf-8")
    return gr.HTML(
        "{}", html_template=_TEMPLATE, js_on_load=script + _SCRIPT, elem_id="msa-solid", padding=False,
        head=f'<script src="/gradio_api/file={STATIC / "niivue.umd.js"}"></script>',
    )  # fmt: skip


def volume_content(space: Workspace) -> str:
    """Scan, label map and colours for the view, as JSON.

    Raises:
        DataError: a picture, which has no third dimension.
    """
    scan = space.opened()
    if not scan.is_volume:
        raise DataError("a picture has no third dimension", expected="a volume", found=space.scan_name)
    steps = [max(1, -(-size // MAX_SIDE)) for size in scan.shape_zyx]
    some = tuple(slice(step // 2, None, step) for step in steps)
    picture = to_bytes(scan.array[some], space.window)
    picture = picture.mean(-1).astype(np.uint8) if picture.ndim == 4 else picture
    labels = np.zeros(picture.shape, np.uint8)
    for value, each in enumerate(space.objects, 1):
        if each.is_visible:
            labels[each.mask[some]] = value
    full = np.diag([*scan.spacing_mm[::-1], 1.0]) if scan.affine is None else scan.affine
    affine = full @ np.diag([*map(float, steps[::-1]), 1.0])
    affine[:3, 3] += full[:3, :3] @ [step // 2 for step in steps[::-1]]  # where the first voxel that is shown lies
    content = {
        "scan": _nifti(picture, affine), "labels": _nifti(labels, affine) if labels.any() else None,
        "colours": [rgb(each.thing.colour) for each in space.objects],
        "names": [each.thing.name for each in space.objects],
        "surfaces": [_surface(each, full) for each in space.objects if each.is_visible and each.mask.any()],
    }  # fmt: skip
    return json.dumps(content)


def _surface(each: Segmented, affine: np.ndarray) -> dict:
    vertices, triangles = surface_of(each.mask, affine)
    return {
        "name": each.thing.name, "colour": rgb(each.thing.colour),
        "vertices": base64.b64encode(vertices.tobytes()).decode(),
        "triangles": base64.b64encode(triangles.tobytes()).decode(),
    }  # fmt: skip


def _nifti(array_zyx: np.ndarray, affine: np.ndarray) -> str:
    """A .nii.gz as base64."""
    image = nib.Nifti1Image(np.ascontiguousarray(array_zyx.transpose(2, 1, 0)), affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), 4)).decode()
