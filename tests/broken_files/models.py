"""Broken model folders: safetensors, their JSON files, run folders of networks, and torch checkpoints."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np

from .damage import FAIL, VALID, WHOLE, BrokenFile, Writer, damaged
from .texts import damage_json
from .volumes import Runs


def models(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    return _adapters(root, rng) + _networks(root, rng) + _checkpoints(root, rng)


def _safetensors(data: bytes, rng: np.random.Generator, cuts: int, flips: int) -> list[tuple[str, bytes, str]]:
    """Broken copies; a flip in the body is another weight, and one in the header a name, a type or a place."""
    length = struct.unpack("<Q", data[:8])[0]
    made = [
        (what, content, FAIL if what.startswith("cut") else rule)
        for what, content, rule in damaged(data, rng, header=8 + length, cuts=cuts, flips=flips)
    ]

    def headed(header: object) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + bytes(64)

    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    made += [
        (what, content, FAIL)
        for what, content in {
            "nothing": b"", "zeros": bytes(200), "a pickle": pickle.dumps(Runs()), "a text": b"hello " * 50,
            "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
            "a header of 90 MB": struct.pack("<Q", 90_000_000) + b"{}",
            "another list": headed([1, 2]),
            "100000 brackets": headed(b'{"a":' + b"[" * 100000),
            "a tensor of 2^62 values": headed({"a": {**tensor, "shape": [2**31, 2**31], "data_offsets": [0, 2**62]}}),
            "places that run backwards": headed({"a": {**tensor, "data_offsets": [16, 0]}}),
            "negative places": headed({"a": {**tensor, "data_offsets": [-16, 0]}}),
            "two tensors in one place": headed({"a": tensor, "b": tensor}),
            "an unknown dtype": headed({"a": {**tensor, "dtype": "F33"}}),
            "tensors of nobody": headed({"a": tensor, "__metadata__": {"format": "pt"}}).replace(bytes(64), bytes(16)),
            "a header without UTF-8": headed(b'{"\xff": 1}'),
        }.items()
    ]  # fmt: skip
    return made


def _beside(writer: Writer, kind: str, whole: Path, name: str) -> list[BrokenFile]:
    """The broken files with the other files of a whole folder beside them; the folder is what is read."""
    for each in writer.made:
        for entry in whole.iterdir():
            if entry.name != name:
                (each.path.parent / entry.name).symlink_to(entry.resolve())
    return [BrokenFile(each.path.parent, kind, each.what, each.rule) for each in writer.made]


def _adapters(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    from medsam_adapter import MSAAdapterConfig, MSAModel, MSAProcessor

    whole = root / "whole adapter"
    model = MSAModel.from_base("sam-tiny", adapter=MSAAdapterConfig(use_encoder=False, decoder_layers=[0]))
    model.save_pretrained(whole)
    MSAProcessor.from_model(model, intensity="percentile").save_pretrained(whole)
    made: list[BrokenFile] = []
    weights = Writer(root, "adapter weights")
    data = (whole / "adapter_model.safetensors").read_bytes()
    weights.put("adapter_model.safetensors", data, "whole", WHOLE)
    for what, content, rule in _safetensors(data, rng, cuts=8, flips=24):
        weights.put("adapter_model.safetensors", content, what, rule)
    made += _beside(weights, "model", whole, "adapter_model.safetensors")
    for name, kind, flips in (
        ("config.json", "model", 8),
        ("adapter_config.json", "model", 12),
        ("preprocessor_config.json", "processor", 40),
    ):
        writer = Writer(root, name)
        text = (whole / name).read_text()
        if name == "config.json":  # the part that is our own; transformers has hundreds of fields
            kept = json.loads(text)
            kept = {key: kept[key] for key in ("model_type", "id2label", "num_slices", "vision_config") if key in kept}
            kept["vision_config"] = {key: kept["vision_config"][key] for key in ("image_size", "patch_size")}
            text = json.dumps(kept)
        damage_json(writer, name, text, rng, per_place=1 + (kind == "processor"), flips=flips)
        made += _beside(writer, kind, whole, name)
    made += _whole_models(root, rng)
    pickled = root / "pickled adapter"
    shutil.copytree(whole, pickled)
    (pickled / "adapter_model.safetensors").unlink()
    (pickled / "adapter_model.bin").write_bytes(pickle.dumps(Runs()))
    made.append(BrokenFile(pickled, "model", "weights in a pickle", FAIL))
    return made


def _whole_models(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    """The backbone that ships with the package, its weights broken."""
    from medsam_adapter.backbones import resolve_base

    whole, writer = Path(resolve_base("sam-tiny")), Writer(root, "backbone")
    data = (whole / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    writer.put("model.safetensors", data, "whole", WHOLE)
    for what, content, rule in _safetensors(data, rng, cuts=4, flips=8):
        # Of a name that is another only the tensor of nobody is left; transformers fills in what lacks, and says so.
        writer.put("model.safetensors", content, what, rule if "tensors of nobody" not in what else VALID)
    assert length < len(data)
    return _beside(writer, "model", whole, "model.safetensors")


def _networks(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    from medsam_adapter import MSAProcessor
    from medsam_adapter.baselines import get_baseline
    from medsam_adapter.baselines.predictor import NETWORK_FILE, WEIGHTS_FILE, NetworkPredictor
    from medsam_adapter.data.fingerprint import ChannelStatistics, Fingerprint

    whole = root / "whole network"
    baseline = get_baseline("nnunet", "tiny")
    fingerprint = Fingerprint(
        ((1, 32, 32),) * 3, ((1.0, 1.0, 1.0),) * 3, 1, {"lesion": (1,)}, "file", True, False,
        (ChannelStatistics(0, 1, 0, 1),),
    )  # fmt: skip
    plan = baseline.plan(fingerprint)
    NetworkPredictor(baseline, baseline.build(plan), plan, MSAProcessor()).save_pretrained(whole)
    weights, facts = Writer(root, "network weights"), Writer(root, "network facts")
    data = (whole / WEIGHTS_FILE).read_bytes()
    weights.put(WEIGHTS_FILE, data, "whole", WHOLE)
    for what, content, rule in _safetensors(data, rng, cuts=6, flips=16):
        weights.put(WEIGHTS_FILE, content, what, rule)
    damage_json(facts, NETWORK_FILE, (whole / NETWORK_FILE).read_text(), rng, per_place=1, flips=16)
    return _beside(weights, "network", whole, WEIGHTS_FILE) + _beside(facts, "network", whole, NETWORK_FILE)


def _checkpoints(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    import torch

    writer = Writer(root, "checkpoint")
    whole = writer.place("whole.pth")
    torch.save({"state_dict": {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3)}, "epoch": 1}, whole)
    data = whole.read_bytes()
    writer.add(whole, "whole", WHOLE)
    for what, content, _ in damaged(data, rng, header=len(data), cuts=16, flips=70):
        writer.put("a.pth", content, what, VALID)
    for what, content in (
        ("a model", {"state_dict": torch.nn.Linear(2, 2)}), ("a program", Runs()), ("a number", 7),
        ("NaN weights", {"a.weight": torch.full((2, 2), float("nan"))}), ("no weights", {}),
        ("texts", {"a": "hello"}), ("a list", [torch.ones(2)]),
    ):  # fmt: skip
        target = writer.place("a.pth")
        torch.save(content, target)
        writer.add(target, what)
    for what, content in {
        "nothing": b"", "zeros": bytes(300), "a text": b"hello", "a bare pickle": pickle.dumps(Runs()),
        "a pickle of a number": pickle.dumps(3),
        "a pickle that claims 4 GiB": b"\x80\x04\x8e\xff\xff\xff\xff\x00\x00\x00\x00.",
        "10^5 marks": b"\x80\x02" + b"(" * 10**5,
        "10^5 lists in each other": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    }.items():  # fmt: skip
        writer.put("a.pth", content, what)
    return writer.made
