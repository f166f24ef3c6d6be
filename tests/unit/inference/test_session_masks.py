"""A mask made click by click is the mask that its session gives again, by another predictor on another day."""

from __future__ import annotations

import numpy as np
import pytest

from blobs import LPS, PERMUTED, RAS
from demo_setup import SHAPE_ZYX, adapted, centre_of, workspace, write_organ
from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.io import read_scan
from medsam_adapter.errors import PromptError
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.prompted_slices import TextRules
from medsam_adapter.inference.prompts_by_slice import by_slice
from medsam_adapter.inference.session import Carried, Session, SessionObject
from medsam_adapter.inference.session_masks import correct, label_map, object_mask, session_processor
from medsam_adapter.inference.volume import CarryRules
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt

TEXTS = {"use_text": True, "text_width": 12}
X, Y, Z = centre_of()


@pytest.fixture(scope="module")
def predictor(randomise, quiet):
    return MSAPredictor(adapted(randomise), device="cpu")


@pytest.fixture(scope="module")
def talker(randomise, quiet, tiny_clip):
    made = MSAPredictor(adapted(randomise, text_model=tiny_clip, **TEXTS), device="cpu")
    made.text_rules = TextRules(0.0, 0.0)
    return made


@pytest.fixture
def space(predictor, tmp_path):
    made = workspace(predictor)
    made.open([write_organ(tmp_path / "organ.nii.gz")])
    yield made
    made.close()


def again(space, predictor, tmp_path) -> list[np.ndarray]:
    """The masks of the workspace's session, from its file and from the scan's file."""
    session = Session.load(space.session().save(tmp_path / "session.json"))
    scan = read_scan(space.scan.path)
    masks = []
    for thing in session.objects:
        adapter = () if session.is_plain else None
        processor = session_processor(predictor, adapter, thing)
        encoded = predictor.encode(scan, "volume" if scan.is_volume else "image", adapter=adapter, processor=processor)
        masks.append(object_mask(predictor, encoded, thing))
    return masks


def stop_after(space, steps: int):
    """For `carry_on`: somebody presses Stop."""
    calls = []

    def progress(done: int) -> None:
        calls.append(done)
        if len(calls) >= steps:
            space.stop.set()

    return progress


def click(x, y, z, label=1):
    return lambda space: space.click_voxel((x, y, z), label)


def box(*corners):
    return lambda space: space.box_voxels(corners)


def carry_on(space):
    assert space.carry_on()


def stopped(steps):
    def act(space):
        assert not space.carry_on(stop_after(space, steps))

    return act


def window(low, high):
    def act(space):
        space.window = (low, high)

    return act


