"""What happens when something on the page is pressed: the visitor's workspace is changed, and the page shows it."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from medsam_adapter.demo import comparing, saving
from medsam_adapter.demo.examples import write_example
from medsam_adapter.demo.page import BACKGROUND, VIEWS, WHOLE_VOLUME, Page
from medsam_adapter.demo.rendering import hex_colour
from medsam_adapter.demo.showing import Showing, Update, objects_table, plane_order, sentence
from medsam_adapter.demo.uploads import without_folders
from medsam_adapter.demo.visitors import Visitors
from medsam_adapter.demo.volume_viewer import volume_content
from medsam_adapter.demo.windows import MODALITIES, PRESETS, range_of, window_of
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import MSAError

_POLL_SECONDS = 0.25


class Events:
    """Ties a page to its visitors.

    Args:
        examples_folder: where examples are made when they are first opened.
    """

    def __init__(self, page: Page, visitors: Visitors, examples_folder: Path):
        self.page, self.visitors, self.examples_folder = page, visitors, examples_folder
        self.showing = Showing(page)

    # -- wiring --------------------------------------------------------------------------------------------------------

    def handle(self, act: Callable[..., Update | Iterator[Update]]) -> Callable:
        """An event of Gradio: finds the visitor, and turns our errors into a sentence."""

        def failed(space: Workspace, error: MSAError) -> Update:
            text = "; ".join(line.strip() for line in str(without_folders(error)).splitlines())
            return self.showing.views(space) | self.showing.table(space) | self.showing.say(text, is_error=True)

        def event(request: gr.Request, *inputs):
            space = self.visitors.space(request.session_hash)
            try:
                done = act(space, *inputs)
                for update in [done] if isinstance(done, dict) else done:
                    yield update or gr.skip()
            except MSAError as error:
                yield failed(space, error)
            except Exception:
                if not space.is_closed:  # else the visitor left in the middle of it
                    raise
                yield gr.skip()

        return event

    def connect(self) -> None:
        """Tie every component of the page to what it does."""
        page = self.page
        shown = [*self._outputs()]

        def on(trigger, act, inputs=(), **settings) -> Any:
            run = self.handle(act)

            # Gradio gives parameters of these types what they ask for, and the inputs to the rest.
            def plain(request: gr.Request, *values):
                yield from run(request, *values)

            def with_data(data: gr.EventData, request: gr.Request, *values):
                yield from run(request, data._data, *values)

            chosen = with_data if settings.pop("says", False) else plain
            settings.setdefault("show_progress", "hidden")
            settings.setdefault("api_visibility", "private")
            settings.setdefault("concurrency_limit", 4)
            return trigger(chosen, list(inputs), shown, **settings)

        # A dropdown's `input` comes twice for one choice (Gradio 6.31), its `select` once.
        on(page.file.upload, self.open_files, [page.file], show_progress="minimal", show_progress_on=page.main)
        on(page.example.select, self.open_example, [page.example], show_progress="minimal", show_progress_on=page.main)
        on(page.model.select, self.use_model, [page.model])
        on(page.modality.select, self.set_modality, [page.modality])
        on(page.preset.select, self.set_preset, [page.preset])
        for slider in (page.low, page.high):
            on(slider.input, self.set_window, [page.low, page.high], trigger_mode="always_last")
        for part in (page.opacity, page.style):
            on(part.input, self.set_look, [page.opacity, page.style], trigger_mode="always_last")
        on(page.plane.input, self.set_plane, [page.plane])
        for view in VIEWS:
            viewer, slider = getattr(page, view), getattr(page, f"{view}_slice")
            place = functools.partial(self.place, view)
            on(viewer.place, place, [page.label, page.extent], says=True, trigger_mode="multiple")
            box = functools.partial(self.box, view)
            on(viewer.box, box, [page.extent], says=True, trigger_mode="multiple")
            on(viewer.scroll, functools.partial(self.scroll, view), says=True, trigger_mode="multiple")
            on(slider.input, functools.partial(self.go_to, view), [slider], trigger_mode="always_last")
        on(page.carry.click, self.carry_on)
        on(page.stop.click, self.stop, queue=False)
        for trigger in (page.say.click, page.text.submit):
            on(trigger, self.name_it, [page.text])
        on(page.undo.click, self.undo)
        on(page.redo.click, self.redo)
        on(page.clear.click, self.clear)
        on(page.add.click, self.add_object)
        on(page.chosen.select, self.choose, [page.chosen])
        on(page.name.blur, self.rename, [page.name])
        on(page.name.submit, self.rename, [page.name])
        on(page.colour.input, self.recolour, [page.colour], trigger_mode="always_last")
        on(page.visible.input, self.set_visible, [page.visible])
        on(page.timer.tick, self.tick)
        on(page.save_mask.click, self.save("mask"))
        on(page.save_seg.click, self.save("segmentation"))
        on(page.save_picture.click, self.save("picture"))
        on(page.save_session.click, self.save("session"))
        on(page.show_solid.click, self.show_solid, show_progress="minimal", show_progress_on=page.solid)
        on(page.reference.change, self.take_reference, [page.reference])
        on(page.compare.click, self.compare, [page.left_model, page.right_model], show_progress="minimal",
           show_progress_on=[page.left, page.right])  # fmt: skip

    def _outputs(self) -> Iterator[Any]:
        page = self.page
        for view in VIEWS:
            yield getattr(page, view)
            yield getattr(page, f"{view}_slice")
        yield from (
            page.second_group, page.third_group, page.status, page.encoding, page.volume_row, page.text_row,
            page.table, page.chosen,
            page.name, page.colour, page.visible, page.modality, page.preset, page.low, page.high, page.plane,
            page.label, page.model, page.timer, page.saved, page.save_seg, page.solid, page.left, page.right,
            page.scores, page.example, page.file, page.reference,
        )  # fmt: skip

    # -- the scan ------------------------------------------------------------------------------------------------------

    def open_files(self, space: Workspace, files: list[str] | None) -> Update:
        if not files:
            return {}
        space.open(files)
        return {self.page.example: None, self.page.file: None} | self._opened(space)  # else the next is added to it

    def open_example(self, space: Workspace, name: str | None) -> Update:
        if not name:
            return {}
        space.open([write_example(name, self.examples_folder)])
        return {self.page.file: None} | self._opened(space)

    def _opened(self, space: Workspace) -> Update:
        note, page = "", self.page
        try:
            done, total = space.encode_ahead()
            if space.models.is_for_ct(space.choice) and space.modality != "CT":
                note = " The chosen model was trained on CT and sees this through a CT window."
        except MSAError as error:  # such as a model for pictures and a CT: the scan is open all the same
            note, done, total = f" {error.problem}.", 0, 0
        with space.scene:
            update = self.showing.about_scan(space) | {page.timer: gr.Timer(active=done < total)}
            return update | self.showing.all(space, sentence(space) + note) | self.showing.objects(space)

    def tick(self, space: Workspace) -> Update:
        return self.showing.encoding(*space.num_encoded())

    def set_modality(self, space: Workspace, modality: str) -> Update:
        space.modality = modality if modality in MODALITIES else space.modality
        presets = list(PRESETS[space.modality])
        return {self.page.preset: gr.Dropdown(choices=presets, value=presets[0])} | self.set_preset(space, presets[0])

    def set_preset(self, space: Workspace, preset: str | None) -> Update:
        if space.scan is None or not preset:
            return {}
        space.window = window_of(space.scan, preset)
        low, high = range_of(space.scan)
        sliders = {self.page.low: max(low, space.window[0]), self.page.high: min(high, space.window[1])}
        return sliders | self.showing.views(space)

    def set_window(self, space: Workspace, low: float, high: float) -> Update:
        if space.scan is None:
            return {}
        space.window = float(low), max(float(high), float(low) + 1e-3)
        return {self.page.preset: None} | self.showing.views(space)

    def set_look(self, space: Workspace, opacity: float, style: str) -> Update:
        space.opacity, space.style = float(opacity), style
        return self.showing.views(space)

    def set_plane(self, space: Workspace, plane: str) -> Update:
        space.main_plane = plane
        return self.showing.views(space)

    def go_to(self, view: str, space: Workspace, number: float) -> Update:
        name = plane_order(space).get(view)
        if name is None:
            return {}
        space.go_to(name, int(number) - 1)
        return {getattr(self.page, view): self.showing.views(space, view)[getattr(self.page, view)]}

    def scroll(self, view: str, space: Workspace, data: dict) -> Update:
        name = plane_order(space).get(view)
        if name is None:
            return {}
        space.go_to(name, space.at[name] + (1 if data.get("by", 0) > 0 else -1))
        return self.showing.views(space, view)

    # -- prompts -------------------------------------------------------------------------------------------------------

    def place(self, view: str, space: Workspace, data: dict, label: str, extent: str) -> Update | Iterator[Update]:
        is_background = bool(data.get("background")) or label == BACKGROUND
        began = time.perf_counter()
        space.click(plane_order(space).get(view, ""), float(data["x"]), float(data["y"]), 0 if is_background else 1)
        return self._answered(space, began, extent)

    def box(self, view: str, space: Workspace, data: dict, extent: str) -> Update | Iterator[Update]:
        began = time.perf_counter()
        space.box(plane_order(space).get(view, ""), *(float(data[key]) for key in ("x0", "y0", "x1", "y1")))
        return self._answered(space, began, extent)

    def _answered(self, space: Workspace, began: float, extent: str) -> Update | Iterator[Update]:
        if extent == WHOLE_VOLUME and space.opened().is_volume:
            return self.carry_on(space)
        milliseconds = 1000 * (time.perf_counter() - began)
        each = space.objects[space.active]
        hint = "" if each.mask.any() else " The mask is empty: try nearer to the middle, or a box."
        carry = " Carry it on with Whole volume." if space.opened().is_volume and each.mask.any() else ""
        return self.showing.all(space, f"{each.thing.name}: answered in {milliseconds:.0f} ms.{hint}{carry}")

    def name_it(self, space: Workspace, text: str) -> Update | Iterator[Update]:
        began = time.perf_counter()
        return self.carry_on(space) if space.say(text) else self._answered(space, began, "")

    def carry_on(self, space: Workspace) -> Iterator[Update]:
        total = space.opened().shape_zyx[0]
        began = time.perf_counter()
        outcome: dict[str, Any] = {}
        yield from self._follow(
            lambda show: outcome.update(is_whole=space.carry_on(show)), total, "following the object"
        )
        each = space.objects[space.active]
        ended = "" if outcome["is_whole"] else " Stopped: what was reached is kept."
        slices = int(each.mask.any((1, 2)).sum())
        seconds = time.perf_counter() - began
        yield self.showing.all(
            space, f"{each.thing.name}: {slices} slices in {seconds:.1f} s.{ended} Correct it on any slice."
        )

    def use_model(self, space: Workspace, choice: str) -> Iterator[Update]:
        total = space.scan.shape_zyx[0] if space.scan is not None else 1
        try:
            yield from self._follow(lambda show: space.use_model(choice, show), total, f"asking {choice}")
        except MSAError:
            yield {self.page.model: space.choice}
            raise
        models = space.models
        text = {self.page.text_row: gr.Row(visible=models.takes_text(choice))}
        yield text | self.showing.all(space, models.describe(choice) + " The prompts are the same.")

    def _follow(self, work: Callable[[Callable[[int], None]], Any], total: int, what: str) -> Iterator[Update]:
        """Do something long in a thread, and say how far it is."""
        state: dict[str, Any] = {"done": 0}

        def show(done: int) -> None:
            state["done"] = done

        def run() -> None:
            try:
                work(show)
            except Exception as error:  # raised again in the visitor's own thread
                state["error"] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        began = time.perf_counter()
        thread.join(_POLL_SECONDS)
        while thread.is_alive():
            share = min(1.0, state["done"] / max(total, 1))
            passed = time.perf_counter() - began
            left = f", about {passed / share - passed:.0f} s left" if share > 0.05 else ""
            yield self.showing.say(f"{what}: {100 * share:.0f} %{left}. Esc or Stop ends it.", share=share)
            thread.join(_POLL_SECONDS)
        if "error" in state:
            raise state["error"]

    def stop(self, space: Workspace) -> Update:
        space.stop.set()
        return {}

    def undo(self, space: Workspace) -> Update:
        return self._back(space, "Undone." if space.undo() else "There is nothing to undo.")

    def redo(self, space: Workspace) -> Update:
        return self._back(space, "Done again." if space.redo() else "There is nothing to redo.")

    def _back(self, space: Workspace, text: str) -> Update:
        row = {self.page.text_row: gr.Row(visible=space.models.takes_text(space.choice))}
        return {self.page.model: space.choice} | row | self.showing.all(space, text) | self.showing.objects(space)

    # -- objects -------------------------------------------------------------------------------------------------------

    def clear(self, space: Workspace) -> Update:
        space.clear()
        return self.showing.all(space, f"{space.objects[space.active].thing.name}: cleared.")

    def add_object(self, space: Workspace) -> Update:
        space.add_object()
        return self.showing.all(space, "A new object: click into it.") | self.showing.objects(space)

    def choose(self, space: Workspace, index: int) -> Update:
        space.choose(int(index))
        return self.showing.views(space) | self.showing.objects(space)

    def rename(self, space: Workspace, name: str) -> Update:
        if space.objects and name.strip():
            space.objects[space.active].thing.name = name.strip()[:60]
        return self.showing.objects(space)

    def recolour(self, space: Workspace, colour: str) -> Update:
        if not space.objects:
            return {}
        try:
            space.objects[space.active].thing.colour = hex_colour(colour)
        except ValueError:
            return {}
        return self.showing.views(space) | {self.page.table: objects_table(space)}

    def set_visible(self, space: Workspace, visible: bool) -> Update:
        if space.objects:
            space.objects[space.active].is_visible = bool(visible)
        return self.showing.views(space) | self.showing.objects(space)

    # -- results -------------------------------------------------------------------------------------------------------

    def save(self, kind: str) -> Callable[[Workspace], Update]:
        def act(space: Workspace) -> Update:
            if kind == "picture":
                file = saving.save_picture(space, plane_order(space).get("main", ""))
            else:
                write = {
                    "mask": saving.save_mask, "segmentation": saving.save_segmentation, "session": saving.save_session,
                }[kind]  # fmt: skip
                file = write(space)
            return {self.page.saved: gr.File(value=str(file), visible=True)} | self.showing.say(f"Saved {file.name}.")

        return act

    def show_solid(self, space: Workspace) -> Update:
        return {self.page.solid: volume_content(space)} | self.showing.say("Drag to turn, wheel to slice.")

    def take_reference(self, space: Workspace, path: str | None) -> Update:
        if space.scan is None:
            return {}
        comparing.read_reference(space, path)
        return self.showing.say("Reference taken." if path else "No reference.")

    def compare(self, space: Workspace, left: str, right: str) -> Update:
        space.opened()
        sides, sentence = comparing.compare(space, (left, right), plane_order(space).get("main", ""))
        return {
            self.page.left: sides[0].content, self.page.right: sides[1].content,
            self.page.scores: comparing.scores_table(sides, sentence),
        } | self.showing.say("Compared on the same prompts.")  # fmt: skip
