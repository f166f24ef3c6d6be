"""A result knows which weights it is of."""

from __future__ import annotations

import hashlib

from medsam_adapter.backbones import EMBEDDED
from medsam_adapter.evaluation.model_hash import model_sha256, weight_files


def test_a_shipped_backbone_has_the_hash_of_its_file():
    file = EMBEDDED["sam-tiny"] / "model.safetensors"
    assert model_sha256("sam-tiny") == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_has_that_of_its_adapter_alone(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"adapter")
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000001" / "weights.safetensors").write_bytes(b"those of a step")
    (tmp_path / "model.safetensors").write_bytes(b"base")
    assert model_sha256(tmp_path) == hashlib.sha256(b"adapter").hexdigest()


def test_a_network_has_that_of_its_own_weights_whatever_lies_beside_them(tmp_path):
    for name in ("network.json", "network.safetensors", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    assert model_sha256(tmp_path) == hashlib.sha256(b"network.safetensors").hexdigest()


def test_shards_are_hashed_in_the_order_of_their_names(tmp_path):
    for name, content in (("model-00002-of-00002.safetensors", b"2"), ("model-00001-of-00002.safetensors", b"1")):
        (tmp_path / name).write_bytes(content)
    assert [file.name[6:11] for file in weight_files(tmp_path)] == ["00001", "00002"]
    assert model_sha256(tmp_path) == hashlib.sha256(b"12").hexdigest()


def test_a_hub_repo_is_read_from_the_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"hub")
    import huggingface_hub

    def in_here(repo, file, real=huggingface_hub.try_to_load_from_cache):
        return real(repo, file, cache_dir=tmp_path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_here)
    assert model_sha256("org/name") == hashlib.sha256(b"hub").hexdigest()
    assert model_sha256("org/other") is None


def test_nothing_to_hash(tmp_path):
    assert model_sha256(tmp_path) is None
    assert model_sha256("no such / name at all") is None
