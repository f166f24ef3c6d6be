"""The page: what stands where. What happens when something is pressed stands in `events.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from medsam_adapter.demo.models import Models
from medsam_adapter.demo.planes import PLANES
from medsam_adapter.demo.rendering import STYLES
from medsam_adapter.demo.uploads import ACCEPTED
from medsam_adapter.demo.viewer import slice_viewer
from medsam_adapter.demo.volume_viewer import volume_viewer
from medsam_adapter.demo.windows import MODALITIES, PRESETS

VIEWS = ("main", "second", "third")
OBJECT, BACKGROUND = "object", "background"
THIS_SLICE, WHOLE_VOLUME = "this slice", "whole volume"
KEYS = """
<span id="msa-keys">left click: object &nbsp; right click or <kbd>Shift</kbd>: background &nbsp; drag: box &nbsp;
wheel: slice &nbsp; <kbd>B</kbd> object / background &nbsp; <kbd>V</kbd> whole volume &nbsp; <kbd>Esc</kbd> stop &nbsp;
<kbd>Ctrl Z</kbd> undo &nbsp; <kbd>Ctrl Y</kbd> redo</span>
"""


@dataclass
class Page:
    """The components that events read or change."""

    parts: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.parts[name]
        except KeyError as error:
            raise AttributeError(name) from error


def lay_out(models: Models, examples: list[str]) -> Page:
    """Build the page inside a `gr.Blocks`.

    Args:
        examples: names of what can be opened without a file.
    """
    parts: dict[str, Any] = {}
    gr.HTML(
        "<div id='msa-title'><h1>Medical SAM Adapter</h1>"
        "<p>Open a scan, click into an organ or lesion, carry the mask through the volume. For research only.</p></div>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=250):
            parts |= _opening(models, examples)
        with gr.Column(scale=6, min_width=480):
            parts |= _segmenting(models)
        with gr.Column(scale=3, min_width=280):
            parts |= _beside()
    with gr.Tabs():
        with gr.Tab("Save", id="save"):
            parts |= _saving()
        with gr.Tab("3-D", id="solid"):
            parts["show_solid"] = gr.Button("Show in 3-D", size="sm", elem_id="msa-show-solid")
            parts["solid"] = volume_viewer()
        with gr.Tab("Compare", id="compare"):
            parts |= _comparing(models)
    parts["timer"] = gr.Timer(0.6, active=False)
    return Page(parts)


def _opening(models: Models, examples: list[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    parts["file"] = gr.File(
        label="Scan: NIfTI, DICOM (.zip or all .dcm files), PNG, JPEG, TIFF", file_count="multiple",
        file_types=[*sorted({"." + name.rpartition(".")[2] for name in ACCEPTED})], height=120, elem_id="msa-file",
    )  # fmt: skip
    parts["example"] = gr.Dropdown(examples, value=None, label="or an example", elem_id="msa-example")
    choices = models.choices
    parts["model"] = gr.Dropdown(
        choices, value=choices[0], label="Model", elem_id="msa-model", interactive=len(choices) > 1
    )
    with gr.Accordion("Window", open=True):
        parts["modality"] = gr.Dropdown(list(MODALITIES), value="picture", label="Kind of scan", elem_id="msa-modality")
        parts["preset"] = gr.Dropdown(list(PRESETS["picture"]), value=None, label="Preset", elem_id="msa-preset")
        parts["low"] = gr.Slider(0, 255, 0, label="Black at", elem_id="msa-low")
        parts["high"] = gr.Slider(0, 255, 255, label="White at", elem_id="msa-high")
    with gr.Accordion("Overlay", open=False):
        parts["opacity"] = gr.Slider(0, 1, 0.35, step=0.05, label="Opacity", elem_id="msa-opacity")
        parts["style"] = gr.Radio(list(STYLES), value=STYLES[0], label="Masks as", elem_id="msa-style")
    return parts


def _segmenting(models: Models) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="msa-tools"):
        parts["plane"] = gr.Radio(
            list(PLANES), value="axial", show_label=False, container=False, elem_id="msa-plane", scale=3
        )
        parts["label"] = gr.Radio(
            [OBJECT, BACKGROUND], value=OBJECT, show_label=False, container=False, elem_id="msa-switch", scale=2
        )
        parts["undo"] = gr.Button("Undo", size="sm", elem_id="msa-undo", min_width=50)
        parts["redo"] = gr.Button("Redo", size="sm", elem_id="msa-redo", min_width=50)
        parts["clear"] = gr.Button("Clear", size="sm", elem_id="msa-clear", min_width=50)
    parts["main"] = slice_viewer("main")
    parts["main_slice"] = gr.Slider(1, 2, 1, step=1, label="Slice", elem_id="msa-slice-main", visible=False)
    parts["status"] = gr.HTML("<div class='msa-status'>Ready.</div>", elem_id="msa-status")
    parts["encoding"] = gr.HTML(elem_id="msa-encoding")
    with gr.Row(visible=False) as parts["volume_row"]:
        parts["extent"] = gr.Radio(
            [THIS_SLICE, WHOLE_VOLUME], value=THIS_SLICE, label="A prompt segments", elem_id="msa-extent", scale=3
        )
        parts["carry"] = gr.Button("Whole volume", variant="primary", elem_id="msa-carry", scale=2)
        parts["stop"] = gr.Button("Stop", variant="stop", elem_id="msa-stop", scale=1, min_width=60)
    with gr.Row(visible=models.takes_text(models.choices[0])) as parts["text_row"]:
        parts["text"] = gr.Textbox(
            placeholder="the spleen", label="or name it", max_length=200, elem_id="msa-text", scale=4
        )
        parts["say"] = gr.Button("Segment by name", elem_id="msa-say", scale=1)
    gr.HTML(KEYS)
    return parts


def _beside() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name in VIEWS[1:]:
        with gr.Group(visible=False) as parts[f"{name}_group"]:
            parts[name] = slice_viewer(name)
            parts[f"{name}_slice"] = gr.Slider(
                1, 2, 1, step=1, show_label=False, container=False, elem_id=f"msa-slice-{name}"
            )
    parts["table"] = gr.HTML(elem_id="msa-table")
    parts["chosen"] = gr.Dropdown([], label="Prompts go to", elem_id="msa-chosen", type="index")
    with gr.Row():
        parts["name"] = gr.Textbox(label="Name", max_length=60, elem_id="msa-name", scale=2, min_width=90)
        parts["colour"] = gr.ColorPicker(label="Colour", elem_id="msa-colour", scale=1, min_width=70)
        parts["visible"] = gr.Checkbox(True, label="Visible", elem_id="msa-visible", scale=1, min_width=96)
    parts["add"] = gr.Button("New object", size="sm", elem_id="msa-add")
    return parts


def _saving() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["save_mask"] = gr.Button("Mask", elem_id="msa-save-mask")
        parts["save_seg"] = gr.Button("DICOM SEG", elem_id="msa-save-seg", visible=False)
        parts["save_picture"] = gr.Button("Picture (PNG)", elem_id="msa-save-picture")
        parts["save_session"] = gr.Button("Session (JSON)", elem_id="msa-save-session")
    parts["saved"] = gr.File(
        label="Saved: click the size to download", interactive=False, elem_id="msa-saved", visible=False
    )
    gr.Markdown("A session makes the same mask again: `msa predict --session session.json SCAN -o mask.nii.gz`")
    return parts


def _comparing(models: Models) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    choices = models.choices
    with gr.Row():
        parts["left_model"] = gr.Dropdown(choices, value=choices[-1], label="Left", elem_id="msa-left-model")
        parts["right_model"] = gr.Dropdown(choices, value=choices[0], label="Right", elem_id="msa-right-model")
        parts["reference"] = gr.File(label="Reference mask (optional)", elem_id="msa-reference", height=90)
        parts["compare"] = gr.Button("Compare", variant="primary", elem_id="msa-compare")
    with gr.Row():
        parts["left"] = slice_viewer("left")
        parts["right"] = slice_viewer("right")
    parts["scores"] = gr.HTML(elem_id="msa-scores")
    return parts
