"""Frozen features on disk: computed once, refused when damaged, never taken for another image or model."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors import SafetensorError

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.errors import OutputError
from medsam_adapter.frozen_features import frozen_features
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.modeling_msa import MSAModel


@pytest.fixture
def model(tiny_base, randomise):
    config = MSAAdapterConfig(encoder_layers=[2], bottleneck_ratio=0.25)
    return randomise(MSAModel.from_base(tiny_base, config))


def pixels(seed: int = 0, slices: int = 5) -> torch.Tensor:
    return torch.randn(slices, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def files(folder):
    return sorted(folder.iterdir())


def test_computed_once_and_read_slice_by_slice(model, tmp_path):
    store, seen = FeatureStore(tmp_path / "new" / "folder", model, batch_size=2), []
    stored = store.get(pixels(), lambda done, total: seen.append((done, total)))
    assert len(stored) == 5 and stored.shape == (5, 8, 8, 32) and seen == [(2, 5), (4, 5), (5, 5)]
    want = frozen_features(model, pixels())
    for first, last in [(0, 5), (1, 3), (4, 5)]:
        torch.testing.assert_close(stored[first:last], want[first:last])
    again = FeatureStore(tmp_path / "new" / "folder", model)
    assert torch.equal(again.get(pixels())[0:5], stored[0:5])
    assert (store.computed, store.reused, again.computed, again.reused) == (1, 0, 0, 1)
    assert torch.equal(pickle.loads(pickle.dumps(stored))[1:2], stored[1:2])  # for worker processes
    assert all(file.suffix == ".safetensors" for file in files(tmp_path / "new" / "folder"))


def test_another_image_type_or_model_has_features_of_its_own(model, tiny_base, tiny_sam, tmp_path):
    FeatureStore(tmp_path, model).get(pixels())
    one_pixel = pixels()
    one_pixel[3, 1, 5, 7] += 1e-3
    others = [(model, pixels(1)), (model, one_pixel), (model, pixels(slices=4)), (model, pixels().bfloat16())]
    moved = MSAModel.from_base(tiny_base, MSAAdapterConfig(encoder_layers=[1, 2]))
    changed = MSAModel.from_base(tiny_base, MSAAdapterConfig(encoder_layers=[2]))
    with torch.no_grad():
        changed.vision_encoder.layers[0].mlp.lin1.weight[0, 0] += 1e-3
    others += [(moved, pixels()), (changed, pixels()), (MSAModel.from_base(tiny_sam(seed=3)), pixels())]
    for number, (other, images) in enumerate(others, 2):
        FeatureStore(tmp_path, other).get(images)
        assert len(files(tmp_path)) == number
    with torch.autocast("cpu", torch.bfloat16):
        FeatureStore(tmp_path, model).get(pixels())
    assert len(files(tmp_path)) == len(others) + 2


def test_what_is_trained_does_not_matter(model, randomise, tmp_path):
    """Adapters change from step to step; the features below them stay valid."""
    FeatureStore(tmp_path, model).get(pixels())
    store = FeatureStore(tmp_path, randomise(model, seed=7))
    store.get(pixels())
    assert store.reused == 1


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "not safetensors", "empty"])
def test_a_damaged_file_is_computed_again(model, tmp_path, damage):
    want = FeatureStore(tmp_path, model).get(pixels())[0:5]
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flipped bit":
        content[-100] ^= 1
    content = {"cut": content[:-7], "flipped bit": content, "not safetensors": b"hello", "empty": b""}[damage]
    file.unlink()  # the old file may still be mapped
    file.write_bytes(bytes(content))
    store = FeatureStore(tmp_path, model)
    assert torch.equal(store.get(pixels())[0:5], want)
    assert store.computed == 1 and files(tmp_path) == [file]


def test_a_full_disk_is_named(model, tmp_path, monkeypatch):
    def full(tensors, path, **_):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("medsam_adapter.inference.feature_store.save_file", full)
    with pytest.raises(OutputError, match="cannot be written: the disk is full"):
        FeatureStore(tmp_path, model).get(pixels())
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_no_file(model, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("medsam_adapter.inference.feature_store.save_file", broken)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path, model).get(pixels())
    assert not [file for file in files(tmp_path) if file.suffix == ".safetensors"]
