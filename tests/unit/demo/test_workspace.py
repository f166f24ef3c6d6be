"""One visitor's scan and objects."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from blobs import PERMUTED, RAS
from demo_setup import SHAPE_ZYX, adapted, centre_of, workspace, write_organ, write_run
from medsam_adapter.demo.workspace import MAX_OBJECTS, Workspace
from medsam_adapter.errors import CheckpointError, DataError, PromptError
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.inference.prompted_slices import TextRules
from medsam_adapter.processing_msa import MSAProcessor

X, Y, Z = centre_of()


def files_of(space: Workspace) -> list[str]:
    return sorted(path.name for path in space.folder.rglob("*") if path.is_file())


# -- the scan ----------------------------------------------------------------------------------------------------------


def test_what_is_open(opened):
    assert opened.scan_name == "organ.nii.gz" and opened.scan.shape_zyx == SHAPE_ZYX
    assert opened.at == {"axial": 3, "coronal": 20, "sagittal": 17} and opened.modality == "MR or other"
    assert len(opened.objects) == 1 and not opened.objects[0].mask.any()
    assert opened.scan.path.is_relative_to(opened.folder) and files_of(opened) == ["organ.nii.gz"]


def test_a_further_scan_takes_the_place_of_the_first(opened, tmp_path):
    opened.click_voxel((X, Y, Z))
    opened.reference = np.zeros(SHAPE_ZYX, np.uint8)
    before = opened.digest
    opened.open([write_organ(tmp_path / "other.nii.gz", seed=1, shape_zyx=(5, 20, 20))])
    assert opened.scan.shape_zyx == (5, 20, 20) and opened.digest != before and opened.reference is None
    assert [each.is_asked for each in opened.objects] == [False] and opened.num_encoded() == (0, 0)
    assert files_of(opened) == ["other.nii.gz"]


def test_what_cannot_be_read_leaves_the_scan_open(opened, tmp_path):
    opened.click_voxel((X, Y, Z))
    mask = opened.objects[0].mask
    (tmp_path / "broken.nii.gz").write_bytes(b"hello")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    for names in (["broken.nii.gz"], ["broken.zip"], [], ["broken.nii.gz", "broken.zip"]):
        with pytest.raises(DataError):
            opened.open([tmp_path / name for name in names])
        assert opened.scan_name == "organ.nii.gz" and opened.objects[0].mask is mask
        assert files_of(opened) == ["organ.nii.gz"]


def test_what_was_not_foreseen_leaves_no_file_either(opened, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("medsam_adapter.demo.workspace.read_upload", fail)
    folders = sorted(opened.folder.iterdir())
    with pytest.raises(ZeroDivisionError):
        opened.open([tmp_path / "x"])
    assert sorted(opened.folder.iterdir()) == folders


def test_closing_frees_everything(opened):
    opened.click_voxel((X, Y, Z))
    folder = opened.folder
    opened.close()
    assert not folder.exists() and opened.scan is None and opened.num_encoded() == (0, 0)
    opened.close()  # once more does no harm
    with pytest.raises(DataError, match="no scan is open"):
        opened.click_voxel((X, Y, Z))


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.click_voxel((0, 0, 0)), lambda s: s.click("axial", 0, 0), lambda s: s.box("axial", 0, 0, 1, 1),
        lambda s: s.box_voxels((0, 0, 0, 1, 1, 0)), lambda s: s.carry_on(), lambda s: s.add_object(),
        lambda s: s.clear(),
        lambda s: s.labels(), lambda s: s.plane("axial"), lambda s: s.go_to("axial", 0), lambda s: s.say("x"),
    ],
)  # fmt: skip
def test_before_anything_is_open(space, act):
    with pytest.raises(DataError, match="no scan is open"):
        act(space)


def test_a_model_can_be_chosen_before_a_scan(space):
    space.use_model(space.models.choices[-1])
    assert space.choice == space.models.choices[-1]
    with pytest.raises(CheckpointError):
        space.use_model("nobody")


def test_going_to_slices(opened):
    for index, want in ((2, 2), (-5, 0), (99, 6)):
        opened.go_to("axial", index)
        assert opened.at["axial"] == want
    with pytest.raises(DataError, match="no such plane"):
        opened.go_to("oblique", 0)
    opened.go_to_voxel((5, 6, 2), but="coronal")
    assert opened.at["axial"] == 2 and opened.at["sagittal"] == 5 and opened.at["coronal"] == 20


# -- prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [None, RAS, PERMUTED], ids=["LPS", "RAS", "PSR"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_click_in_a_plane_is_the_voxel_under_it(predictor, tmp_path, axes, plane):
    """The answer is that of the predictor for this voxel, and the other planes go there."""
    space = workspace(predictor)
    space.open([write_organ(tmp_path / "o.nii.gz", *([] if axes is None else [axes]))])
    voxel = tuple(float(v) for v in centre_of())
    x, y, index = space.planes[plane].from_file(voxel)
    space.go_to(plane, int(index))
    space.click(plane, x + 0.3, y - 0.3)
    prompt = space.objects[0].thing.prompt
    assert prompt.points == [voxel] and prompt.labels == [1]
    for name, each in space.planes.items():
        assert space.at[name] == each.from_file(voxel)[2]
        points, labels, _ = each.prompts_on(space.at[name], prompt)
        assert points == [tuple(each.from_file(voxel)[:2])] and labels == [1]
        space.go_to(name, space.at[name] + 1)
        assert each.prompts_on(space.at[name], prompt)[0] == []
    processor = MSAProcessor.from_model(predictor.model, intensity="window", window_hu=space.window)
    encoded = predictor.encode(space.scan, "volume", processor=processor)
    want = predictor.predict_objects(encoded, [prompt], carry=False)[0] > 0
    np.testing.assert_array_equal(space.objects[0].mask, want)
    assert want.any()
    space.close()


def test_a_box_in_the_models_plane(opened):
    opened.go_to("axial", Z)
    x, y, _ = opened.planes["axial"].from_file((X, Y, Z))
    opened.box("axial", x + 6, y + 7, x - 6, y - 7)
    prompt = opened.objects[0].thing.prompt
    assert prompt.boxes == [(X - 6, Y - 7, Z, X + 6, Y + 7, Z)]
    seen = {name: each.prompts_on(opened.at[name], prompt)[2] for name, each in opened.planes.items()}
    assert seen["axial"] == [(x - 6, y - 7, x + 6, y + 7)]
    assert seen["coronal"] == []  # a line from there
    opened.box("axial", x - 3, y - 3, x + 3, y + 3)
    assert len(opened.objects[0].thing.prompt.boxes) == 1
    opened.go_to("axial", Z + 1)
    opened.box("axial", x - 3, y - 3, x + 3, y + 3)
    assert [box[2] for box in opened.objects[0].thing.prompt.boxes] == [Z, Z + 1]
    with pytest.raises(PromptError, match="axial slices"):
        opened.box("sagittal", 1, 1, 5, 5)


def test_a_box_replaces_the_one_on_its_slice_also_between_two_slices(opened):
    for z in (Z, Z + 0.3, Z + 0.6):
        opened.box_voxels((X - 5, Y - 5, z, X + 5, Y + 5, z))
    assert [box[2] for box in opened.objects[0].thing.prompt.boxes] == [Z + 0.3, Z + 0.6]


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda s: s.click_voxel((X, Y, 99)), "outside"), (lambda s: s.click_voxel((-1, Y, Z)), "outside"),
        (lambda s: s.click_voxel((X, Y, Z), 0), "background"),
        (lambda s: s.box_voxels((0, 0, 99, 5, 5, 99)), "outside"),
        (lambda s: s.box_voxels((0, 0, 1, 5, 5, 2)), "one slice"), (lambda s: s.carry_on(), "nothing to carry"),
        (lambda s: s.say("the liver"), "no text"), (lambda s: s.choose(1), "no such object"),
        (lambda s: s.choose(-1), "no such object"), (lambda s: s.mask_by("sam-tiny"), "nothing to compare"),
    ],
)  # fmt: skip
def test_refused_prompts_change_nothing(opened, act, says):
    at = dict(opened.at)
    with pytest.raises(PromptError, match=says):
        act(opened)
    assert not opened.objects[0].is_asked and opened.at == at and opened.objects[0].thing.intensity is None
    opened.click_voxel((X, Y, Z))
    assert opened.objects[0].mask.any()


def test_a_name_that_is_not_on_the_menu_changes_nothing(opened):
    for _ in range(2):
        with pytest.raises(CheckpointError):
            opened.use_model("/etc")
        assert opened.choice == "sam-tiny"
        opened.click_voxel((X, Y, Z))


def test_the_first_prompt_fixes_what_the_model_sees(opened):
    opened.window = (90.0, 200.0)
    opened.click_voxel((X, Y, Z))
    assert (opened.objects[0].thing.intensity, opened.objects[0].thing.window_hu) == ("window", (90.0, 200.0))
    mask = opened.objects[0].mask
    opened.window = (0.0, 5000.0)
    opened.carry_on()
    assert opened.objects[0].thing.window_hu == (90.0, 200.0)
    opened.undo()
    np.testing.assert_array_equal(opened.objects[0].mask, mask)
    opened.clear()
    opened.click_voxel((X, Y, Z))
    assert opened.objects[0].thing.window_hu == (0.0, 5000.0) and (opened.objects[0].mask != mask).any()


def test_a_picture_is_seen_as_it_is_until_its_window_is_changed(space, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    space.open([tmp_path / "a.png"])
    space.click_voxel((20, 20, 0))
    assert space.objects[0].thing.intensity == "rgb" and space.objects[0].thing.window_hu is None
    space.add_object()
    space.window = (10.0, 200.0)
    space.click_voxel((20, 20, 0))
    assert space.objects[1].thing.intensity == "window" and space.objects[1].thing.window_hu == (10.0, 200.0)
    assert space.labels().shape == (1, 40, 50)
    assert space.carry_on()  # a picture has no other slices, and that is no error


def test_an_error_of_the_model_names_no_folder(randomise, tmp_path):
    model = adapted(randomise)
    own = MSAPredictor(model, MSAProcessor.from_model(model, intensity="rgb"), device="cpu")
    space = workspace(own)
    space.open([write_organ(tmp_path / "organ.nii.gz")])  # not 8 bit
    with pytest.raises(DataError) as error:
        space.click_voxel((X, Y, Z))
    assert "organ.nii.gz" in str(error.value) and str(space.folder) not in str(error.value)
    space.close()


def test_objects(opened):
    opened.click_voxel((X, Y, Z))
    first = opened.objects[0].mask
    opened.add_object()
    assert opened.active == 1 and opened.objects[1].thing.colour != opened.objects[0].thing.colour
    opened.box_voxels((X - 3, Y - 3, Z, X + 3, Y + 3, Z))
    assert opened.objects[0].mask is first
    labels = opened.labels()
    np.testing.assert_array_equal(labels == 2, opened.objects[1].mask)
    np.testing.assert_array_equal(labels == 1, first & ~opened.objects[1].mask)
    opened.objects[1].thing.name, opened.objects[1].is_visible = "spleen", False
    opened.clear()
    cleared = opened.objects[1]
    assert cleared.thing.name == "spleen" and not cleared.is_visible and not cleared.is_asked and not cleared.mask.any()
    for _ in range(MAX_OBJECTS - 2):
        opened.add_object()
    with pytest.raises(PromptError, match="enough objects"):
        opened.add_object()


def test_stop(opened):
    opened.click_voxel((X, Y, Z))
    steps = []

    def progress(done: int) -> None:
        steps.append(done)
        opened.stop.set()

    assert not opened.carry_on(progress)
    stopped = opened.objects[0].mask
    assert opened.objects[0].thing.carried.rounds == 1 and stopped[Z].any()
    assert opened.carry_on() and opened.objects[0].thing.carried.rounds is None
    assert opened.objects[0].mask.any((1, 2)).sum() > stopped.any((1, 2)).sum()


def test_sentences(randomise, tiny_clip, tmp_path):
    talker = MSAPredictor(adapted(randomise, use_text=True, text_model=tiny_clip, text_width=12), device="cpu")
    talker.text_rules = TextRules(0.0, 0.0)
    space = workspace(talker)
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    with pytest.raises(PromptError, match="no sentence"):
        space.say("  ")
    assert space.say(" the liver ") and space.objects[0].thing.prompt.text == "the liver"
    assert not space.objects[0].mask.any()  # until it is said of every slice
    space.carry_on()
    liver = space.objects[0].mask
    assert liver.any()
    space.say("the spleen")
    space.carry_on()
    assert (space.objects[0].mask != liver).any()
    space.click_voxel((X, Y, Z))
    assert not space.say("the liver") and space.objects[0].thing.prompt.text == "the liver"
    for asked in (True, False):  # beside a click, and alone
        with pytest.raises(PromptError, match="longer than"):
            space.say("x" * 999)
        assert (space.objects[0].thing.prompt.text == "the liver") == asked == space.objects[0].is_asked
        space.clear()
    space.click_voxel((X, Y, Z))
    space.say("the liver")
    with pytest.raises(PromptError, match="text"):
        space.use_model(space.models.choices[-1])  # the plain SAM knows no words
    assert space.choice == space.models.choices[0]
    space.close()


def test_another_model_answers_the_same_prompts(randomise, tmp_path):
    run = write_run(tmp_path / "second", adapted(randomise, 2))
    space = workspace(MSAPredictor(adapted(randomise), device="cpu"), str(run))
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    space.click_voxel((X, Y, Z))
    space.carry_on()
    space.click_voxel((X + 4, Y - 4, Z), 0)
    thing, first = space.objects[0].thing, space.objects[0].mask
    other = space.mask_by("second")
    assert (other != first).any() and space.mask_by("sam-tiny") is first
    space.use_model("second")
    np.testing.assert_array_equal(space.objects[0].mask, other)
    assert space.objects[0].thing == thing and space.session().adapter == str(run)
    space.use_model("sam-tiny")
    np.testing.assert_array_equal(space.objects[0].mask, first)
    space.close()


def test_only_three_encodings_are_kept(opened):
    for low in range(5):
        opened.clear()
        opened.window = (float(low), 200.0)
        opened.click_voxel((X, Y, Z))
    assert len(opened._encodings._kept) == 3


def test_encoding_ahead(opened):
    done, total = opened.encode_ahead()
    assert total == SHAPE_ZYX[0] and 0 <= done <= total
    encoded = next(iter(opened._encodings._kept.values()))
    finished = threading.Event()
    for _ in range(200):
        if encoded.embeddings.num_encoded == total:
            finished.set()
            break
        threading.Event().wait(0.05)
    assert finished.is_set() and opened.num_encoded() == (total, total)
    opened.click_voxel((X, Y, Z))
    assert len(opened._encodings._kept) == 1  # what was encoded ahead is what the click needs


def test_names_colours_and_hiding_are_no_steps(opened):
    opened.click_voxel((X, Y, Z))
    opened.click_voxel((X + 2, Y, Z))
    thing = opened.objects[0].thing
    thing.name, thing.colour, opened.objects[0].is_visible = "liver", "#123456", False
    for go in (opened.undo, opened.undo, opened.redo):
        go()
        now = opened.objects[0]
        assert (now.thing.name, now.thing.colour, now.is_visible) == ("liver", "#123456", False)


def test_what_is_renamed_while_a_mask_is_carried_keeps_its_name(opened):
    opened.click_voxel((X, Y, Z))

    def progress(done: int) -> None:
        opened.objects[0].thing.name, opened.objects[0].is_visible = "liver", False

    opened.carry_on(progress)
    assert opened.objects[0].thing.name == "liver" and not opened.objects[0].is_visible


def test_a_stop_of_before_does_not_cut_a_comparison_short(opened):
    opened.click_voxel((X, Y, Z))
    opened.carry_on()
    plain = opened.models.choices[-1]
    whole = opened.mask_by(plain)
    opened.stop.set()
    np.testing.assert_array_equal(opened.mask_by(plain), whole)


def test_a_comparison_that_is_stopped_is_none(opened, monkeypatch):
    opened.click_voxel((X, Y, Z))
    opened.carry_on()
    by = opened._by
    monkeypatch.setattr(opened, "_by", lambda *args: opened.stop.set() or by(*args))
    with pytest.raises(PromptError, match="stopped"):
        opened.mask_by(opened.models.choices[-1])


def test_it_works_while_a_prompt_is_answered(opened):
    seen = []
    opened.click_voxel((X, Y, Z))

    def progress(done: int) -> None:
        other = threading.Thread(target=lambda: seen.append(opened.is_working()))
        other.start()
        other.join()

    opened.carry_on(progress)
    assert seen and all(seen) and not opened.is_working()
