"""The masks of a session: carried through the volume, and corrected slice by slice.

The demo and `msa predict --session` both come here, so that a saved session gives its masks again voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.prompted_slices import Encoded
from medsam_adapter.inference.prompts_by_slice import by_slice, together
from medsam_adapter.inference.session import Carried, SessionObject
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt


def session_processor(predictor: MSAPredictor, adapter: Any, thing: SessionObject) -> MSAProcessor:
    """How the scan is prepared for an object: as the adapter's repo says, else with the object's own intensity."""
    own = predictor.processor_of(adapter)
    if own.intensity is not None or thing.intensity is None:
        return own
    return MSAProcessor(
        own.image_size, thing.intensity, thing.window_hu, own.orientation, own.image_mean, own.image_std, own.text_model
    )


def carry(
    predictor: MSAPredictor,
    encoded: Encoded,
    prompt: ObjectPrompt,
    before: tuple[np.ndarray, Carried] | None = None,
    rounds: int | None = None,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[np.ndarray, Carried]:
    """The mask of the whole volume (a sentence alone is said of every slice), and how it came about.

    Args:
        before: mask and `Carried` of the last time: on prompted slices it is the mask prompt, which the clicks correct.
        rounds: stop after so many steps along the slices, as a person did.
        progress: called with the number of slices decoded so far.
        should_stop: asked before each step.

    Returns:
        (D, H, W) bool in the file frame; `Carried` with the number of steps if it was stopped.
    """
    steps, was_stopped = 0, False

    def stop() -> bool:
        nonlocal steps, was_stopped
        was_stopped = steps == rounds or bool(should_stop and should_stop())
        steps += not was_stopped
        return was_stopped

    shown = _shown(encoded, before[0], by_slice(encoded.turn, prompt)) if before else {}
    found = predictor.predict_labels(encoded, [prompt], progress=progress, should_stop=stop, before=[shown])
    copy = ObjectPrompt.from_json(prompt.to_json())
    return found > 0, Carried(copy, steps if was_stopped else None, before[1] if before else None)


def correct(
    predictor: MSAPredictor, encoded: Encoded, mask: np.ndarray, prompt: ObjectPrompt, carried: Carried | None
) -> np.ndarray:
    """A mask with the slices decoded anew whose prompts are others than those that were carried.

    Where the carried mask shows the object, the clicks correct it: it is the mask prompt, and a background click alone
    is enough; where it shows nothing, background clicks alone change nothing. Where they say nothing any more, the
    carried mask stays.

    Args:
        mask: (D, H, W) bool in the file frame: what was carried; all False without.

    Returns:
        a new array.

    Raises:
        PromptError: prompts that do not fit the scan, or no others than background clicks with nothing to correct.
    """
    before = by_slice(encoded.turn, carried.prompt) if carried else {}
    changed = {z: said for z, said in by_slice(encoded.turn, prompt).items() if said != before.get(z)}
    out = mask.copy()
    if not changed:
        return out
    anew = together(changed, prompt.text)
    slices = encoded.turn.array_to_source(out)  # a view: what is written to it stands in `out`
    for z, each in predictor.predict_slices(encoded, anew, _shown(encoded, mask, changed)).items():
        slices[z] = each
    return out


def _shown(encoded: Encoded, mask: np.ndarray, slices: Iterable[int]) -> dict[int, np.ndarray]:
    """{slice of the source: (H, W) bool} of those slices on which a mask in the file frame shows something.

    Slices outside the scan are left out: the predictor refuses their prompts.
    """
    turned = encoded.turn.array_to_source(mask)
    return {z: np.ascontiguousarray(turned[z]) for z in slices if 0 <= z < len(turned) and turned[z].any()}


def replay_carried(
    predictor: MSAPredictor,
    encoded: Encoded,
    carried: Carried,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> np.ndarray:
    """(D, H, W) bool in the file frame: what was carried, time after time."""
    before = None
    if carried.before is not None:
        before = replay_carried(predictor, encoded, carried.before, progress, should_stop), carried.before
    return carry(predictor, encoded, carried.prompt, before, carried.rounds, progress, should_stop)[0]


def object_mask(
    predictor: MSAPredictor,
    encoded: Encoded,
    thing: SessionObject,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> np.ndarray:
    """(D, H, W) bool in the file frame: the mask that follows from what a session says of an object.

    Raises:
        PromptError: prompts that do not fit the scan.
    """
    if thing.carried is None:
        mask = np.zeros(encoded.turn.shape_ijk[::-1], bool)
    else:
        mask = replay_carried(predictor, encoded, thing.carried, progress, should_stop)
    return correct(predictor, encoded, mask, thing.prompt, thing.carried)


def label_map(masks: Sequence[np.ndarray], shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """The i-th mask as label i + 1; where two overlap the later one lies on top."""
    out = np.zeros(shape_zyx, np.uint8 if len(masks) < 256 else np.uint16)
    for value, mask in enumerate(masks, 1):
        out[mask] = value
    return out
