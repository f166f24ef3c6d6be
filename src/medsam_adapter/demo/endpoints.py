"""Named endpoints for `gradio_client`: the same workspace without the page. Documented in demos/README.md.

Voxels are (i, j, k) of the file, as in `msa predict`. Each client has a workspace of its own. Files come in through a
`gr.File` and never as a path in plain text: `gr.api` would pass on whatever path a client sends.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from medsam_adapter.demo import comparing, saving
from medsam_adapter.demo.examples import EXAMPLES, write_example
from medsam_adapter.demo.uploads import without_folders
from medsam_adapter.demo.visitors import Visitors
from medsam_adapter.demo.windows import PRESETS, window_of
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import DataError, MSAError, PromptError


def add_endpoints(visitors: Visitors, examples_folder: Path) -> None:
    """Add them to the `gr.Blocks` that is being built, unseen on the page."""
    with gr.Row(visible=False):
        facts, image, download = gr.JSON(), gr.Image(format="png", type="pil"), gr.File()

        def add(name: str, act: Callable, inputs: Sequence[Any] = (), output: Any = facts) -> None:
            gr.Button().click(
                _guarded(visitors, act, [each.label for each in inputs]),
                list(inputs),
                output,
                api_name=name,
                api_description=(act.__doc__ or "").strip(),
                concurrency_limit=4,
            )

        def numbers(*names: str) -> list[gr.Number]:
            return [gr.Number(label=name, precision=0) for name in names]

        def open_example(space: Workspace, name: str) -> dict:
            """Open a made-up scan: "phantom CT", "phantom CT, finer" or "phantom skin lesion"."""
            if name not in EXAMPLES:
                raise DataError("there is no such example", expected=", ".join(EXAMPLES), found=str(name)[:60])
            space.open([write_example(name, examples_folder)])
            return _scan_facts(space)

        add("open", _open, [gr.File(label="files", file_count="multiple")])
        add("open_example", open_example, [gr.Textbox(label="name")])
        add("window", _window, [gr.Number(label="low"), gr.Number(label="high")])
        add("preset", _preset, [gr.Textbox(label="name")])
        add("click", _click, numbers("x", "y", "z", "label"))
        add("box", _box, numbers("x0", "y0", "z0", "x1", "y1", "z1"))
        add("say", _say, [gr.Textbox(label="text")])
        add("whole_volume", _whole_volume)
        for name in ("undo", "redo", "clear", "add_object"):
            add(name, _plain(name))
        add("choose_object", _choose, numbers("index"))
        add("model", _model, [gr.Textbox(label="name")])
        add("state", _state)
        add("view", _view, [gr.Textbox(label="plane"), *numbers("index")], image)
        add("compare", _compare, [gr.Textbox(label="left"), gr.Textbox(label="right"), gr.File(label="reference")])
        for name, save in (
            ("mask", saving.save_mask), ("session", saving.save_session), ("dicom_seg", saving.save_segmentation),
        ):  # fmt: skip
            add(name, _saved(save), (), download)


def _guarded(visitors: Visitors, act: Callable, names: Sequence[str]) -> Callable:
    """`act` for the client's own workspace, with our errors as Gradio's, and parameters of these names."""

    def run(request: gr.Request, *values):
        try:
            return act(visitors.space(request.session_hash), *values)
        except MSAError as error:
            raise gr.Error(str(without_folders(error)), print_exception=False) from error

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("request", *names)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # `inspect` looks for it there
    run.__annotations__ = {"request": gr.Request}
    return run


def _scan_facts(space: Workspace) -> dict:
    scan = space.opened()
    return {
        "name": space.scan_name, "shape_zyx": list(scan.shape_zyx), "spacing_mm": list(scan.spacing_mm),
        "planes": {name: plane.num_slices for name, plane in space.planes.items()}, "modality": space.modality,
        "reason": space.reason, "window": list(space.window),
    }  # fmt: skip


def _state(space: Workspace) -> dict:
    """The objects, their prompts and sizes, the model and the choices on its menu."""
    scan = space.opened()
    voxel_ml = scan.spacing_mm[0] * scan.spacing_mm[1] * scan.spacing_mm[2] / 1000
    objects = []
    for each in space.objects:
        voxels = int(each.mask.sum())
        objects.append(
            {
                "name": each.thing.name, "prompt": each.thing.prompt.to_json(), "voxels": voxels,
                "volume_ml": round(voxels * voxel_ml, 3) if scan.is_volume else None,
                "is_carried": each.thing.carried is not None,
            }
        )  # fmt: skip
    return {"objects": objects, "active": space.active, "model": space.choice, "models": space.models.choices}


def _open(space: Workspace, files: list[str] | None) -> dict:
    """Open a picture, a volume, a .zip of a DICOM series, or all .dcm files of one."""
    space.open(files or [])
    return _scan_facts(space)


def _window(space: Workspace, low: float, high: float) -> dict:
    """What is black and what is white, in the file's values; a model without an intensity of its own sees the same."""
    if None in (low, high) or not -math.inf < low < high < math.inf:
        raise PromptError("is no window", expected="low < high", found=f"{low}, {high}")
    space.opened()
    space.window = float(low), float(high)
    return _scan_facts(space)


