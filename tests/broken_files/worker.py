"""Reads broken files in a process of its own, within 1 GiB: `python -m broken_files.worker LIST.json FIRST`.

Writes a line `start N` before and `end N {json}` after each, so that whoever watches knows where it hung or crashed.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapter.errors import MSAError

MEMORY_BYTES = 2**30


class NotWhatItShouldBe(Exception):
    """A reader has returned something that its file cannot mean."""


def main(list_file: str, first: int) -> None:
    inputs = json.loads(Path(list_file).read_text())
    warnings.simplefilter("ignore")
    readers = _readers({each["kind"] for each in inputs[first:]})
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number, each in enumerate(inputs[first:], first):
        print(f"start {number}", flush=True)
        begun = time.process_time()  # other processes on the machine are no fault; whoever watches ends a sleep
        outcome, text = _outcome(readers[each["kind"]], each)
        seconds = time.process_time() - begun
        print(f"end {number} {json.dumps({'outcome': outcome, 'text': text[:600], 'seconds': seconds})}", flush=True)


def _outcome(read: Any, each: dict) -> tuple[str, str]:
    """error: the typed one. ok: an allowed result. What else it says is a fault."""
    try:
        found = read(Path(each["path"]))
        if each["rule"] == "fail":
            return "silent success", repr(found)
        if each["rule"] == "whole":
            return "ok", ""
        if each["rule"] == "same":
            _refuse_difference(found, read(Path(each["original"])))
    except MSAError as error:
        text = str(error)
        if each["rule"] == "whole":
            return "a whole file is refused", text
        is_whole = bool(error.problem) and len(text) < 20_000 and "Traceback" not in text
        return ("error", text) if is_whole else ("a poor error", text)
    except NotWhatItShouldBe as error:
        return "silent damage", str(error)
    except BaseException as error:
        frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
        return "an untyped error", f"{type(error).__name__}: {error}\n{frames}"
    return "ok", ""


def _refuse_difference(found: Any, whole: Any) -> None:
    for one, other in zip(found, whole, strict=True):
        if not np.array_equal(one, other):
            raise NotWhatItShouldBe(f"{one} and not {other}")


def _readers(kinds: set[str]) -> dict[str, Any]:
    made = {kind: _image for kind in kinds}
    made["seg"] = _label_only
    if kinds & {"recipe", "texts", "split", "prompts", "results", "csv", "xml", "folder", "msd"}:
        made |= _text_readers()
    if kinds & {"model", "processor", "network", "checkpoint"}:
        made |= _model_readers()
    return made


def _image(path: Path) -> tuple[np.ndarray, ...]:
    from medsam_adapter.data.io import read_label, read_scan
    from medsam_adapter.data.limits import refuse_larger_than

    try:
        labels = read_label(path)
        if labels.dtype.kind not in "iu" or labels.ndim != 3:
            raise NotWhatItShouldBe(f"labels of {labels.dtype}, {labels.shape}")
    except MSAError:
        pass
    refuse_larger_than(path)
    scan = read_scan(path)
    array, spacing, affine = scan.array, np.array(scan.spacing_mm), scan.affine
    if array.ndim not in (3, 4) or not array.size or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise NotWhatItShouldBe(f"an array of {array.dtype}, {array.shape}")
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise NotWhatItShouldBe(f"a spacing of {spacing}")
    if affine is not None:
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) > 0:
            raise NotWhatItShouldBe(f"an affine of {affine}")
        if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0)[::-1], spacing, rtol=1e-3) and array.shape[0] > 1:
            raise NotWhatItShouldBe(f"a spacing of {spacing} and an affine of {affine}")
    if (sizes := _sizes_in_header(path)) is not None and sizes != sorted(n for n in array.shape if n > 1):
        raise NotWhatItShouldBe(f"an array of {array.shape}, and the header says {sizes}")
    return array, spacing, np.zeros(0) if affine is None else affine


def _sizes_in_header(path: Path) -> list[int] | None:
    """The sizes above 1 as another look at the header tells them, sorted; None where it cannot be told so simply."""
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        import nibabel

        image = nibabel.load(path)
        sizes = [*image.shape, *([3] if image.get_data_dtype().names else [])]
    elif name.endswith((".mha", ".mhd", ".nrrd")):
        import SimpleITK

        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        sizes = [*reader.GetSize(), reader.GetNumberOfComponents()]
    elif name.endswith(".npy"):
        sizes = np.load(path, mmap_mode="r").shape
    elif name.endswith((".png", ".jpg", ".bmp")):
        from PIL import Image

        with Image.open(path) as picture:
            bands = {"L": 1, "1": 1, "I": 1, "F": 1}.get(picture.mode.split(";")[0], 3)
            return sorted(n for n in (*picture.size, 1 if picture.mode == "LA" else bands) if n > 1)
    elif name.endswith(".dcm"):
        import pydicom

        header = pydicom.dcmread(path, stop_before_pixels=True)
        bands = 3 if header.SamplesPerPixel == 3 or "PALETTE" in header.PhotometricInterpretation else 1
        sizes = [header.Rows, header.Columns, int(header.get("NumberOfFrames") or 1), bands]
    else:
        return None
    return sorted(int(size) for size in sizes if size > 1)


def _label_only(path: Path) -> tuple[np.ndarray, ...]:
    from medsam_adapter.data.io import read_label

    labels = read_label(path)
    if labels.dtype.kind not in "iu" or labels.ndim != 3 or not labels.size:
        raise NotWhatItShouldBe(f"labels of {labels.dtype}, {labels.shape}")
    return (labels,)


def _text_readers() -> dict[str, Any]:
    import yaml

    from medsam_adapter.data.layouts import open_dataset
    from medsam_adapter.data.layouts.csv_table import read_table
    from medsam_adapter.data.layouts.lidc_xml import draw_session
    from medsam_adapter.data.sample import Scan
    from medsam_adapter.data.splits import load_split
    from medsam_adapter.evaluation.replay import Replay
    from medsam_adapter.evaluation.results import EvaluationResult
    from medsam_adapter.prompts.text_files import read_file
    from medsam_adapter.training.recipe import load_recipe, make_recipe

    def recipe(path: Path) -> str:
        made = load_recipe(path)
        text = made.to_yaml()
        if make_recipe(yaml.safe_load(text)) != made:
            raise NotWhatItShouldBe(f"does not come back: {text}")
        return text

    def texts(path: Path) -> Any:
        targets, unions = read_file(path)
        if not all(isinstance(text, str) for entry in targets + unions for text in (*entry.names, *entry.sentences)):
            raise NotWhatItShouldBe(repr(targets))
        return targets

    def split(path: Path) -> Any:
        made = load_split(path)
        if not all(isinstance(each, str) for part in made.values() for each in part):
            raise NotWhatItShouldBe(repr(made))
        return made

    def results(path: Path) -> Any:
        made = EvaluationResult.load(path)
        made.summary()
        return made

    def data_set(path: Path) -> Any:
        dataset = open_dataset(path, require_labels=False)
        for case in dataset.cases:
            if len(Path(case.case_id).parts) != 1 or case.case_id in (".", "..") or "\0" in case.case_id:
                raise NotWhatItShouldBe(f"a case called {case.case_id!r}")
            files = [file for file in (case.image, case.label) if file is not None]
            if not all(os.path.abspath(file).startswith(f"{os.path.abspath(path)}/") for file in files):
                raise NotWhatItShouldBe(f"a case with files {files}")
        sample = dataset.read(dataset.cases[0])
        if not all(isinstance(value, int) for value in sample.label_names) or not np.isfinite(sample.scan.array).all():
            raise NotWhatItShouldBe(repr(sample.label_names))
        return dataset

    return {
        "recipe": recipe,
        "texts": texts,
        "split": split,
        "prompts": Replay.load,
        "results": results,
        "csv": lambda path: read_table(path, ("image", "label", "patient")),
        "xml": lambda path: draw_session(path, 0, Scan(np.zeros((2, 3, 4)))),
        "folder": data_set,
        "msd": data_set,
    }


def _model_readers() -> dict[str, Any]:
    import torch

    from medsam_adapter import MSAModel, MSAProcessor
    from medsam_adapter.baselines.predictor import NetworkPredictor
    from medsam_adapter.hub.convert.checkpoint_file import read_checkpoint

    torch.set_num_threads(1)
    importlib.import_module("monai.networks.nets")  # takes seconds, which are no reader's
    return {
        "model": MSAModel.from_pretrained, "processor": MSAProcessor.from_pretrained,
        "network": lambda path: NetworkPredictor.from_pretrained(path, "cpu"), "checkpoint": read_checkpoint,
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
