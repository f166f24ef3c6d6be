"""Metrics on real label maps against two independent references: SimpleITK's overlaps and a k-d tree of surfaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.evaluation.metrics import mask_metrics

HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not HIPPOCAMPUS.exists(), reason="the real data of ../shared/data are not here"),
]


def overlaps(prediction, reference) -> tuple[float, float]:
    """Dice and IoU."""
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)))
    return measures.GetDiceCoefficient(), measures.GetJaccardCoefficient()


def surface_distance_95(prediction, reference, spacing_mm) -> float:
    def surface_mm(mask):
        inside = ndimage.binary_erosion(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
        return np.argwhere(mask & ~inside) * spacing_mm

    there, back = surface_mm(prediction), surface_mm(reference)
    pairs = ((there, back), (back, there))
    return max(np.percentile(cKDTree(others).query(points)[0], 95) for points, others in pairs)


def test_hundred_labels_dilated_by_a_voxel():
    """Once with the files' own spacing of 1 mm and once with one that differs along each axis."""
    dataset = open_dataset(HIPPOCAMPUS)
    assert len(dataset.cases) == 100
    for number, case in enumerate(dataset.cases):
        sample = dataset.read(case)
        reference = sample.labels == 1 + number % 2
        dilated = ndimage.binary_dilation(reference)
        for spacing_mm in (sample.scan.spacing_mm, (2.5, 0.7, 1.3)):
            found = mask_metrics(dilated, reference, spacing_mm)
            assert (found.dice, found.iou) == pytest.approx(overlaps(dilated, reference), abs=1e-12), case.case_id
            assert found.hd95_mm == pytest.approx(surface_distance_95(dilated, reference, spacing_mm), rel=1e-5)
        assert 1 - 1e-6 <= mask_metrics(dilated, reference, (1, 1, 1)).hd95_mm <= 3**0.5