FORE, BACK, BOX = click(X, Y, Z), click(X + 4, Y - 5, Z, 0), box(X - 7, Y - 8, Z, X + 7, Y + 8, Z)
STORIES = {
    "a click": [FORE],
    "clicks on one slice": [FORE, click(X + 2, Y + 3, Z), BACK],
    "clicks on two slices": [FORE, click(X, Y, Z + 1), BACK],
    "a box": [BOX],
    "a box that is replaced": [BOX, box(X - 3, Y - 3, Z, X + 3, Y + 3, Z)],
    "boxes on two slices": [BOX, box(X - 5, Y - 5, Z - 1, X + 5, Y + 5, Z - 1)],
    "a box and a click": [BOX, BACK],
    "carried": [FORE, BACK, carry_on],
    "carried from a box": [BOX, carry_on],
    "carried and corrected where it was clicked": [FORE, carry_on, BACK],
    "carried and corrected elsewhere": [FORE, carry_on, click(X + 2, Y + 1, Z + 2)],
    "carried and corrected by background alone": [FORE, carry_on, click(X - 2, Y - 1, Z - 1, 0)],
    "carried with background alone on a slice": [FORE, click(X - 2, Y - 1, Z - 1, 0), carry_on],
    "carried with background where nothing is": [FORE, click(2, 2, 0, 0), carry_on, BACK, carry_on],
    "carried and corrected twice": [FORE, carry_on, click(X - 2, Y - 1, Z - 1, 0), click(X + 3, Y, Z + 1, 0)],
    "carried, corrected, carried again": [FORE, carry_on, click(X + 4, Y + 4, Z + 1), BACK, carry_on],
    "carried thrice": [FORE, carry_on, BACK, carry_on, click(X, Y, Z + 2), carry_on],
    "stopped": [FORE, stopped(1)],
    "stopped later": [FORE, stopped(2)],
    "stopped and corrected": [FORE, stopped(1), click(X, Y, Z - 2)],
    "stopped, corrected, carried to the end": [FORE, stopped(1), click(X, Y, Z - 2), carry_on, BACK],
    "undone": [FORE, BACK, carry_on, lambda space: space.undo()],
    "undone and redone": [FORE, carry_on, BACK, lambda space: space.undo(), lambda space: space.redo()],
    "another window": [window(90, 180), FORE, BACK],
    "the window turned after the first click": [window(90, 180), FORE, window(0, 1000), carry_on, BACK],
    "the plain model": [FORE, carry_on, lambda space: space.use_model(space.models.choices[-1]), BACK],
    "two objects": [FORE, lambda space: space.add_object(), window(60, 300), click(2, 2, Z), carry_on],
    "cleared and asked anew": [FORE, carry_on, lambda space: space.clear(), window(80, 190), BOX],
}  # fmt: skip


QUICK = ("clicks on two slices", "a box and a click", "carried and corrected by background alone", "two objects")


@pytest.mark.parametrize(
    "what", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in STORIES]
)
def test_replayed_it_is_the_same(space, predictor, tmp_path, what):
    for act in STORIES[what]:
        act(space)
    got = again(space, predictor, tmp_path)
    assert len(got) == len(space.objects) and any(mask.any() for mask in got)
    for mask, each in zip(got, space.objects, strict=True):
        np.testing.assert_array_equal(mask, each.mask)


@pytest.mark.slow
def test_the_stories_differ(predictor, tmp_path):
    """Each act leaves its mark, so that equality above says something."""
    seen = {}
    for what in ("a click", "a box", "clicks on one slice", "carried", "carried and corrected where it was clicked",
                 "stopped", "stopped later", "another window", "carried, corrected, carried again"):  # fmt: skip
        space = workspace(predictor)
        space.open([write_organ(tmp_path / "organ.nii.gz")])
        for act in STORIES[what]:
            act(space)
        seen[what] = space.objects[0].mask.tobytes()
        space.close()
    assert len(set(seen.values())) == len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [RAS, PERMUTED], ids=["RAS", "PSR"])
@pytest.mark.parametrize("what", ["clicks on two slices", "carried and corrected elsewhere", "stopped and corrected"])
def test_in_files_of_other_orientations(predictor, tmp_path, axes, what):
    space = workspace(predictor)
    space.open([write_organ(tmp_path / "organ.nii.gz", axes)])
    for act in STORIES[what]:
        act(space)
    np.testing.assert_array_equal(again(space, predictor, tmp_path)[0], space.objects[0].mask)
    space.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "acts",
    [
        [lambda space: space.say("the liver") and space.carry_on()],
        [lambda space: space.say("the spleen") and space.carry_on(), FORE, BACK],
        [FORE, lambda space: space.say("the spleen"), carry_on, click(X, Y, Z + 2, 0)],
        [FORE, carry_on, lambda space: space.say("the liver")],
        [BOX, lambda space: space.say("the liver"), lambda space: space.say("the spleen"), stopped(1)],
    ],
)
def test_with_sentences(talker, tmp_path, acts):
    space = workspace(talker)
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    for act in acts:
        act(space)
    assert space.objects[0].thing.prompt.text and space.objects[0].mask.any()
    np.testing.assert_array_equal(again(space, talker, tmp_path)[0], space.objects[0].mask)
    space.close()


