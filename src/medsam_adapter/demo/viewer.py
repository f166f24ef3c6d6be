"""The slice viewer: a `gr.HTML` whose script (static/viewer.js) tells clicks, boxes and scrolling apart.

`gr.Image` cannot: it knows no dragging, no second mouse button and no true aspect ratio.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from medsam_adapter.demo.rendering import MAX_SIDE, Layer, data_url, render
from medsam_adapter.demo.windows import to_bytes
from medsam_adapter.demo.workspace import Workspace

STATIC = Path(__file__).parent / "static"
EMPTY = json.dumps({})
_answers = itertools.count(1)
_TEMPLATE = """
<div class="msa-stage msa-empty" tabindex="0" role="img" aria-label="slice">
  <img class="msa-picture" alt="" draggable="false">
  <div class="msa-band"></div>
  <span class="msa-edge msa-edge-left"></span><span class="msa-edge msa-edge-right"></span>
  <span class="msa-edge msa-edge-top"></span><span class="msa-edge msa-edge-bottom"></span>
  <span class="msa-caption"></span>
</div>
"""
# Gradio looks for the names of a component's events in this text.
_CONNECT = """
window.msaViewer({
  element,
  read: () => props.value,
  watch,
  send: {
    place: (data) => trigger('place', data),
    box: (data) => trigger('box', data),
    scroll: (data) => trigger('scroll', data),
  },
});
"""


def slice_viewer(name: str, **settings) -> gr.HTML:
    """A viewer with the events `place` {x, y, background}, `box` {x0, y0, x1, y1} and `scroll` {by}."""
    script = (STATIC / "viewer.js").read_text(encoding="utf-8")
    return gr.HTML(
        EMPTY, html_template=_TEMPLATE, js_on_load=script + _CONNECT, elem_id=f"msa-view-{name}",
        elem_classes="msa-view", **settings,
    )  # fmt: skip


def slice_content(space: Workspace, plane_name: str, max_side: int = MAX_SIDE) -> str:
    """What a viewer shows of a plane, as its value; empty where the scan has no such plane."""
    if plane_name not in space.planes:
        return EMPTY
    plane, index = space.planes[plane_name], space.at[plane_name]
    picture = slice_picture(space, plane_name)
    layers = layers_on(space, plane_name)
    shown = render(picture, layers, plane.pixel_aspect, space.opacity, space.style, max_side)
    caption = f"{plane_name} {index + 1} / {plane.num_slices}" if plane.num_slices > 1 else space.scan_name
    content: dict[str, Any] = {
        "src": data_url(shown), "width": shown.width, "height": shown.height, "columns": picture.shape[1],
        "rows": picture.shape[0], "slices": plane.num_slices, "edges": plane.edges, "caption": caption,
        "answer": next(_answers),  # the viewer stops waiting when its value changes, even if the picture does not
    }  # fmt: skip
    return json.dumps(content)


def slice_picture(space: Workspace, plane_name: str) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8: the slice that a plane shows, through the window."""
    plane = space.planes[plane_name]
    return to_bytes(plane.slice_of(space.opened().array, space.at[plane_name]), space.window)


def layers_on(space: Workspace, plane_name: str) -> list[Layer]:
    """The visible objects on the slice that a plane shows, those with prompts last."""
    plane, index, layers = space.planes[plane_name], space.at[plane_name], []
    for number, each in enumerate(space.objects):
        if not each.is_visible:
            continue
        points, labels, boxes = plane.prompts_on(index, each.thing.prompt)
        mask = plane.slice_of(each.mask, index)
        layers.append(Layer(mask, each.thing.colour, points, labels, boxes, number == space.active))
    return layers
