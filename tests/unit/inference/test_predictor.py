"""`MSAPredictor`: shapes, file order, and the same answer for the same patient however the file lies."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import CheckpointError, DataError, PromptError
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt

SHAPE_IJK = (14, 11, 6)
AFFINE = np.array([[1.0, 0, 0, -7], [0, 1.5, 0, 3], [0, 0, 4, 50], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def predictor(tiny_base, randomise):
    config = MSAAdapterConfig(use_depth=True, num_slices=3, bottleneck_ratio=0.25)
    model = randomise(MSAModel.from_base(tiny_base, config)).requires_grad_(False)
    return MSAPredictor(model, MSAProcessor.from_model(model, intensity="percentile"), device="cpu")


@pytest.fixture(scope="module")
def patient() -> nib.Nifti1Image:
    """A RAS scan with no symmetry."""
    data = np.random.default_rng(0).integers(-200, 300, SHAPE_IJK).astype(np.int16)
    return nib.Nifti1Image(data, AFFINE)


def turned(image: nib.Nifti1Image, codes: str) -> nib.Nifti1Image:
    have = nib.io_orientation(image.affine)
    return image.as_reoriented(nib.orientations.ornt_transform(have, nib.orientations.axcodes2ornt(codes)))


def in_world(array_kji: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An array in file order as RAS (i, j, k)."""
    return nib.as_closest_canonical(
        nib.Nifti1Image(array_kji.transpose(2, 1, 0).astype(np.float32), affine)
    ).get_fdata()


@pytest.mark.parametrize("image", [np.zeros((40, 64), np.uint8), np.zeros((40, 64, 3), np.uint8)])
def test_pictures(tiny_base, image):
    predictor = MSAPredictor(MSAModel.from_base(tiny_base), device="cpu")
    for picture in (image, Image.fromarray(image)):
        predictor.set_image(picture)
        mask = predictor.predict(points=[(10, 20)])
        assert mask.shape == (40, 64) and mask.dtype == bool
        logits = predictor.predict(boxes=[(5, 6, 30, 35)], points=[(1, 1)], labels=[0], return_logits=True)
        assert logits.shape == (40, 64) and logits.dtype == np.float32
    with pytest.raises(PromptError, match="outside"):
        predictor.predict(points=[(64, 20)])


def test_a_picture_is_what_the_model_says(tiny_base):
    """The predictor's logits are those of processor, model and post-processing."""
    model, picture = MSAModel.from_base(tiny_base), np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
    predictor, processor = MSAPredictor(model, device="cpu"), MSAProcessor(image_size=64)
    predictor.set_image(picture)
    got = predictor.predict(points=[(10, 20), (30, 40)], labels=[1, 0], return_logits=True)
    inputs = processor(picture, input_points=[[[(10, 20), (30, 40)]]], input_labels=[[[1, 0]]])
    with torch.no_grad():
        out = model(**inputs)
    want = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], binarize=False)[0][0, 0].numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("carry", [True, False])
