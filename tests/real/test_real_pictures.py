"""Outlines drawn into real fundus photographs and found again, and real ISIC masks in the form of their challenge."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.io import read_label
from medsam_adapter.data.layouts import open_dataset

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")]
SIZE = (1372, 968)  # half of RIGA's largest pictures


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize(("colour", "width"), [((255, 255, 255), 2), ((0, 255, 0), 3), ((20, 20, 20), 2)])
@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_outlines_in_fundus_photographs(tmp_path, colour, width, suffix):
    options = {"quality": 75, "subsampling": 2} if suffix == ".jpg" else {}
    folder = tmp_path / "BinRushed/BinRushed2"
    folder.mkdir(parents=True)
    truth = {}
    photographs = [path for path in sorted((DATA / "idrid_optic_disc/images").iterdir())[:4] if path.stem != "IDRiD_10"]
    for number, path in enumerate(photographs, start=1):  # the disc of IDRiD_10 reaches into the black around the eye
        picture = Image.open(path).convert("RGB").resize(SIZE)
        mask = next((DATA / "idrid_optic_disc/masks").glob(f"{path.stem}*"))
        disc = np.array(Image.open(mask).convert("L").resize(SIZE, Image.Resampling.NEAREST)) > 0
        y, x = np.nonzero(disc)
        cup = np.zeros_like(disc)
        height, width_px = np.ptp(y) // 4, np.ptp(x) // 4
        cup[int(y.mean()) - height : int(y.mean()) + height, int(x.mean()) - width_px : int(x.mean()) + width_px] = True
        drawn = np.array(picture)
        for region in (disc, cup):
            drawn[region & ~ndimage.binary_erosion(region, iterations=width)] = colour
        picture.save(folder / f"image{number}prime{suffix}", **options)
        Image.fromarray(drawn).save(folder / f"image{number}-1{suffix}", **options)
        truth[f"BinRushed2_image{number}"] = disc, cup
    dataset = open_dataset(tmp_path)
    assert set(truth) == {case.case_id for case in dataset.cases}
    for case in dataset.cases:
        labels = dataset.read(case).labels[0]
        disc, cup = truth[case.case_id]
        if suffix == ".tif":
            assert ((labels > 0) == disc).all() and ((labels == 2) == cup).all()
        else:
            assert dice(labels > 0, disc) > 0.98 and dice(labels == 2, cup) > 0.95


def test_real_isic_pictures(tmp_path):
    images, masks = tmp_path / "ISIC-2017_Test_v2_Data", tmp_path / "ISIC-2017_Test_v2_Part1_GroundTruth"
    shutil.copytree(DATA / "isic2017/images", images)
    shutil.copytree(DATA / "isic2017/masks", masks)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "isic2017" and len(dataset.labelled) == 5
    assert [f.problem for f in check_dataset(dataset) if f.level == "error"] == []
    for case in dataset.cases:
        labels = dataset.read(case).labels
        np.testing.assert_array_equal(labels > 0, read_label(case.label) == 255)
        assert 0 < labels.mean() < 1
