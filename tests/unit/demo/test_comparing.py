"""Two models on the same prompts: their masks, and the scores of an evaluation."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from blobs import LPS, blob
from demo_setup import SHAPE_ZYX, SPACING_MM, adapted, centre_of, write_organ, write_run
from medsam_adapter.demo.comparing import compare, read_reference, reference_mask, scores_table
from medsam_adapter.demo.models import PLAIN, Models
from medsam_adapter.demo.workspace import Workspace
from medsam_adapter.errors import DataError, PromptError
from medsam_adapter.evaluation.metrics import mask_metrics
from medsam_adapter.inference.predictor import MSAPredictor
from miniatures.volumes import save_nifti

X, Y, Z = centre_of()
SAMPLE = blob(0, SHAPE_ZYX, SPACING_MM)


@pytest.fixture(scope="module")
def menu(randomise, quiet, tmp_path_factory):
    """A predictor of its own: the second adapter is loaded into it."""
    other = write_run(tmp_path_factory.mktemp("runs") / "other", adapted(randomise, seed=2))
    return Models(MSAPredictor(adapted(randomise), device="cpu"), "sam-tiny", [str(other)])


@pytest.fixture
def both(menu, tmp_path):
    space = Workspace(menu)
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    yield space
    space.close()


def reference(tmp_path, labels=None, affine=None):
    file = tmp_path / "reference.nii.gz"
    save_nifti(
        file,
        (SAMPLE.labels > 0).astype(np.uint8) if labels is None else labels,
        SAMPLE.scan.affine if affine is None else affine,
    )  # noqa: E501
    return file


def seen(content: str) -> np.ndarray:
    url = json.loads(content)["src"]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def test_a_carried_mask_is_scored_as_a_volume(both, tmp_path):
    both.click_voxel((X, Y, Z))
    both.carry_on()
    read_reference(both, reference(tmp_path))
    sides, sentence = compare(both, ("sam-tiny", "other"), "axial")
    assert "the whole scan" in sentence and "label 1" in sentence
    masks = [both.objects[0].mask, both.mask_by("other")]
    assert (masks[0] != masks[1]).any()
    for side, mask, name in zip(sides, masks, ("sam-tiny", "other"), strict=True):
        assert side.choice == name and side.voxels == mask.sum()
        assert side.metrics == mask_metrics(mask, SAMPLE.labels > 0, both.scan.spacing_mm)
        assert 0.3 < side.metrics.dice < 1 and side.metrics.hd95_mm > 0


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_slice_is_scored_as_it_is_shown(both, tmp_path, plane):
    both.click_voxel((X, Y, Z))
    read_reference(both, reference(tmp_path))
    sides, sentence = compare(both, ("sam-tiny", PLAIN), plane)
    at = both.at[plane]
    assert f"{plane} slice {at + 1}" in sentence
    cut = {"axial": lambda a: a[Z], "coronal": lambda a: a[:, Y], "sagittal": lambda a: a[..., X]}[plane]
    z, y, x = SPACING_MM
    spacing = {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[plane]
    for side, mask in zip(sides, (both.objects[0].mask, both.mask_by(PLAIN)), strict=True):
        want = mask_metrics(cut(mask), cut(SAMPLE.labels > 0), spacing)
        assert (side.metrics.dice, side.metrics.iou) == (want.dice, want.iou)
        assert side.metrics.hd95_mm == pytest.approx(want.hd95_mm)


def test_nothing_is_changed_by_comparing(both, tmp_path):
    both.click_voxel((X, Y, Z))
    before, choice = both.objects[0].mask, both.choice
    compare(both, ("other", PLAIN), "axial")
    assert both.objects[0].mask is before and both.choice == choice


def test_the_pictures_show_each_models_mask(both):
    both.click_voxel((X, Y, Z))
    sides, sentence = compare(both, ("sam-tiny", PLAIN), "axial")
    assert "reference" in sentence and all(side.metrics is None for side in sides)
    assert (seen(sides[0].content) != seen(sides[1].content)).any()
    content = json.loads(sides[1].content)
    assert content["caption"] == PLAIN and content["columns"] == SHAPE_ZYX[2] and content["rows"] == SHAPE_ZYX[1]
    both.objects[0].is_visible = False
    hidden = compare(both, ("sam-tiny", PLAIN), "axial")[0]
    np.testing.assert_array_equal(seen(hidden[0].content), seen(hidden[1].content))


def test_the_label_under_the_first_click(both, tmp_path):
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[Z, Y - 2 : Y + 3, X - 2 : X + 3], labels[Z, :3, :3], labels[0] = 5, 3, 9
    read_reference(both, reference(tmp_path, labels))
    both.click_voxel((X, Y, Z))
    both.click_voxel((1, 1, Z), 0)  # background says nothing about the label
    mask, what = reference_mask(both)
    np.testing.assert_array_equal(mask, labels == 5)
    assert what == "label 5, which the first click is in"


def test_the_label_that_the_mask_shares_most_with(both, tmp_path):
    both.box_voxels((X - 7, Y - 8, Z, X + 7, Y + 8, Z))
    inside = np.argwhere(both.objects[0].mask)
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[0] = 7
    for n, place in enumerate(inside):
        labels[tuple(place)] = 2 if n < 20 else 4
    read_reference(both, reference(tmp_path, labels))
    mask, what = reference_mask(both)
    np.testing.assert_array_equal(mask, labels == 4)
    assert what == "label 4, which the mask shares most with"


def test_an_empty_reference_is_told(both, tmp_path):
    both.click_voxel((X, Y, Z))
    read_reference(both, reference(tmp_path, np.zeros(SHAPE_ZYX, np.uint8)))
    with pytest.raises(DataError, match="the reference is empty"):
        compare(both, ("sam-tiny", PLAIN), "axial")


def test_a_reference_in_other_axes_is_turned(both, tmp_path):
    labels = (SAMPLE.labels > 0).astype(np.uint8)
    affine = SAMPLE.scan.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (SHAPE_ZYX[2] - 1)
    affine[:3, 0] *= -1
    read_reference(both, reference(tmp_path, labels[..., ::-1], affine))
    np.testing.assert_array_equal(both.reference > 0, labels > 0)


def test_a_reference_elsewhere_is_refused_and_names_no_folder(both, tmp_path):
    read_reference(both, reference(tmp_path))
    kept = both.reference
    for labels, affine in ((np.zeros((3, 4, 5), np.uint8), None), (None, LPS @ np.diag([9.0, 9, 9, 1]))):
        file = reference(tmp_path, labels, affine)
        with pytest.raises(DataError) as error:
            read_reference(both, file)
        assert "reference.nii.gz" in str(error.value) and str(tmp_path) not in str(error.value)
    assert both.reference is kept
    read_reference(both, None)
    assert both.reference is None and reference_mask(both) is None


def test_a_reference_that_unpacks_to_too_much(both, tmp_path):
    import gzip

    file = tmp_path / "bomb.nii.gz"
    file.write_bytes(gzip.compress(bytes(30_000_000)))
    both.limits = type(both.limits)(unpacked_bytes=20_000_000)
    with pytest.raises(DataError, match="too large"):
        read_reference(both, file)


def test_before_anything_is_asked(both):
    with pytest.raises(PromptError, match="nothing to compare"):
        compare(both, ("sam-tiny", PLAIN), "axial")


def test_the_table(both, tmp_path):
    both.click_voxel((X, Y, Z))
    read_reference(both, reference(tmp_path))
    sides, sentence = compare(both, ("sam-tiny", PLAIN), "axial")
    table = scores_table(sides, sentence)
    assert f"{sides[0].metrics.dice:.3f}" in table and f"{sides[1].metrics.iou:.3f}" in table and "HD95 mm" in table
    sides[0].choice = "<script>"
    assert "<script>" not in scores_table(sides, "<b>") and "<b>" not in scores_table(sides, "<b>")
    assert "Dice" not in scores_table(compare_without(both), "")


def compare_without(space):
    read_reference(space, None)
    return compare(space, ("sam-tiny", PLAIN), "axial")[0]


def test_a_reference_with_odd_values(both, tmp_path):
    both.box_voxels((X - 7, Y - 8, Z, X + 7, Y + 8, Z))
    labels = np.zeros(SHAPE_ZYX, np.int64)
    labels[both.objects[0].mask], labels[0, 0, :2] = 2**40, (-1, 3)
    both.reference = labels
    assert reference_mask(both)[1] == f"label {2**40}, which the mask shares most with"