def test_volumes(predictor, patient, carry):
    predictor.set_volume(patient)
    mask = predictor.predict(points=[(3, 4, 2), (5, 5, 2)], carry=carry)
    assert mask.shape == SHAPE_IJK[::-1] and mask.dtype == bool
    logits = predictor.predict(points=[(3, 4, 2)], boxes=[(2, 3, 4, 8, 9, 4)], carry=carry, return_logits=True)
    assert logits.shape == SHAPE_IJK[::-1]
    if not carry:
        reached = [k for k in range(6) if (logits[k] > -19).any()]
        assert reached == [2, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers_everything(dtype):
    """A disc in each slice: carried, corrected by a click on the ground, and by a mask that was there before."""
    ys, xs = np.mgrid[:60, :60]
    disc = (ys - 25) ** 2 + (xs - 30) ** 2 < 150
    volume = np.stack([np.where(disc, 200, 60).astype(np.uint8)] * 4)
    found = {}
    for kind in (torch.float32, dtype):
        predictor = MSAPredictor.from_pretrained("sam-tiny", "cpu", dtype=kind)
        predictor.set_volume(volume)
        carried = predictor.predict(points=[(30, 25, 1)])
        corrected = predictor.predict(points=[(30, 25, 1), (5, 50, 3)], labels=[1, 0])
        encoded = predictor.encoded
        before = predictor.predict_slices(encoded, ObjectPrompt([(30.0, 25.0, 0.0)], [1]), {0: disc})[0]
        found[kind] = [*carried, *corrected, before]
        predictor.clear()
    for got, want in zip(found[dtype], found[torch.float32], strict=True):
        assert want.sum() > 100 and (got & want).sum() > 0.9 * (got | want).sum()


def test_an_array_is_a_volume_in_its_own_frame(predictor):
    predictor.set_volume(np.random.default_rng(0).normal(size=(5, 9, 12)))
    assert predictor.predict(points=[(11, 8, 4)]).shape == (5, 9, 12)


@pytest.mark.parametrize("codes", ["LPS", "RPI", "LAS", "PIR", "SLA", "ASL"])
@pytest.mark.parametrize("carry", [True, False])
def test_the_same_voxels_give_the_same_mask_in_the_patient(predictor, patient, codes, carry):
    other = turned(patient, codes)
    assert nib.aff2axcodes(other.affine) == tuple(codes)
    voxels = np.array([(3, 4, 2), (9, 8, 3)])
    to_other = np.linalg.inv(other.affine) @ patient.affine
    moved = np.round(nib.affines.apply_affine(to_other, voxels)).astype(int)
    corners = np.array([(2, 1, 4), (10, 9, 4)])
    moved_corners = np.round(nib.affines.apply_affine(to_other, corners)).astype(int)
    results = []
    for image, points, box in ((patient, voxels, corners), (other, moved, moved_corners)):
        predictor.set_volume(image)
        logits = predictor.predict(
            points=points.tolist(), labels=[1, 0], boxes=[box.ravel().tolist()], carry=carry, return_logits=True
        )
        assert logits.shape == image.shape[::-1]
        results.append(in_world(logits, image.affine))
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)
    assert np.ptp(results[0]) > 0.1


