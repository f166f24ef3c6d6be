"""What the 3-D view is sent lies where the scan lies."""

from __future__ import annotations

import base64
import gzip
import json

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("gradio")

from demo_setup import write_organ  # noqa: E402
from medsam_adapter.demo import volume_viewer  # noqa: E402


def test_slices_that_are_left_out_shift_nothing(space, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_viewer, "MAX_SIDE", 10)
    space.open([write_organ(tmp_path / "organ.nii.gz")])
    mask = np.zeros(space.scan.shape_zyx, bool)
    mask[2:5, 8:20, 12:24] = True
    space.objects[0].mask = mask
    sent = json.loads(volume_viewer.volume_content(space))
    labels = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(sent["labels"])))
    centre = np.argwhere(np.asarray(labels.dataobj) == 1).mean(0)
    truth = np.argwhere(mask)[:, ::-1].mean(0)
    found, wanted = (nib.affines.apply_affine(a, p) for a, p in ((labels.affine, centre), (space.scan.affine, truth)))
    np.testing.assert_allclose(found, wanted, atol=1.0)  # of 4 mm from one voxel shown to the next
    vertices = np.frombuffer(base64.b64decode(sent["surfaces"][0]["vertices"]), np.float32).reshape(-1, 3)
    np.testing.assert_allclose((vertices.min(0) + vertices.max(0)) / 2, wanted, atol=0.5)
