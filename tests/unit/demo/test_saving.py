"""Files that a visitor keeps: voxels, geometry, names, and nothing half done."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from PIL import Image

from blobs import LPS, PERMUTED, RAS, blob, tilted
from demo_setup import SHAPE_ZYX, SPACING_MM, centre_of, workspace, write_organ
from medsam_adapter.data.io import read_label, read_scan
from medsam_adapter.demo.examples import lesion_picture
from medsam_adapter.demo.rendering import rgb
from medsam_adapter.demo.saving import save_mask, save_picture, save_segmentation, save_session
from medsam_adapter.errors import DataError
from medsam_adapter.inference.session import Session
from miniatures.dicom import series

X, Y, Z = centre_of()


def two_objects(space) -> np.ndarray:
    """Two objects that overlap, without asking the model; the label map to be saved."""
    labels = np.zeros(space.opened().shape_zyx, np.uint8)
    space.objects[0].mask = np.zeros(labels.shape, bool)
    space.objects[0].mask[-1, 2:9, 3:12] = True
    space.add_object()
    space.objects[1].mask = np.zeros(labels.shape, bool)
    space.objects[1].mask[-1, 5:12, 10:20] = True
    labels[space.objects[0].mask], labels[space.objects[1].mask] = 1, 2
    return labels


@pytest.mark.parametrize("axes", [LPS, RAS, PERMUTED, tilted(LPS)], ids=["LPS", "RAS", "PSR", "oblique"])
def test_a_label_map_lies_on_the_scan(space, tmp_path, axes):
    space.open([write_organ(tmp_path / "organ.nii.gz", axes)])
    want = two_objects(space)
    file = save_mask(space)
    assert file.name == "organ_mask.nii.gz" and file.is_relative_to(space.folder)
    saved = read_scan(file)
    np.testing.assert_array_equal(saved.array, want)
    np.testing.assert_allclose(saved.affine, read_scan(tmp_path / "organ.nii.gz").affine, atol=1e-6)
    assert saved.spacing_mm == pytest.approx(SPACING_MM)
    np.testing.assert_array_equal(read_label(file, like=space.scan), want)


@pytest.fixture
def picture(space, tmp_path):
    lesion_picture()[0].resize((60, 50)).save(tmp_path / "mole.jpg")
    space.open([tmp_path / "mole.jpg"])
    return space


def test_one_object_of_a_picture_is_black_and_white(picture):
    picture.click_voxel((30, 25, 0))
    saved = np.asarray(Image.open(save_mask(picture)))
    np.testing.assert_array_equal(saved, picture.objects[0].mask[0] * np.uint8(255))
    assert saved.dtype == np.uint8 and set(np.unique(saved)) == {0, 255}


def test_several_objects_of_a_picture_are_their_numbers(picture):
    want = two_objects(picture)
    file = save_mask(picture)
    assert file.name == "mole_mask.png" and set(np.unique(want)) == {0, 1, 2}
    np.testing.assert_array_equal(np.asarray(Image.open(file)), want[0])


def test_dicom_seg(space, tmp_path):
    folder = tmp_path / "series"
    array = blob(0, SHAPE_ZYX, SPACING_MM).scan.array.round().astype(np.int16)
    series(folder, array, spacing_mm=SPACING_MM, name="{}.dcm", order=[3, 1, 0, 2, 6, 5, 4])
    space.open(sorted(folder.iterdir()))
    np.testing.assert_array_equal(space.scan.array, array)
    want = two_objects(space)
    space.objects[0].thing.name, space.objects[1].thing.name = "liver", "spleen"
    file = save_segmentation(space)
    np.testing.assert_array_equal(read_label(file, like=space.scan), want)
    dataset = pydicom.dcmread(file)
    assert [str(each.SegmentLabel) for each in dataset.SegmentSequence] == ["liver", "spleen"]
    source = pydicom.dcmread(folder / "0.dcm")
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert save_mask(space).name.endswith("_mask.nii.gz")  # a DICOM volume can be saved as NIfTI, too


def test_dicom_seg_of_other_files(opened):
    opened.click_voxel((X, Y, Z))
    with pytest.raises(DataError, match="DICOM") as error:
        save_segmentation(opened)
    assert "organ.nii.gz" in str(error.value)


@pytest.mark.parametrize("save", [save_mask, lambda space: save_segmentation(space)])
def test_without_a_mask_nothing_is_written(opened, save):
    with pytest.raises(DataError):
        save(opened)
    assert not list(opened.folder.rglob("*_mask*"))


@pytest.mark.parametrize(
    "save", [save_mask, save_segmentation, save_session, lambda space: save_picture(space, "axial")]
)
def test_without_a_scan(space, save):
    with pytest.raises(DataError, match="no scan is open"):
        save(space)


def test_the_picture_is_what_is_seen(opened):
    opened.click_voxel((X, Y, Z))
    opened.opacity, opened.style = 1.0, "fill"
    opened.objects[0].thing.prompt.points.clear()
    opened.objects[0].thing.prompt.labels.clear()
    file = save_picture(opened, "axial")
    assert file.name == f"organ_axial_{Z + 1}.png"
    seen = np.asarray(Image.open(file))
    plane = opened.planes["axial"]
    mask = plane.slice_of(opened.objects[0].mask, Z)
    assert seen.shape[0] / seen.shape[1] == pytest.approx(mask.shape[0] * plane.pixel_aspect / mask.shape[1], rel=0.01)
    is_coloured = (seen == rgb(opened.objects[0].thing.colour)).all(-1)
    assert is_coloured.mean() == pytest.approx(mask.mean(), rel=0.03)
    with pytest.raises(DataError, match="no such plane"):
        save_picture(opened, "oblique")


def test_the_session_is_the_workspace(opened, tmp_path):
    opened.click_voxel((X, Y, Z))
    opened.carry_on()
    session = Session.load(save_session(opened))
    assert session == opened.session() and session.scan_name == "organ.nii.gz" and session.shape_zyx == SHAPE_ZYX
    assert session.model == "sam-tiny" and not session.is_plain and session.adapter is None
    assert session.objects[0].carried is not None and session.objects[0].intensity == "window"
    assert str(opened.folder) not in save_session(opened).read_text()
    opened.use_model(opened.models.choices[-1])
    assert opened.session().is_plain


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("../../etc/passwd.nii.gz", "passwd"), ("a b:c*?.nii.gz", "a_b_c"), ("☃.nii.gz", "scan"), (".nii.gz", "scan"),
        ("x" * 300 + ".nii.gz", "x" * 60), ("series.zip", "series"), ("-rf.nii", "-rf"), ("a\0b\n.nii", "a_b"),
        ("..", "scan"), ("<b>.nii", "b"),
    ],
)  # fmt: skip
def test_names_of_files(predictor, tmp_path, name, want):
    space = workspace(predictor)
    space.open([write_organ(tmp_path / "organ.nii.gz")], name=name)
    file = save_session(space)
    assert file.name == f"{want}_session.json" and file.parent == space.folder / "saved"
    space.close()
    assert not file.exists()
