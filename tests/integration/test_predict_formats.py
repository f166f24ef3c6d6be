"""`msa predict` from and to every kind of file; which mask fits which scan is said before anything is encoded."""

from __future__ import annotations

from pathlib import Path

import h5py
import highdicom
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam_adapter.cli.main import run
from medsam_adapter.data.io import read_label, read_scan
from miniatures import dicom

SHAPE = (3, 24, 20)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """The same bright square in every kind of file."""
    root = tmp_path_factory.mktemp("inputs")
    values = np.random.default_rng(0).integers(0, 60, SHAPE).astype(np.uint8)
    values[:, 6:16, 5:14] += 180
    affine = dicom.series(root / "dicom", values, name="{}")
    for word in "ab":
        dicom.series(root / "two", values, series=word, name=word + "{}")
    nib.save(nib.Nifti1Image(values.T, affine), root / "a.nii.gz")
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.75, 0.5, 2))
    image.SetOrigin((-10, 20, -30))
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(image, str(root / name))
    np.savez(root / "a.npz", t1=values, t2=values[:, ::-1])
    with h5py.File(root / "a.h5", "w") as file:
        file["image"] = values
    Image.fromarray(values[0]).save(root / "a.png")
    dicom.save(dicom.image(values[0], dicom.SECONDARY_CAPTURE), root / "radiograph.dcm")
    np.save(root / "flat.npy", values[0])
    return root


def predict(image: Path, output: Path, *more: str, point: str = "9,10,1") -> int:
    return run(["predict", "sam-tiny", str(image), "-o", str(output), "--point", point, *more])


