"""What the page shows of a workspace: slices, sliders, objects, the line under the picture."""

from __future__ import annotations

import html
import itertools
import math
from typing import Any

import gradio as gr

from medsam_adapter.data.dicom.images import DicomScan
from medsam_adapter.demo.page import VIEWS, Page
from medsam_adapter.demo.rendering import MAX_SIDE
from medsam_adapter.demo.viewer import EMPTY, slice_content
from medsam_adapter.demo.windows import PRESETS, range_of
from medsam_adapter.demo.workspace import Workspace

Update = dict[Any, Any]
_SIDE_VIEW = 360
_answers = itertools.count(1)


class Showing:
    """Updates of a page's components, from what a workspace holds."""

    def __init__(self, page: Page):
        self.page = page

    def views(self, space: Workspace, *only: str) -> Update:
        """The slices, all or some of them, and their sliders."""
        page, update = self.page, {}
        with space.scene:
            names = plane_order(space)
            for view in only or VIEWS:
                name = names.get(view)
                side = MAX_SIDE if view == "main" else _SIDE_VIEW
                update[getattr(page, view)] = slice_content(space, name, side) if name else EMPTY
                if name:
                    count = space.planes[name].num_slices
                    update[getattr(page, f"{view}_slice")] = gr.Slider(
                        maximum=max(count, 2), value=space.at[name] + 1, label=f"{name} slice", visible=count > 1
                    )
        return update

    def table(self, space: Workspace) -> Update:
        """The table of objects, and the menu of those that prompts can go to."""
        page = self.page
        with space.scene:
            if not space.objects:
                return {page.table: "", page.chosen: gr.Dropdown(choices=[], value=None)}
            names = [f"{i}. {each.thing.name}" for i, each in enumerate(space.objects, 1)]
            return {
                page.table: objects_table(space),
                page.chosen: gr.Dropdown(choices=names, value=names[space.active]),
            }

    def objects(self, space: Workspace) -> Update:
        """The same, and the fields of the active object: not after every click, for somebody may be writing in them."""
        page, update = self.page, self.table(space)
        with space.scene:
            if space.objects:
                active = space.objects[space.active]
                update |= {
                    page.name: active.thing.name, page.colour: active.thing.colour, page.visible: active.is_visible,
                }  # fmt: skip
        return update

    def say(self, text: str, is_error: bool = False, share: float | None = None) -> Update:
        """The line under the picture."""
        kind = "msa-status msa-error" if is_error else "msa-status"
        number = next(_answers)  # else the same words twice are no change, and the browser shows no answer
        return {self.page.status: f"<div class='{kind}' data-answer='{number}'>{html.escape(text)}{_bar(share)}</div>"}

    def encoding(self, done: int, total: int) -> Update:
        """How far the scan is encoded, in a line of its own: what was answered stays to be read."""
        if done >= total:
            return {self.page.encoding: "", self.page.timer: gr.Timer(active=False)}
        text = f"encoding slice {done + 1} of {total}; clicks are answered meanwhile"
        return {self.page.encoding: f"<div class='msa-encoding'>{text}{_bar(done / total)}</div>"}

    def all(self, space: Workspace, text: str) -> Update:
        """Everything that prompts change."""
        return self.views(space) | self.table(space) | self.say(text)

    def about_scan(self, space: Workspace) -> Update:
        """What of the page depends on the kind of scan."""
        page, scan = self.page, space.opened()
        is_volume = scan.is_volume
        low, high = range_of(scan)
        step = 1 if high - low > 20 else (high - low) / 200
        many = [name for name, plane in space.planes.items() if plane.num_slices > 1]
        return {
            page.modality: space.modality,
            page.preset: gr.Dropdown(choices=list(PRESETS[space.modality]), value=PRESETS[space.modality][0]),
            page.low: gr.Slider(minimum=low, maximum=high, step=step, value=max(low, space.window[0])),
            page.high: gr.Slider(minimum=low, maximum=high, step=step, value=min(high, space.window[1])),
            page.volume_row: gr.Row(visible=is_volume),
            page.second_group: gr.Group(visible=len(many) > 1),
            page.third_group: gr.Group(visible=len(many) > 1),
            page.plane: gr.Radio(visible=is_volume, value=space.main_plane),
            page.save_seg: gr.Button(visible=isinstance(scan, DicomScan)),
            page.reference: None, page.saved: gr.File(visible=False, value=None), page.scores: "", page.left: EMPTY,
            page.right: EMPTY, page.solid: "{}",
        }  # fmt: skip


def _bar(share: float | None) -> str:
    return "" if share is None else f"<div class='msa-bar'><div style='width:{100 * share:.0f}%'></div></div>"


def sentence(space: Workspace) -> str:
    """What was opened."""
    scan = space.opened()
    size = " x ".join(str(size) for size in scan.shape_zyx[::-1][: 3 if scan.is_volume else 2])
    spacing = " x ".join(f"{mm:.2g}" for mm in scan.spacing_mm[::-1])
    unit = f"voxels of {spacing} mm" if scan.is_volume else "pixels"
    return f"{space.scan_name}: {size} {unit}. Taken for {space.modality} ({space.reason})."


def plane_order(space: Workspace) -> dict[str, str]:
    """{view: the plane that it shows}: the chosen one large, the others beside it; of a picture its one plane."""
    names = list(space.planes)
    if space.main_plane in names:
        names.remove(space.main_plane)
        names.insert(0, space.main_plane)
    return dict(zip(VIEWS, names, strict=False))


def objects_table(space: Workspace) -> str:
    """HTML: colour, name, volume and voxels of every object."""
    voxel_ml = math.prod(space.opened().spacing_mm) / 1000
    is_volume, rows = space.opened().is_volume, []
    for number, each in enumerate(space.objects):
        kinds = " ".join(
            name
            for name, is_so in (("msa-active", number == space.active), ("msa-hidden", not each.is_visible))
            if is_so
        )
        voxels = int(each.mask.sum())
        volume = f"{voxels * voxel_ml:.1f}" if is_volume else ""
        rows.append(
            f"<tr class='{kinds}'><td><span class='msa-swatch' style='background:{each.thing.colour}'></span></td>"
            f"<td>{html.escape(each.thing.name)}</td><td class='msa-number'>{volume}</td>"
            f"<td class='msa-number'>{voxels:,}</td></tr>"
        )
    return (
        f"<table class='msa-objects'><tr><th></th><th>object</th><th>ml</th><th>voxels</th></tr>{''.join(rows)}</table>"
    )
