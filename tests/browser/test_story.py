"""The whole story in a real browser, from opening to saving; pixels and files are checked."""

from __future__ import annotations

import io
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.cli.main import run as msa
from medsam_adapter.data.nifti import save_nifti
from medsam_adapter.data.phantom import make_phantom
from medsam_adapter.demo.examples import lesion_picture
from medsam_adapter.demo.rendering import render
from medsam_adapter.demo.windows import to_bytes
from medsam_adapter.evaluation.metrics import mask_metrics
from medsam_adapter.prompts.clicks import interior_point

pytestmark = pytest.mark.slow
LIVER = 1


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """(file, sample) of a phantom CT."""
    sample = make_phantom(7)
    file = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    save_nifti(file, sample.scan.array, sample.scan.affine)
    return file, sample


def tint(picture, x, y, columns, rows, radius=2):
    """Mean colour round a pixel of the slice."""
    cx, cy = int((x + 0.5) / columns * picture.shape[1]), int((y + 0.5) / rows * picture.shape[0])
    around = picture[cy - radius : cy + radius + 1, cx - radius : cx + radius + 1]
    return around.reshape(-1, 3).astype(float).mean(0)


def blueness(colour):
    """The first object's colour is blue, a CT is grey."""
    return float(colour[2] - colour[0])


def test_a_ct_from_upload_to_file(desk, phantom, tmp_path, adapter):
    file, sample = phantom
    depth, rows, columns = sample.scan.shape_zyx
    z = depth // 2
    liver = sample.labels[z] == LIVER
    x, y = interior_point(liver)
    here = desk(accept_downloads=True)

    here.open_file(file)
    assert "Taken for CT" in here.said("Taken for")
    first = here.picture()
    expected = render(to_bytes(sample.scan.array[z], (-160, 240)), [])
    assert np.array_equal(first, np.asarray(expected)), "LPS axial slices are shown as they lie in the file"
    coronal = here.picture("second")
    assert coronal.shape[0] / coronal.shape[1] == pytest.approx(depth * 5.0 / (columns * 3.5), rel=0.02)

    here.choose("msa-preset", "lung")
    lung = here.changed("main", first)
    assert np.array_equal(lung, np.asarray(render(to_bytes(sample.scan.array[z], (-1350, 150)), [])))
    here.choose("msa-preset", "soft-tissue")
    assert np.array_equal(here.changed("main", lung), first)

    said = here.click("main", x, y, columns, rows)
    assert "answered in" in said
    clicked = here.changed("main", first)
    near = (x + 4, y)  # beside the mark of the click
    assert liver[near[1], near[0]]
    assert blueness(tint(clicked, *near, columns, rows)) > 20 + blueness(tint(first, *near, columns, rows))
    assert np.array_equal(clicked[:40, :40], first[:40, :40]), "far from the click nothing changes"
    one_click = here.new_voxels(0)
    assert one_click > 20

    here.page.keyboard.press("b")
    here.page.wait_for_selector("#msa-switch input[value=background]:checked")
    here.click("main", x + 8, y, columns, rows)
    after = here.changed("main", clicked)
    here.new_voxels(one_click)
    here.page.keyboard.press("b")
    here.page.wait_for_selector("#msa-switch input[value=object]:checked")
    here.page.keyboard.press("Control+z")
    here.said("Undone")
    assert np.array_equal(here.changed("main", after), clicked), "undo brings back the very picture"

    ys, xs = np.nonzero(liver)
    here.drag("main", (xs.min(), ys.min(), xs.max(), ys.max()), columns, rows)
    boxed = here.changed("main", clicked)
    here.press("msa-undo", "Undone")
    assert np.array_equal(here.changed("main", boxed), clicked)
    here.press("msa-redo", "Done again")
    assert np.array_equal(here.changed("main", clicked), boxed)
    boxed_voxels = here.new_voxels(one_click)

    before = here.picture("third")
    here.press("msa-carry", "Correct it on any slice")
    here.changed("third", before)
    carried = here.new_voxels(boxed_voxels)
    assert carried > one_click

    shown = here.picture()
    here.page.mouse.move(*here.at("main", 5, 5, columns, rows))
    here.page.mouse.wheel(0, -100)
    there = here.changed("main", shown)
    here.click("main", x, y, columns, rows, button="right")
    here.changed("main", there)
    corrected = here.new_voxels(carried)
    here.press("msa-carry", "Correct it on any slice")
    again = here.new_voxels(corrected)

    own_menu = here.page.input_value("#msa-model input")
    assert own_menu == adapter.name
    here._forget_status()
    here.choose("msa-model", "SAM without adapter")
    here.said("The prompts are the same")
    plain = here.new_voxels(again)
    here._forget_status()
    here.choose("msa-model", adapter.name)
    here.said("The prompts are the same")
    here.new_voxels(plain)

    mask_file, session_file = here.save("msa-save-mask", tmp_path), here.save("msa-save-session", tmp_path)
    made = tmp_path / "made.nii.gz"
    assert msa(["predict", "--session", str(session_file), str(file), "-o", str(made)]) == 0
    saved, predicted = nib.load(mask_file), nib.load(made)
    assert np.array_equal(np.asarray(saved.dataobj), np.asarray(predicted.dataobj))
    assert np.array_equal(saved.affine, nib.load(file).affine) and saved.shape == nib.load(file).shape
    assert int(np.count_nonzero(np.asarray(saved.dataobj))) == here.voxels()[0]


