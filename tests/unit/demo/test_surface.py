"""Surfaces lie where the mask lies in the patient, and are closed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medsam_adapter.demo.surface import MAX_SIDE, surface_of

OBLIQUE = np.array([[0.0, -0.5, 1.9, 10], [1.5, 0, 0.3, -20], [0, 1.2, 0.8, 5], [0, 0, 0, 1]])
AFFINES = {
    "RAS": np.eye(4),
    "LPS": np.diag([-1.0, -1, 1, 1]),
    "anisotropic": np.diag([0.7, 0.8, 3, 1]),
    "oblique": OBLIQUE,
}


def ball(shape=(24, 30, 36), centre=(10, 14, 20), radius=7) -> np.ndarray:
    return sum((grid - c) ** 2 for grid, c in zip(np.indices(shape), centre, strict=True)) <= radius**2


def volume_mm3(vertices: np.ndarray, triangles: np.ndarray) -> float:
    """Signed; by the divergence theorem. Only a closed surface gives the same wherever the origin is."""
    a, b, c = (vertices[triangles[:, n]].astype(float) for n in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("name", AFFINES)
def test_it_lies_round_the_mask(name):
    mask, affine = ball(), AFFINES[name]
    vertices, triangles = surface_of(mask, affine)
    assert vertices.dtype == np.float32 and triangles.dtype == np.uint32 and triangles.max() < len(vertices)
    voxels = nib.affines.apply_affine(np.linalg.inv(affine), vertices)[:, ::-1]
    np.testing.assert_allclose(voxels.mean(0), (10, 14, 20), atol=0.3)
    distance = np.linalg.norm(voxels - (10, 14, 20), axis=1)
    assert 6 < distance.min() and distance.max() < 8.2
    want = mask.sum() * abs(np.linalg.det(affine))
    assert abs(volume_mm3(vertices, triangles)) == pytest.approx(want, rel=0.1)


def edges_of(triangles: np.ndarray) -> np.ndarray:
    """How many triangles share each edge."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    return np.unique(edges, axis=0, return_counts=True)[1]


@pytest.mark.parametrize("mask", [ball(), np.ones((6, 7, 8), bool), ball(centre=(0, 0, 0)), ball(centre=(23, 29, 35))])
def test_it_is_closed_even_at_the_edge_of_the_scan(mask):
    vertices, triangles = surface_of(mask, np.eye(4))
    assert len(vertices) and (edges_of(triangles) == 2).all()
    assert volume_mm3(vertices, triangles) == pytest.approx(volume_mm3(vertices + 100, triangles), rel=1e-3)


@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 4, 5), (5, 6, 7)])
def test_one_voxel_is_seen(voxel):
    mask = np.zeros((6, 7, 8), bool)
    mask[voxel] = True
    vertices, triangles = surface_of(mask, np.diag([2.0, 1, 1, 1]))
    assert len(triangles) >= 8
    k, j, i = voxel
    np.testing.assert_allclose(vertices.mean(0), (2 * i, j, k), atol=0.05)


def test_nothing_gives_nothing():
    vertices, triangles = surface_of(np.zeros((3, 4, 5), bool), np.eye(4))
    assert vertices.shape == (0, 3) and triangles.shape == (0, 3)


def test_a_large_mask_is_sampled_and_stays_where_it_is():
    mask = np.zeros((4, 10, 3 * MAX_SIDE), bool)
    mask[:, 2:8, 5:-5] = True
    vertices, _ = surface_of(mask, np.eye(4))
    low, high = vertices.min(0), vertices.max(0)
    np.testing.assert_allclose([low[0], high[0]], [5, 3 * MAX_SIDE - 6], atol=3)
    np.testing.assert_allclose([low[1], high[1]], [2, 7], atol=1)
    assert len(vertices) < 20_000