# -- the parts ---------------------------------------------------------------------------------------------------------


def encoded_of(space):
    return space.encoded(SessionObject("a", "#000000", intensity="window", window_hu=space.window))


def test_only_slices_whose_prompts_changed_are_decoded(space, predictor):
    FORE(space)
    carry_on(space)
    encoded, thing, carried = encoded_of(space), space.objects[0].thing, space.objects[0].carried
    np.testing.assert_array_equal(correct(predictor, encoded, carried, thing.prompt, thing.carried), carried)
    more = ObjectPrompt.from_json(thing.prompt.to_json())
    more.points.append((float(X), float(Y), float(Z + 2)))
    more.labels.append(0)
    got = correct(predictor, encoded, carried, more, thing.carried)
    assert got is not carried and (got[Z + 2] != carried[Z + 2]).any()
    others = [z for z in range(SHAPE_ZYX[0]) if z != Z + 2]
    np.testing.assert_array_equal(got[others], carried[others])


def test_a_prompt_that_is_taken_away_leaves_what_was_carried(space, predictor):
    FORE(space)
    carry_on(space)
    thing, carried = space.objects[0].thing, space.objects[0].carried
    got = correct(predictor, encoded_of(space), carried, ObjectPrompt(), thing.carried)
    np.testing.assert_array_equal(got, carried)
    assert got is not carried


@pytest.mark.parametrize("away", [(-2, -1, -1), (3, 0, 2), (9, 9, 1)], ids=str)
def test_a_background_click_alone_on_its_slice_corrects_what_is_carried_there(space, predictor, away):
    """Asked at once it is what carrying first and correcting then gives; the other slices do not hear of it."""
    FORE(space)
    carry_on(space)
    carried, point = space.objects[0].mask, tuple(float(v) for v in np.add((X, Y, Z), away))
    assert carried[int(point[2])].any()
    space.click_voxel(point, 0)
    prompt = space.objects[0].thing.prompt
    for order in (slice(None), slice(None, None, -1)):
        asked = ObjectPrompt(prompt.points[order], prompt.labels[order])
        got = predictor.predict_objects(encoded_of(space), [asked])[0] > 0
        np.testing.assert_array_equal(got, space.objects[0].mask)
        others = [z for z in range(SHAPE_ZYX[0]) if z != point[2]]
        np.testing.assert_array_equal(got[others], carried[others])


@pytest.mark.parametrize("axes", [LPS, RAS], ids=["LPS", "RAS"])
def test_each_of_two_boxes_keeps_its_part_of_the_mask(predictor, tmp_path, axes):
    """Boxes on slices that lie apart; the walk ends at once, so that their masks do not touch."""
    space = workspace(predictor)
    space.open([write_organ(tmp_path / "organ.nii.gz", axes)])
    encoded, stay = encoded_of(space), CarryRules(max_growth=0, slack_pixels=0)
    apart = [(2, 2, 0, 12, 12, 0), (X - 6, Y - 6, 6, X + 6, Y + 6, 6)]
    boxes = [tuple(encoded.turn.points_to_file(np.reshape(box, (2, 3))).ravel()) for box in apart]
    both = encoded.turn.array_to_source(predictor.predict_objects(encoded, [ObjectPrompt(boxes=boxes)], rules=stay)[0])
    for box, (x0, y0, z, x1, y1, _) in zip(boxes, apart, strict=True):
        at = z, slice(y0 + 1, y1), slice(x0 + 1, x1)
        alone = encoded.turn.array_to_source(predictor.predict_objects(encoded, [ObjectPrompt(boxes=[box])], False)[0])
        assert (alone[at] > 0).any()
        np.testing.assert_array_equal(both[at] > 0, alone[at] > 0)
    space.close()