def test_a_picture_from_example_to_file(desk, tmp_path):
    truth = lesion_picture()[1]
    side = len(truth)
    here = desk(accept_downloads=True)
    here.open_example("phantom skin lesion")
    here.choose("msa-model", "SAM without adapter")
    here.said("not adapted")
    x, y = interior_point(truth)
    here.click("main", x, y, side, side)
    mask_file, session_file = here.save("msa-save-mask", tmp_path), here.save("msa-save-session", tmp_path)
    mask = np.asarray(Image.open(mask_file))
    assert set(np.unique(mask)) == {0, 255}
    assert mask_metrics(mask > 0, truth, (1, 1)).dice > 0.8
    lesion_picture()[0].save(tmp_path / "phantom_lesion.png")
    again = tmp_path / "again.png"
    assert msa(["predict", "--session", str(session_file), "-o", str(again)]) == 0, "the scan lies beside the session"
    assert np.array_equal(np.asarray(Image.open(again)), mask)


def test_a_stopped_volume_can_be_carried_on_and_kept(desk, tmp_path):
    here = desk(accept_downloads=True)
    here.open_example("phantom CT, finer")
    here.click("main", 60, 60, 160, 160)
    here._forget_status()
    here.page.click("#msa-carry")
    here.page.click("#msa-stop")
    here.said("Correct it")
    assert here.voxels()[0] > 0, "stopped or not, what was reached is kept"
    here.press("msa-carry", "Correct it on any slice")
    session = json.loads(here.save("msa-save-session", tmp_path).read_text())
    assert session["objects"][0]["carried"]["before"] is not None, "it was carried twice"


def test_two_pages_keep_their_own_state(desk):
    first, second = desk(), desk()
    first.open_example("phantom CT")
    second.open_example("phantom skin lesion")
    first.click("main", 40, 40, 96, 96)
    assert first.new_voxels(0) > 0 and second.voxels() == [0]
    assert "axial" in first.page.inner_text("#msa-view-main .msa-caption")
    assert "phantom_lesion" in second.page.inner_text("#msa-view-main .msa-caption")


def test_a_bad_file_gives_a_sentence_and_leaves_the_page_usable(desk, tmp_path):
    bad = tmp_path / "notes.nii.gz"
    bad.write_bytes(b"this is no scan")
    here = desk()
    here.open_example("phantom CT")
    here._forget_status()
    here.open_file(bad)
    said = here.said("notes.nii.gz")
    assert "Traceback" not in said and "/tmp" not in said
    assert here.page.locator("#msa-status .msa-error").count() == 1
    here.click("main", 40, 40, 96, 96)
    assert here.new_voxels(0) > 0


def test_objects_have_names_colours_and_can_be_hidden(desk):
    here = desk()
    here.open_example("phantom CT")
    empty = here.picture()
    here.click("main", 30, 40, 96, 96)
    shown = here.changed("main", empty)
    here.press("msa-add", "A new object")
    alone = here.changed("main", shown)  # without the marks of the first object's click
    here.click("main", 65, 45, 96, 96)
    both = here.changed("main", alone)
    assert here.new_voxels(0, number=1) and here.voxels()[0]
    here.page.wait_for_timeout(300)  # the field is filled by the same answer, after the picture
    here.page.fill("#msa-name input, #msa-name textarea", "spleen")
    here.page.keyboard.press("Enter")
    here.page.wait_for_function("document.querySelector('#msa-table').innerText.includes('spleen')")
    here.page.click("#msa-visible input")
    hidden = here.changed("main", both)
    assert np.array_equal(hidden[:8], both[:8]) and here.page.locator("#msa-table tr.msa-hidden").count() == 1
    here.page.click("#msa-visible input")
    assert np.array_equal(here.changed("main", hidden), both)


def test_compare_scores_both_models_against_a_reference(desk, phantom, tmp_path):
    file, sample = phantom
    depth, rows, columns = sample.scan.shape_zyx
    reference = tmp_path / "labels.nii.gz"
    save_nifti(reference, sample.labels, sample.scan.affine)
    here = desk()
    here.open_file(file)
    here.said("Taken for")
    x, y = interior_point(sample.labels[depth // 2] == LIVER)
    here.click("main", x, y, columns, rows)
    here.page.get_by_role("tab", name="Compare").click()
    here.page.set_input_files("#msa-reference input[type=file]", str(reference))
    here.said("Reference taken")
    here.press("msa-compare", "Compared")
    table = here.page.inner_text("#msa-scores")
    assert "Dice" in table and "SAM without adapter" in table and "label 1" in table
    left, right = here.picture("left"), here.picture("right")
    assert left.shape == right.shape and (left != right).any()


def test_the_3d_view_shows_the_object(desk):
    here = desk()
    here.open_example("phantom CT")
    here.click("main", 30, 40, 96, 96)
    here.press("msa-carry", "Correct it on any slice")
    here.page.get_by_role("tab", name="3-D").click()
    here.page.click("#msa-show-solid")
    here.page.wait_for_function("window.msaNiivue && window.msaNiivue.volumes.length === 2", timeout=60_000)
    here.page.wait_for_timeout(1500)
    assert here.page.evaluate("window.msaNiivue.meshes.length") == 1
    image = Image.open(io.BytesIO(here.page.locator("#msa-solid canvas").screenshot()))
    shot = np.asarray(image.convert("RGB")).astype(int)
    is_object = (shot[..., 2] - shot[..., 0] > 60) & (shot[..., 1] - shot[..., 0] > 30)
    lower_right = is_object[shot.shape[0] // 2 :, shot.shape[1] // 2 :]
    assert lower_right.sum() > 300, "the surface is drawn in the 3-D panel"
    assert is_object.sum() > lower_right.sum() + 300, "and the overlay on the slices"