def test_every_volume_gives_the_same_mask_in_every_kind(inputs, tmp_path):
    masks = {}
    pairs = [("dicom", "dcm"), ("dicom", "nii.gz"), ("dicom", "nrrd"), ("a.nii.gz", "mha"), ("a.nrrd", "nrrd")]
    pairs += [("a.mha", "nii.gz"), ("a.h5", "nii")]
    for name, suffix in pairs:
        output = tmp_path / f"{name}.{suffix}"
        assert predict(inputs / name, output) == 0
        masks[name, suffix] = read_label(output, like=read_scan(inputs / name))
    expected = masks["a.nii.gz", "mha"]
    assert expected[1, 10, 9] == 1 and 0 < expected.mean() < 1
    for pair, mask in masks.items():
        if pair[0] != "a.h5":  # without an affine it is cut along its own axes
            np.testing.assert_array_equal(mask, expected, err_msg=str(pair))
    seg = highdicom.seg.segread(tmp_path / "dicom.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["object"]


def test_pictures_keep_black_and_white(inputs, tmp_path):
    for name in ("a.png", "radiograph.dcm", "flat.npy"):
        assert predict(inputs / name, tmp_path / f"{name}.png", point="9,10") == 0
        assert set(np.unique(np.array(Image.open(tmp_path / f"{name}.png")))) == {0, 255}
    assert predict(inputs / "radiograph.dcm", tmp_path / "seg.dcm", point="9,10") == 0
    mask = read_label(tmp_path / "seg.dcm", like=read_scan(inputs / "radiograph.dcm"))
    np.testing.assert_array_equal(mask * 255, read_label(tmp_path / "radiograph.dcm.png"))


def test_series_and_key_choose(inputs, tmp_path, capsys):
    assert predict(inputs / "two", tmp_path / "o.nii.gz") == 2
    uid = dicom.uid("series", "b")
    assert uid in capsys.readouterr().err
    assert predict(inputs / "two", tmp_path / "o.dcm", "--series", uid) == 0
    assert highdicom.seg.segread(tmp_path / "o.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == uid
    assert predict(inputs / "a.npz", tmp_path / "o.nii.gz") == 2
    assert "t1 (3, 24, 20) uint8" in capsys.readouterr().err
    masks = []
    for key in ("t1", "t2"):
        assert predict(inputs / "a.npz", tmp_path / f"{key}.nrrd", "--key", key) == 0
        masks.append(read_label(tmp_path / f"{key}.nrrd"))
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize(
    ("image", "output", "said"),
    [
        ("dicom", "o.png", ".mha or .nrrd, or .dcm"),
        ("dicom", "o.dicom", "found: .dicom"),
        ("a.nii.gz", "o.dcm", "DICOM SEG refers to DICOM images"),
        ("a.nrrd", "o.nhdr", "mask of a volume"),
        ("a.h5", "o.npz", "mask of a volume"),
        ("a.png", "o.nii.gz", "mask of a picture"),
        ("a.png", "o.jpg", ".png"),
        ("radiograph.dcm", "o.nrrd", ".png, .tif or .bmp, or .dcm"),
        ("two", "o.nii.gz", "several series"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_the_model_is_opened(
    inputs, tmp_path, monkeypatch, capsys, image, output, said
):
    def opened(*_, **__):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("medsam_adapter.inference.predictor.MSAPredictor.from_pretrained", opened)
    assert predict(inputs / image, tmp_path / output) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("image", "output", "overlay", "said"),
    [
        ("a.nii.gz", "IN/a.nii.gz", None, "would take the place of the scan"),
        ("a.nii.gz", "link/../IN/a.nii.gz", None, "would take the place of the scan"),
        ("a.nii.gz", "to_the_scan.nii.gz", None, "would take the place of the scan"),
        ("radiograph.dcm", "IN/radiograph.dcm", None, "would take the place of the scan"),
        ("dicom", "IN/dicom/mask.dcm", None, "would lie among the files of the scan"),
        ("a.png", "o.png", "IN/a.png", "would take the place of the scan"),
        ("dicom", "o.dcm", "IN/dicom/o.png", "would lie among the files of the scan"),
        ("a.png", "o.png", "./o.png", "mask and overlay are one file"),
        ("a.nii.gz", "o.nii.gz", "o.nii.gz", "o.nii.gz: the overlay is a PNG"),
        ("a.nii.gz", "o.nii.gz", "folder.png", "folder.png: is a folder"),
        ("a.nii.gz", "o.nii.gz", "IN/a.npz/o.png", "a.npz: cannot be written"),
        ("a.nii.gz", "IN/a.npz/o.nii.gz", None, "a.npz: cannot be written"),
    ],
)
def test_what_would_be_lost_is_refused_before_the_model_is_opened(
    inputs, tmp_path, monkeypatch, capsys, image, output, overlay, said
):
    def opened(*_, **__):
        raise AssertionError("the model was opened")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").symlink_to(inputs)
    (tmp_path / "link").mkdir()
    (tmp_path / "to_the_scan.nii.gz").symlink_to(inputs / "a.nii.gz")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("medsam_adapter.inference.predictor.MSAPredictor.from_pretrained", opened)
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    more = ["--overlay", overlay] if overlay else []
    assert predict(inputs / image, Path(output), *more, point="9,10" if image[-3:] in ("png", "dcm") else "9,10,1") == 2
    assert said in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    assert {path.name for path in tmp_path.iterdir()} == {"IN", "link", "to_the_scan.nii.gz", "folder.png"}


def test_texts_name_the_segments():
    from types import SimpleNamespace

    from medsam_adapter.cli.predict import _segment_names

    def model(**id2label):
        return SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(id2label=id2label)))

    assert _segment_names(["the liver", "the spleen"], model()) == {1: "the liver", 2: "the spleen"}
    assert _segment_names(None, model(**{"0": "background", "1": "liver"})) == {1: "liver"}
    assert _segment_names(None, model(**{"0": "background", "1": "liver", "2": "spleen"})) == {1: "object"}
    assert _segment_names(None, model(**{"0": "LABEL_0", "1": "LABEL_1"})) == {1: "object"}
