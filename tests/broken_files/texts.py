"""Broken YAML, JSON, CSV and XML files, and data sets whose lists lead out of their folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapter.prompts.types import ObjectPrompt
from miniatures import folder as folder_miniature
from miniatures import msd as msd_miniature

from .damage import FAIL, VALID, WHOLE, BrokenFile, Writer, damaged

_OTHERS: tuple[Any, ...] = (None, True, -1, 10**400, 1.5, "", "../../etc/passwd", [], [[]], {}, {"a": {"b": [1]}})
_LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
RECIPE = """\
name: msa-test
model: {base: sam-tiny, image_size: 256, adapter: {bottleneck_ratio: 0.25, use_depth: true}}
data: {path: data, targets: [liver, spleen], window_hu: [-160, 240], intensity: window}
optim: {epochs: 3, learning_rate: 1e-3, batch_size: 2}
prompts: {click: 0.5, box: 0.5}
run: {output: outputs/run, seed: 1}
"""
TEXTS = """\
region: abdomen
data: [BTCV]
targets:
  spleen: {names: [spleen, lien], train: [Segment the spleen., the spleen], held_out: [Mark the spleen.]}
  liver: {names: [liver], train: [Segment the liver., the liver], held_out: [Mark the liver.]}
unions:
  - {targets: [spleen, liver], train: [both], held_out: [the two]}
