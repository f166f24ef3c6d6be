"""One visitor: the scan that is open, the objects in it, and what can be done to them. Knows nothing of Gradio."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medsam_adapter.data.io import content_digest
from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.encodings import Encodings
from medsam_adapter.demo.models import Models
from medsam_adapter.demo.objects import History, Segmented, Step
from medsam_adapter.demo.planes import Plane, plane_sliced_like, planes_of
from medsam_adapter.demo.rendering import STYLES
from medsam_adapter.demo.uploads import Limits, read_upload
from medsam_adapter.demo.windows import PRESETS, intensity_of, likely_modality, window_of
from medsam_adapter.errors import DataError, PromptError, no_text_prompts
from medsam_adapter.inference.prompted_slices import Encoded
from medsam_adapter.inference.session import Session, SessionObject
from medsam_adapter.inference.session_masks import (
    carry,
    correct,
    label_map,
    replay_carried,
)
from medsam_adapter.prompts.text import load_text_encoder
from medsam_adapter.prompts.types import ObjectPrompt

MAX_OBJECTS = 20


@dataclass
class Workspace:
    """The state behind one page.

    Attributes:
        models: the menu; `choice` is what answers now.
        limits: of uploads.
        main_plane, opacity, style: of the large view; how masks are drawn (`rendering.render`).
        scan, planes, at: the scan, its planes, and the slice of each plane that is shown.
        window, modality, reason: what the eye sees, the kind of scan and why it is taken for one.
        objects, active: the objects and the index of the one that prompts go to.
        reference: (D, H, W) label map to compare with, or None.
        stop: set to end what is being carried.
    """

    models: Models
    limits: Limits = field(default_factory=Limits)
    main_plane: str = "axial"
    opacity: float = 0.35
    style: str = STYLES[0]

    def __post_init__(self):
        self.lock = threading.RLock()  # held while prompts are answered; taken before `scene`
        self.scene = threading.RLock()  # held while the scan is exchanged, or shown: nobody sees half of each
        self.stop = threading.Event()
        self.folder = Path(tempfile.mkdtemp(prefix="msa-demo-"))
        self.choice = self.models.choices[0]
        self.last_used, self.is_closed = time.monotonic(), False
        self._encodings = Encodings(self.models)
        self._history = History()
        self._opened: Path | None = None  # what holds the files of the scan
        self._forget()

    def _forget(self) -> None:
        self.scan: Scan | None = None
        self.scan_name, self.digest = "", ""
        self.planes: dict[str, Plane] = {}
        self.at: dict[str, int] = {}
        self.window, self.modality, self.reason = (0.0, 255.0), "picture", ""
        self.objects: list[Segmented] = []
        self.active = 0
        self.reference: np.ndarray | None = None
        self._history.forget()
        self._encodings.close()

    def is_working(self) -> bool:
        """Whether a prompt is being answered, which may take long."""
        if not self.lock.acquire(blocking=False):
            return True
        self.lock.release()
        return False

    def close(self) -> None:
        """Free everything; files too."""
        self.is_closed = True
        self.stop.set()
        with self.lock, self.scene:
            self._forget()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the scan ------------------------------------------------------------------------------------------------------

    def open(self, paths: Sequence[str | Path], name: str | None = None) -> None:
        """Open an upload; the scan before stays open if this one cannot be read.

        Raises:
            DataError: see `uploads.read_upload`.
        """
        self.stop.set()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            scan = read_upload(paths, folder, self.limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self.lock, self.scene:
            before = self._opened if self.scan is not None else None
            self._forget()
            self._opened = folder
            if before is not None:
                shutil.rmtree(before, ignore_errors=True)
            self.scan, self.scan_name = scan, name or Path(paths[0]).name
            assert scan.path is not None  # it was read
            self.digest = content_digest(scan.path)
            self.planes = planes_of(scan)
            self.modality, self.reason = likely_modality(scan)
            self.window = window_of(scan, PRESETS[self.modality][0])
            self.at = {plane.name: plane.num_slices // 2 for plane in self.planes.values()}
            self.objects = [Segmented.empty(1, scan.shape_zyx)]

    def opened(self) -> Scan:
        """The scan. Raises `DataError` if none is open."""
        if self.scan is None:
            raise DataError("no scan is open", expected="a file or an example", found="nothing")
        return self.scan

    def plane(self, name: str) -> Plane:
        """A plane of the scan. Raises `DataError` for one that it does not have."""
        self.opened()
        if name not in self.planes:
            raise DataError("the scan has no such plane", expected=", ".join(self.planes), found=str(name)[:40])
        return self.planes[name]

    def go_to(self, plane: str, index: int) -> None:
        """Show a slice of a plane; the nearest one that exists."""
        with self.scene:
            chosen = self.plane(plane)
            self.at[plane] = int(np.clip(index, 0, chosen.num_slices - 1))

    def go_to_voxel(self, point_xyz: Sequence[float], but: str = "") -> None:
        """Show a voxel (i, j, k) of the file in every plane, except in the plane `but`."""
        for name, plane in self.planes.items():
            if name != but:
                self.go_to(name, round(float(plane.from_file(point_xyz)[2])))

    # -- the model -----------------------------------------------------------------------------------------------------

    def encoded(self, thing: SessionObject, choice: str | None = None) -> Encoded:
        """The scan as a model sees it for an object; encoded once, further slices when they are reached."""
        return self._encodings.of(self.opened(), thing, choice or self.choice)

    def encode_ahead(self) -> tuple[int, int]:
        """Have the rest of the volume encoded in the background, nearest slice first; (slices done, slices).

        Raises:
            DataError: intensities that the model cannot take.
        """
        with self.lock:
            encoded = self.encoded(self._with_intensity(self.objects[self.active].thing))
            middle = np.array(self.opened().shape_zyx[::-1]) // 2
            shown = plane_sliced_like(encoded.turn, self.planes)
            if shown is not None:
                middle = np.array(shown.to_file(0, 0, self.at[shown.name]))
            near = encoded.turn.slice_of(middle)
            encoded.embeddings.encode_rest_in_background(near)
            return encoded.embeddings.num_encoded, len(encoded.embeddings)

    def num_encoded(self) -> tuple[int, int]:
        """(slices encoded by now, all slices) of what was asked for last; (0, 0) of nothing. Waits for nobody."""
        return self._encodings.progress()

    def _with_intensity(self, thing: SessionObject) -> SessionObject:
        """With what the window shows now, for models without an intensity of their own; fixed by the first prompt."""
        if thing.intensity is not None:
            return thing
        out = copy.deepcopy(thing)
        out.intensity, out.window_hu = intensity_of(self.opened(), self.window)
        return out

    # -- prompts -------------------------------------------------------------------------------------------------------

    def click(self, plane: str, x: float, y: float, label: int = 1) -> None:
        """A click of the active object on the slice that a plane shows; pixels of that plane, label 1 object, 0 ground.

        Raises:
            PromptError, DataError: a click that does not fit; nothing has changed then.
        """
        with self.lock:
            self.click_voxel(self.plane(plane).to_file(x, y, self.at[plane]), label, but=plane)

    def click_voxel(self, point_xyz: Sequence[float], label: int = 1, but: str = "") -> None:
        """The same at a voxel (i, j, k) of the file; every plane but one goes there."""
        with self.lock:

            def add(prompt: ObjectPrompt) -> None:
                prompt.points.append(tuple(float(v) for v in point_xyz))
                prompt.labels.append(int(label))

            self._ask(add)
            self.go_to_voxel(point_xyz, but)

    def box(self, plane: str, x0: float, y0: float, x1: float, y1: float) -> None:
        """A box round the active object on the slice that a plane shows; one there before is replaced.

        Raises:
            PromptError: a box in a plane that the model does not see slices of, or one that does not fit.
        """
        with self.lock:
            chosen, index = self.plane(plane), self.at[plane]
            encoded = self.encoded(self._with_intensity(self.objects[self.active].thing))
            wanted = plane_sliced_like(encoded.turn, self.planes)
            if wanted is not None and wanted.name != chosen.name:
                raise PromptError(
                    f"this model sees {wanted.name} slices", expected=f"a box in the {wanted.name} plane",
                    found=f"one in the {chosen.name} plane", hint="clicks may be made in every plane",
                )  # fmt: skip
            corners = np.array([chosen.to_file(x0, y0, index), chosen.to_file(x1, y1, index)])
            self.box_voxels((*corners.min(0).tolist(), *corners.max(0).tolist()), but=plane)

    def box_voxels(self, box_xyzxyz: Sequence[float], but: str = "") -> None:
        """The same by two opposite voxels of the file, on one slice that the model sees."""
        with self.lock:
            box = tuple(float(v) for v in box_xyzxyz)

            def add(prompt: ObjectPrompt) -> None:
                turn = self.encoded(self._with_intensity(self.objects[self.active].thing)).turn
                here = turn.slice_of(box[:3])
                prompt.boxes = [old for old in prompt.boxes if turn.slice_of(old[:3]) != here] + [box]

            self._ask(add)
            self.go_to_voxel(np.reshape(box, (2, 3)).mean(0), but)

    def say(self, text: str) -> bool:
        """Name the active object by a sentence; without clicks it is said of every slice, by `carry_on`.

        Returns:
            whether `carry_on` is to follow.
        """
        with self.lock:
            self.opened()
            if not self.models.takes_text(self.choice):
                raise no_text_prompts()
            text = text.strip()[:200]
            if text:
                load_text_encoder(self.models.text_model(self.choice))([text])  # refuses one that is too long
            current = self.objects[self.active]
            if not current.thing.prompt.points and not current.thing.prompt.boxes:
                if not text:
                    raise PromptError("there is no sentence", expected="a name such as 'the spleen'", found="nothing")
                self._remember()
                new = Segmented.empty(self.active + 1, self.opened().shape_zyx)
                new.thing = self._with_intensity(new.thing)
                new.thing.prompt.text = text
                self._put(new)
                return True

            def name(prompt: ObjectPrompt) -> None:
                prompt.text = text

            self._ask(name)
            return False

    def _ask(self, change: Callable[[ObjectPrompt], None]) -> None:
        """Change the active object's prompt and decode the slices that this touches; all or nothing."""
        self.opened()
        new = self.objects[self.active].copy()
        new.thing = self._with_intensity(new.thing)
        change(new.thing.prompt)
        encoded = self.encoded(new.thing)
        new.mask = correct(self.models.predictor, encoded, new.carried, new.thing.prompt, new.thing.carried)
        self._remember()
        self._put(new)

    def _put(self, new: Segmented) -> None:
        """In place of the active object, which may have been renamed or hidden since the new one was begun."""
        self.objects[self.active] = new.looks_as(self.objects[self.active])

    def carry_on(self, progress: Callable[[int], None] | None = None) -> bool:
        """Carry the active object's mask through the volume, from all its prompts and from what was carried before.

        Returns:
            False if it was stopped.
        """
        with self.lock:
            self.opened()
            self.stop.clear()
            new = self.objects[self.active].copy()
            if not new.is_asked:
                raise PromptError("there is nothing to carry", expected="a click, a box or a sentence", found="none")
            before = (new.carried, new.thing.carried) if new.thing.carried else None
            predictor, encoded = self.models.predictor, self.encoded(new.thing)
            new.carried, new.thing.carried = carry(
                predictor, encoded, new.thing.prompt, before, None, progress, self.stop.is_set
            )
            new.mask = new.carried
            self._remember()
            self._put(new)
            return new.thing.carried.rounds is None

    def use_model(self, choice: str, progress: Callable[[int], None] | None = None) -> None:
        """Let another model answer; all prompts are kept and all masks made anew.

        Raises:
            CheckpointError: no such model. PromptError: prompts that it does not take. Nothing has changed then.
        """
        with self.lock:
            self.stop.clear()
            self.models.names(choice)
            if self.scan is None:
                self.choice = choice
                return
            renewed = [self._by(each, choice, progress) if each.is_asked else each for each in self.objects]
            if self.stop.is_set():  # half a mask would be none of the session's
                raise PromptError("stopped", expected=f"all masks by {choice}", found=f"{self.choice} answers still")
            self._remember()
            self.objects = [new.looks_as(old) for new, old in zip(renewed, self.objects, strict=True)]
            self.choice = choice

    def _by(self, each: Segmented, choice: str, progress: Callable[[int], None] | None = None) -> Segmented:
        """An object as another model answers its prompts."""
        out = each.copy()
        predictor, encoded = self.models.predictor, self.encoded(out.thing, choice)
        out.carried = np.zeros(self.opened().shape_zyx, bool)
        if out.thing.carried is not None:
            out.carried = replay_carried(predictor, encoded, out.thing.carried, progress, self.stop.is_set)
        out.mask = correct(predictor, encoded, out.carried, out.thing.prompt, out.thing.carried)
        return out

    def mask_by(self, choice: str) -> np.ndarray:
        """(D, H, W): the active object's mask as a model of the menu answers its prompts; nothing is changed.

        Raises:
            PromptError: nothing is asked yet, prompts that the model does not take, or it was stopped.
        """
        with self.lock:
            self.stop.clear()
            each = self.objects[self.active]
            if not each.is_asked:
                raise PromptError("there is nothing to compare", expected="a click, a box or a sentence", found="none")
            if choice == self.choice:
                return each.mask
            answered = self._by(each, choice)
            if self.stop.is_set():  # half a mask is not to be scored
                raise PromptError("stopped", expected=f"the mask by {choice}", found="a part of it")
            return answered.mask

    # -- objects and history -------------------------------------------------------------------------------------------

    def add_object(self) -> None:
        """A further object, which prompts go to from now on."""
        with self.lock:
            shape = self.opened().shape_zyx
            if len(self.objects) >= MAX_OBJECTS:
                raise PromptError("there are enough objects", expected=f"up to {MAX_OBJECTS}", found="one more")
            self._remember()
            self.objects = [*self.objects, Segmented.empty(len(self.objects) + 1, shape)]
            self.active = len(self.objects) - 1

    def choose(self, index: int) -> None:
        """Let prompts go to another object."""
        with self.lock:
            if not 0 <= index < len(self.objects):
                raise PromptError("there is no such object", expected=f"0 to {len(self.objects) - 1}", found=str(index))
            self.active = index

    def clear(self) -> None:
        """Forget the active object's prompts and mask; its name and colour stay."""
        with self.lock:
            shape = self.opened().shape_zyx
            self._remember()
            self._put(Segmented.empty(self.active + 1, shape))

    def undo(self) -> bool:
        """Take the last change back; False if there is none."""
        with self.lock:
            return self._go_back_to(self._history.undo(self._now()))

    def redo(self) -> bool:
        """Bring back what was taken back; False if there is nothing."""
        with self.lock:
            return self._go_back_to(self._history.redo(self._now()))

    def _go_back_to(self, step: Step | None) -> bool:
        if step is None:
            return False
        before, self.objects = self.objects, [each.copy() for each in step.objects]
        self.active, self.choice = step.active, step.choice
        for new, old in zip(self.objects, before, strict=False):  # the last one may be one more, or gone
            new.looks_as(old)
        return True

    def _now(self) -> Step:
        return Step([each.copy() for each in self.objects], self.active, self.choice)

    def _remember(self) -> None:
        self._history.remember(self._now())

    # -- what leaves ---------------------------------------------------------------------------------------------------

    def labels(self) -> np.ndarray:
        """(D, H, W) label map of all objects, in the file frame."""
        return label_map([each.mask for each in self.objects], self.opened().shape_zyx)

    def session(self) -> Session:
        """What `msa predict --session` needs to make the same label map."""
        adapter, is_plain = self.models.source(self.choice)
        shape = self.opened().shape_zyx
        things = [copy.deepcopy(each.thing) for each in self.objects]
        return Session(self.scan_name, self.digest, shape, self.models.name, adapter, is_plain, things, self.window)