def test_a_background_click_alone_on_its_slice_starts_no_mask(space, predictor):
    FORE(space)
    alone = space.objects[0].mask
    space.click_voxel((X, Y, Z + 1), 0)
    np.testing.assert_array_equal(space.objects[0].mask, alone)
    prompt = space.objects[0].thing.prompt
    got = predictor.predict_objects(encoded_of(space), [prompt], carry=False)[0] > 0
    np.testing.assert_array_equal(got, alone)
    assert not (predictor.predict_labels(encoded_of(space), [prompt], carry=False)[Z + 1]).any()


@pytest.mark.parametrize("point", [(X, Y, 99.0), (-1.0, Y, Z + 1)], ids=str)
@pytest.mark.parametrize("carry", [True, False])
def test_a_background_click_outside_the_scan_is_told(space, predictor, point, carry):
    prompt = ObjectPrompt([(X, Y, Z), point], [1, 0])
    with pytest.raises(PromptError, match="outside"):
        predictor.predict_objects(encoded_of(space), [prompt], carry=carry)


def test_with_a_sentence_a_background_click_still_corrects_what_a_click_has_started(talker, tmp_path):
    space = workspace(talker)
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    FORE(space)
    space.say("the spleen")
    carry_on(space)
    carried = space.objects[0].mask
    prompt = ObjectPrompt([(X, Y, Z), (X + 3, Y, Z + 2)], [1, 0], text="the spleen")
    got = talker.predict_objects(encoded_of(space), [prompt])[0] > 0
    others = [z for z in range(SHAPE_ZYX[0]) if z != Z + 2]
    np.testing.assert_array_equal(got[others], carried[others])
    space.close()


@pytest.mark.parametrize("z", [-1, 7, 99, -8])
def test_a_click_outside_the_scan_is_told(space, predictor, z):
    thing = SessionObject("a", "#000000", ObjectPrompt([(1.0, 1.0, float(z))], [1]))
    with pytest.raises(PromptError, match="outside"):
        object_mask(predictor, encoded_of(space), thing)
    thing.carried = Carried(ObjectPrompt([(float(X), float(Y), float(Z))], [1]))
    with pytest.raises(PromptError, match="outside"):
        object_mask(predictor, encoded_of(space), thing)


def test_by_slice_follows_the_turn():
    turn = Turn.to_codes(np.diag([1.0, 1, 1, 1]), (5, 6, 7), "PIL")  # slices along i, counted from the right
    prompt = ObjectPrompt([(0, 1, 2), (4, 1, 2), (0, 3, 3)], [1, 0, 0], [(4, 0, 0, 4, 5, 5)], "x")
    got = by_slice(turn, prompt)
    there = {int(turn.points_to_source(point)[2]) for point in prompt.points}
    assert set(got) == there and len(there) == 2
    first = got[int(turn.points_to_source((0, 1, 2))[2])]
    assert first == ObjectPrompt([(0, 1, 2), (0, 3, 3)], [1, 0], [], "x")
    other = got[int(turn.points_to_source((4, 1, 2))[2])]
    assert other == ObjectPrompt([(4, 1, 2)], [0], [(4, 0, 0, 4, 5, 5)], "x")


def test_the_processor_is_the_adapters_own_where_it_has_an_intensity(randomise, predictor):
    thing = SessionObject("a", "#000000", intensity="window", window_hu=(-10.0, 20.0))
    got = session_processor(predictor, None, thing)
    assert (got.intensity, tuple(got.window_hu)) == ("window", (-10.0, 20.0))
    model = predictor.model
    trained = MSAPredictor(model, MSAProcessor.from_model(model, intensity="percentile"), device="cpu")
    assert session_processor(trained, None, thing) is trained.processor
    assert session_processor(predictor, None, SessionObject("a", "#000000")) is predictor.processor


def test_label_map():
    masks = [np.zeros((1, 2, 3), bool) for _ in range(2)]
    masks[0][0, 0], masks[1][0, :, 1] = True, True
    got = label_map(masks, (1, 2, 3))
    np.testing.assert_array_equal(got[0], [[1, 2, 1], [0, 2, 0]])
    assert got.dtype == np.uint8 and label_map([masks[0]] * 300, (1, 2, 3)).max() == 300