"""


def yamls(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    recipes, texts = Writer(root, "recipe"), Writer(root, "texts")
    for writer, whole in ((recipes, RECIPE), (texts, TEXTS)):
        original = writer.place("whole.yaml")
        original.write_text(whole)
        writer.add(original, "whole", WHOLE)
        for what, content, _ in damaged_text(whole, rng):
            writer.put("a.yaml", content, what, VALID)
        for what, content in {
            "a program": "name: !!python/object/apply:os.mkdir [/tmp/msa-fuzz-trace]\n",
            "a program in a section": whole + "more: !!python/name:os.system\n",
            "a module": "!!python/module:os\n",
            "a tag of nobody": "name: !sausage x\n",
            "a billion laughs": _LAUGHS,
            "a billion laughs in a known place": f"{_LAUGHS}name: *a11\ntargets: *a11\nmodel: *a11\n",
            "a list that holds itself": "name: &a [*a]\n",
            "a mapping that holds itself": "&a\nmodel: *a\ntargets: *a\nregion: x\n",
            "100000 brackets": "model: " + "[" * 100000,
            "100000 braces": "model: " + "{a: " * 100000,
            "3000 brackets that close": "model: " + "[" * 3000 + "]" * 3000,
            "5000 indents": "".join(f"{' ' * n}a:\n" for n in range(2000)),
            "a number of 9000 digits": f"name: {'9' * 9000}\n",
            "a date that is none": "name: 2024-99-99\n",
            "bytes that are none": "name: !!binary '%%%'\n",
            "a mapping as a key": "{a: b}: c\n? [a, b]\n: c\n",
            "not UTF-8": b"name: \xff\xfe\xfa\n",
            "UTF-16 cut in half": "name: msa\n".encode("utf-16")[:-1],
            "a NUL": "name: a\0b\n",
            "a list": "- a\n- b\n",
            "a word": "hello",
            "two documents": "name: a\n---\nname: b\n",
            "tabs": "model:\n\tbase: x\n",
            "an anchor of nobody": "name: *nobody\n",
        }.items():
            writer.put("a.yaml", content, what)
    for line in (
        "prompts: {click: 0, clicks: 0, box: 0, box_and_click: 0, neighbour: 0}",
        "optim: {learning_rate: .nan}", "optim: {weight_decay: .inf}", "optim: {epochs: 1.5}", "optim: {epochs: -1}",
        "optim: {epochs: many}", "data: {targets: liver}", "data: {window_hu: low}", "model: {adapter: 3}",
        "model: []", "model: {bse: sam-tiny}", "run: {seed: 1e3x}", "7: 8", "null: 1",
        "true: 1", "loss: {dice: {a: b}}", "optim: {batch_size: true}", "data: {val_fraction: 2}",
    ):  # fmt: skip
        recipes.put("a.yaml", line + "\n", line)
    return recipes.made + texts.made


def damaged_text(whole: str, rng: np.random.Generator, cuts: int = 16, flips: int = 60) -> Iterator[tuple]:
    yield from damaged(whole.encode(), rng, header=len(whole), cuts=cuts, flips=flips)


def retyped(content: Any, at: tuple = ()) -> Iterator[tuple[tuple, list]]:
    """Every place in a JSON value, with the keys that lead there."""
    yield at, []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from retyped(value, (*at, key))


def damage_json(writer: Writer, name: str, whole: str, rng: np.random.Generator, *, per_place: int, flips: int) -> None:
    """Cut off, with other bytes, with other types in every place, and what is no JSON at all."""
    writer.put(name, whole, "whole", WHOLE)
    for what, content, _ in damaged_text(whole, rng, cuts=12, flips=flips):
        writer.put(name, content, what, VALID)
    for at, _ in retyped(json.loads(whole)):
        for number in rng.choice(len(_OTHERS), per_place, replace=False):
            content = copy.deepcopy(json.loads(whole))
            if not at:
                content = _OTHERS[number]
            else:
                inner = content
                for key in at[:-1]:
                    inner = inner[key]
                inner[at[-1]] = _OTHERS[number]
            where = "/".join(map(str, at)) or "the whole"
            writer.put(name, json.dumps(content), f"{where} is {str(_OTHERS[number])[:20]}", VALID)
    for what, content in {
        "nothing": b"", "a word": b"hello", "not UTF-8": b'{"a": "\xff\xfe"}', "100000 brackets": b"[" * 100000,
        "100000 braces": b'{"a":' * 100000, "a number of 9000 digits": b"9" * 9000, "NaN": b"NaN", "a list": b"[1, 2]",
        "zeros": bytes(99), "two values": b"{} {}", "null": b"null",
    }.items():  # fmt: skip
        writer.put(name, content, what)


def jsons(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    split, prompts, results = Writer(root, "split"), Writer(root, "prompts"), Writer(root, "results")
    text = json.dumps({"train": ["case_1", "case_2"], "val": ["case_3"], "test": ["case_4"]})
    damage_json(split, "split.json", text, rng, per_place=3, flips=24)
    asked = ObjectPrompt(points=[(1, 2, 3)], labels=[1]).to_json()
    text = json.dumps({"protocol": "1-point", "per": "volume", "seed": 0, "cases": {"case_1": {"liver": asked}}})
    damage_json(prompts, "prompts.json", text, rng, per_place=3, flips=24)
    metrics = {"dice": 0.5, "iou": 0.4, "hd95_mm": None, "prediction_voxels": 9, "reference_voxels": 8}
    entry = {"case_id": "a", "target": "liver", "metrics": metrics, "prompts": [], "seconds": 1.0}
    text = json.dumps({"format_version": 1, "model": "a", "protocol": "1-point", "cases": [entry], "settings": {}})
    damage_json(results, "results.json", text, rng, per_place=2, flips=16)
    return split.made + prompts.made + results.made


def tables(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    writer = Writer(root, "csv")
    whole = "image,label,patient\na.png,a_mask.png,1\nb.png,b_mask.png,2\n"
    writer.put("a.csv", whole, "whole", WHOLE)
    for what, content, _ in damaged_text(whole, rng, cuts=10, flips=24):
        writer.put("a.csv", content, what, VALID)
    for what, content in {
        "nothing": b"", "no rows": b"image,label,patient\n", "another table": b"a,b\n1,2\n", "not text": b"image\xff\n",
        "a short row": b"image,label,patient\na.png\n", "an open quote": b'image,label,patient\n"a,b,c\n',
        "a field of 1 MB": b"image,label,patient\n" + b"a" * 2**20 + b",b,c\n", "a NUL": b"image,label\0,patient\n",
    }.items():  # fmt: skip
        writer.put("a.csv", content, what)
    xml = Writer(root, "xml")
    whole = '<?xml version="1.0"?><LidcReadMessage><readingSession/><readingSession/></LidcReadMessage>'
    xml.put("a.xml", whole, "whole", WHOLE)
    for what, content, _ in damaged_text(whole, rng, cuts=12, flips=24):
        xml.put("a.xml", content, what, VALID)
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    laughs = f'<!DOCTYPE x [<!ENTITY a0 "lol">{entities}]><LidcReadMessage>&a11;</LidcReadMessage>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><LidcReadMessage>&a;</LidcReadMessage>'
    for what, content in {
        "a billion laughs": laughs, "a file of the machine": outside, "nothing": "", "another root": "<a/>",
        "100000 elements in each other": "<a>" * 100000,
    }.items():  # fmt: skip
        xml.put("a.xml", content, what)
    return writer.made + xml.made


def data_sets(root: Path, rng: np.random.Generator) -> list[BrokenFile]:
    """Folders with a broken labels.json, dataset.json, or names that lead out."""
    made: list[BrokenFile] = []
    for kind, make, name in (("folder", folder_miniature, "labels.json"), ("msd", msd_miniature, "dataset.json")):
        whole = root / f"whole {kind}"
        make.write(whole)
        text = (whole / name).read_text()
        lists = Writer(root, f"{kind} lists")
        damage_json(lists, name, text, rng, per_place=2, flips=30)
        for each in lists.made:
            for entry in whole.iterdir():
                if entry.name != name:
                    (each.path.parent / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
            made.append(BrokenFile(each.path.parent, kind, each.what, each.rule))
        if kind == "msd":
            made += _leading_out(root, whole, json.loads(text))
    return made


def _leading_out(root: Path, whole: Path, content: dict) -> list[BrokenFile]:
    writer = Writer(root, "msd names")
    image = content["training"][0]["image"]
    names = ["/etc/passwd", "../../../etc/passwd", "imagesTr/../../x.nii.gz", "..", "", "a\0b.nii.gz", "C:\\x.nii.gz",
             f"{whole.resolve()}/{image}", "a" * 5000 + ".nii.gz", "~/x.nii.gz", "imagesTr/.."]  # fmt: skip
    for key in ("image", "label"):
        for name in names:
            if name == "" and key == "label":
                continue  # a case without a label
            changed = copy.deepcopy(content)
            changed["training"][0][key] = name
            path = writer.put("dataset.json", json.dumps(changed), f"{key} is {name[:40]!r}", FAIL)
            for entry in whole.iterdir():
                if entry.name != "dataset.json":
                    (path.parent / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
    return [BrokenFile(each.path.parent, "msd", each.what, each.rule) for each in writer.made]