def _preset(space: Workspace, name: str) -> dict:
    """A window by its name: "soft-tissue", "lung", "bone", "brain", "liver", "percentile", "full range", ..."""
    known = sorted({each for names in PRESETS.values() for each in names})
    if name not in known:
        raise PromptError("there is no such preset", expected=", ".join(known), found=str(name)[:60])
    space.window = window_of(space.opened(), name)
    return _scan_facts(space)


def _click(space: Workspace, x: float, y: float, z: float, label: float) -> dict:
    """A click at a voxel of the file: label 1 the object, 0 background. z is 0 in a picture."""
    if label not in (0, 1):
        raise PromptError("a click has a label", expected="1 object or 0 background", found=str(label)[:20])
    space.click_voxel(_voxel(x, y, z), int(label))
    return _state(space)


def _box(space: Workspace, x0: float, y0: float, z0: float, x1: float, y1: float, z1: float) -> dict:
    """A box by two opposite voxels of the file, both on one slice that the model sees (z0 = z1 for axial files)."""
    first, second = _voxel(x0, y0, z0), _voxel(x1, y1, z1)
    corners = [sorted(pair) for pair in zip(first, second, strict=True)]
    space.box_voxels([low for low, _ in corners] + [high for _, high in corners])
    return _state(space)


def _voxel(*values: float | None) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values if value is not None)
    if len(numbers) < len(values):
        raise PromptError("a place has three numbers", expected="x, y, z", found=str(values))
    return numbers


def _whole(index: float | None) -> int:
    if index is None:
        raise PromptError("an index is missing", expected="a whole number from 0", found="nothing")
    return int(index)


def _say(space: Workspace, text: str) -> dict:
    """Name the active object by a sentence, where the model takes texts."""
    if space.say(text or ""):
        space.carry_on()
    return _state(space)


def _whole_volume(space: Workspace) -> dict:
    """Carry the active object's mask through the volume; again after corrections."""
    space.carry_on()
    return _state(space)


def _plain(name: str) -> Callable:
    def act(space: Workspace) -> dict:
        getattr(space, name)()
        return _state(space)

    act.__doc__ = {
        "undo": "Take the last change back.", "redo": "Bring it back.",
        "clear": "Forget the active object's prompts and mask.", "add_object": "A further object, which prompts go to.",
    }[name]  # fmt: skip
    return act


def _saved(save: Callable[[Workspace], Path]) -> Callable:
    def act(space: Workspace) -> str:
        return str(save(space))

    act.__doc__ = save.__doc__
    return act


def _choose(space: Workspace, index: float) -> dict:
    """Let prompts go to another object, counted from 0."""
    space.choose(_whole(index))
    return _state(space)


def _model(space: Workspace, name: str) -> dict:
    """Let another model of the menu answer; the prompts are kept."""
    space.use_model(name)
    return _state(space)


def _view(space: Workspace, plane: str, index: float):
    """The slice of a plane (from 0) as the page shows it: "axial", "coronal", "sagittal", or "picture"."""
    space.go_to(plane, _whole(index))
    return saving.screen_picture(space, plane)


def _compare(space: Workspace, left: str, right: str, reference: str | None) -> dict:
    """Two models of the menu on the same prompts; with a reference mask their Dice, IoU and HD95."""
    comparing.read_reference(space, reference)
    plane = space.main_plane if space.main_plane in space.planes else next(iter(space.planes), "")
    space.plane(plane)
    sides, sentence = comparing.compare(space, (left, right), plane)
    return {
        "scored": sentence,
        "models": [
            {"name": side.choice, "voxels": side.voxels}
            | ({} if side.metrics is None else {k: _plain_number(v) for k, v in vars(side.metrics).items()})
            for side in sides
        ],
    }


def _plain_number(value: Any) -> Any:
    """JSON knows no nan."""
    return None if isinstance(value, float) and math.isnan(value) else value
