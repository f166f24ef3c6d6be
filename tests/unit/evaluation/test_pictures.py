"""Pictures for the best, the median and the worst mask: small while they wait, and each with its own name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.data.geometry import Turn
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import OutputError
from medsam_adapter.evaluation import pictures
from medsam_adapter.evaluation.overlays import draw_overlay
from medsam_adapter.evaluation.pictures import overlay_item, write_extremes
from medsam_adapter.evaluation.sheets import OverlayItem, write_best_median_worst
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.prompts.types import ObjectPrompt


@pytest.mark.parametrize("side", [64, 900])
def test_a_picture_that_waits_holds_no_volume_and_looks_the_same(side):
    edge = side // 4
    values = np.broadcast_to(np.linspace(0, 99, side), (5, side, side)).astype(np.uint8)
    masks = np.zeros((2, 5, side, side), bool)
    masks[:, 2, edge : 2 * edge, edge : 3 * edge] = True
    scan, turn = Scan(values, (3.0, 2.0, 2.0)), Turn.none(values.shape[::-1])
    click = ObjectPrompt([(2 * edge, 2 * edge, 2)], [1], [(edge, edge, 2, 3 * edge, 2 * edge, 2)])
    whole, small = (
        overlay_item(scan, MSAProcessor(64, "percentile"), turn, *masks, click, "a", scale_to=scale_to)
        for scale_to in (None, 320)
    )
    for array in (small.image, small.prediction, small.reference):
        assert not np.shares_memory(array, masks) and array.base is None and max(array.shape) <= 320
    drawn = [
        np.asarray(draw_overlay(
            item.image, item.prediction, item.reference, item.points_xy, item.labels, item.boxes_xyxy, 320,
            item.pixel_spacing,
        )).astype(int)
        for item in (whole, small)
    ]  # fmt: skip
    assert drawn[0].shape == drawn[1].shape and np.abs(drawn[0] - drawn[1]).mean() < 1


def test_two_masks_have_three_rows_of_their_own_names(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "write_best_median_worst", lambda path, items: shown.extend(items) or path)
    item = OverlayItem("case, liver", np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool))
    write_extremes(tmp_path / "x.png", [(0.25, item), (0.75, item)])
    captions = ["best: case, liver, Dice 0.75", "median: case, liver, Dice 0.25", "worst: case, liver, Dice 0.25"]
    assert [each.caption for each in shown] == captions and item.caption == "case, liver"


def test_a_sheet_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    item = OverlayItem("a", np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool))
    file = write_best_median_worst(tmp_path / "sheet.png", [item])
    before = file.read_bytes()

    def full(self, target, **_):
        with open(target, "wb") if not hasattr(target, "write") else target as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_best_median_worst(file, [item])
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