@pytest.mark.parametrize("codes", ["RAS", "PIR", "SLA", "ASL"])
def test_a_volume_of_one_slice_keeps_its_axes(predictor, patient, codes):
    image = turned(patient.slicer[:, :, 2:3], codes)
    predictor.set_volume(image)
    mask = predictor.predict(points=[tuple(n // 2 for n in image.shape)])
    assert mask.shape == image.shape[::-1]


def test_several_objects_are_those_alone(predictor, patient):
    encoded = predictor.encode(patient)
    prompts = [ObjectPrompt([(3, 4, 2)], [1]), ObjectPrompt([(9, 8, 3), (1, 1, 0)], [1, 0])]
    together = predictor.predict_objects(encoded, prompts)
    assert together.shape == (2, *SHAPE_IJK[::-1])
    for i, prompt in enumerate(prompts):
        np.testing.assert_allclose(predictor.predict_objects(encoded, [prompt])[0], together[i], atol=1e-4)


def test_scans_and_other_orders(predictor, patient):
    scan = Scan(np.asarray(patient.dataobj).transpose(2, 1, 0), (4.0, 1.5, 1.0), patient.affine)
    predictor.set_volume(patient)
    want = predictor.predict(points=[(3, 4, 2)], return_logits=True)
    predictor.set_volume(scan)
    np.testing.assert_array_equal(predictor.predict(points=[(3, 4, 2)], return_logits=True), want)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ({}, "no prompt"),
        ({"points": [(14, 0, 0)]}, "outside"),
        ({"points": [(0, 0, 6)]}, "outside"),
        ({"points": [(0, 0)]}, "three numbers"),
        ({"points": [(1, 1, 1)], "labels": [0]}, "only background"),
        ({"points": [(1, 1, 1)], "labels": [1, 1]}, "label"),
        ({"points": [(1, 1, 1), (2, 2, 1)], "labels": [1, 7]}, "label"),
        ({"points": [(1, 1, 1), (2, 2, 1)], "labels": [1, -1]}, "label"),
        ({"points": [(1, 1, 1), (2, 2, 1)], "labels": [1, 0.5]}, "label"),
        ({"boxes": [(0, 0, 1, 5, 5, 2)]}, "one slice"),
        ({"boxes": [(0, 0, 1, 50, 5, 1)]}, "does not fit"),
        ({"boxes": [(0, 0, 7, 5, 5, 7)]}, "outside"),
        ({"boxes": [(0, 0, 5, 5)]}, "six numbers"),
        ({"boxes": [(0, 0, 1, 5, 5, 1), (2, 2, 1, 7, 7, 1)]}, "two boxes on one slice"),
    ],
)
def test_refused(predictor, patient, prompt, text):
    predictor.set_volume(patient)
    with pytest.raises(PromptError, match=text):
        predictor.predict(**prompt)


def test_nothing_set(tiny_base):
    with pytest.raises(PromptError, match="no scan is set"):
        MSAPredictor(MSAModel.from_base(tiny_base), device="cpu").predict(points=[(1, 1)])


def test_opened_from_a_folder(tiny_base, predictor, tmp_path):
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    opened = MSAPredictor.from_pretrained(tmp_path, device="cpu")
    assert opened.processor.intensity == "percentile" and opened.processor.image_size == 64
    assert MSAPredictor.from_pretrained(tiny_base, device="cpu").processor.image_size == 64


DAMAGED = {
    "no spread": {"image_std": [0, 0, 0]}, "not a number": {"image_mean": [0.4, float("nan"), 0.4]},
    "two means": {"image_mean": [0.4, 0.5]}, "a mean in words": {"image_mean": ["a", 0, 0]},
    "one mean": {"image_mean": 5}, "a number for axes": {"orientation": 7}, "no axes": {"orientation": "LPX"},
    "a window in words": {"window_hu": [1, "a"]}, "half a window": {"window_hu": [1]},
    "an endless window": {"window_hu": [0, 1e999]}, "a mode that is none": {"intensity": 5},
    "a window upside down": {"window_hu": [5, -5], "intensity": "percentile"},
    "a size in words": {"image_size": "abc"}, "no size": {"image_size": 0}, "half a pixel": {"image_size": 64.5},
}  # fmt: skip


@pytest.mark.parametrize("settings", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_preprocessor_file_is_told(predictor, tmp_path, settings):
    predictor.model.save_pretrained(tmp_path)
    predictor.processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    for opens in (MSAPredictor.from_pretrained, MSAProcessor.from_pretrained):
        with pytest.raises(CheckpointError, match="preprocessor_config.json cannot be read") as caught:
            opens(tmp_path)
        assert str(caught.value.file) == str(tmp_path)
    with pytest.raises(DataError):
        MSAProcessor(**settings)


@pytest.mark.parametrize("settings", [{"image_std": [0, 0, 0]}, {"image_mean": 5}])
def test_a_damaged_preprocessor_file_of_a_plain_sam_is_told(tiny_base, tmp_path, settings):
    folder = shutil.copytree(tiny_base, tmp_path / "sam")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "SamImageProcessor", **settings})
    )
    with pytest.raises(CheckpointError, match="preprocessor_config.json cannot be read"):
        MSAPredictor.from_pretrained(folder, device="cpu")


def test_sams_own_preprocessor_file_does_not_set_the_size(tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "sam")
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "SamImageProcessor", "size": {"longest_edge": 1024}}'
    )
    predictor = MSAPredictor.from_pretrained(folder, device="cpu")
    predictor.set_image(np.zeros((40, 64), np.uint8))
    assert predictor.predict(points=[(3, 4)]).shape == (40, 64)


@pytest.mark.parametrize("z", [1.4, 1.6, 2.4, 3.7])
@pytest.mark.parametrize("orientation", ["RAS", "LPI"], ids=["as in the file", "slices counted from the other end"])
def test_a_click_and_a_box_between_two_slices_go_to_the_nearer_one(predictor, patient, orientation, z):
    processor = MSAProcessor.from_model(predictor.model, intensity="percentile", orientation=orientation)
    encoded = predictor.encode(patient, processor=processor)
    for prompt in (ObjectPrompt([(3, 4, z)], [1]), ObjectPrompt(boxes=[(2, 1, z, 9, 8, z)])):
        logits = predictor.predict_objects(encoded, [prompt], carry=False)[0]
        assert [k for k in range(SHAPE_IJK[2]) if (logits[k] > -19).any()] == [round(z)]
        slices = predictor.predict_slices(encoded, prompt)
        assert list(slices) == [encoded.turn.points_to_source((0, 0, round(z)))[2]]
