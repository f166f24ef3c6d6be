"""`msa predict MODEL INPUT --point x,y[,z] | --text SENTENCE -o OUT`: a mask without a reference."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer


def predict_command(
    model: Annotated[str, typer.Argument(help="Run folder, Hub id, or sam-tiny.")],
    image: Annotated[Path, typer.Argument(metavar="INPUT", help="NIfTI volume, or PNG, JPEG, TIFF picture.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The mask: .nii.gz for volumes, .png for pictures.")],
    point: Annotated[list[str] | None, typer.Option(help="A click in the object: x,y or x,y,z, voxels from 0.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="A click outside the object.")] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="x0,y0,x1,y1, and for volumes the slice: x0,y0,x1,y1,z.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help='A sentence that names the object, such as "the spleen"; several make a label map.'),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Text alone: least predicted IoU of the best slice; lower finds more. [0.4]"),
    ] = None,
    intensity: Annotated[
        str | None, typer.Option(help="percentile, rgb, ct:soft-tissue, ...; saved with adapters.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="LOW,HIGH in HU.")] = None,
    orientation: Annotated[str | None, typer.Option(help="Slices: LPS axial, LIP coronal, PIL sagittal.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Also a PNG of the largest slice with the mask.")] = None,
    one_slice: Annotated[bool, typer.Option("--one-slice", help="Volumes: only the prompted slices.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Segment one object from clicks or boxes, or one object for each --text.

    One click on one slice of a volume is enough. A text alone needs no click: the i-th text becomes label i of the
    output, and what it names may be absent.
    """
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.io import is_nifti, read_scan, write_mask
    from medsam_adapter.errors import PromptError

    scan = read_scan(image)
    if is_nifti(output) != is_nifti(image):
        raise PromptError(
            "the output has another format than the input",
            file=output,
            expected=".nii.gz" if is_nifti(image) else ".png",
            found=output.suffix or "no suffix",
        )
    prompts = _prompts(point, negative_point, box, text, scan)
    predictor = open_predictor(model, intensity, window, orientation)
    if min_score is not None:
        predictor.text_rules.min_best_score = min_score
        predictor.text_rules.min_score = min(min_score, predictor.text_rules.min_score)
    began = time.perf_counter()
    encoded = predictor.encode(scan)
    with bar("following the object", len(scan.array)) as show:  # slices are encoded when the mask reaches them
        logits = predictor.predict_objects(
            encoded, prompts, carry=not one_slice, progress=lambda done: show(done, len(scan.array))
        )
    seconds = time.perf_counter() - began
    labels = _label_map(logits)
    mask = labels > 0
    write_mask(output, labels if is_nifti(image) or len(prompts) > 1 else labels * 255, scan)
    voxel_ml = scan.spacing_mm[0] * scan.spacing_mm[1] * scan.spacing_mm[2] / 1000
    facts = {
        "output": str(output), "voxels": int(mask.sum()), "slices": int(mask.any((1, 2)).sum()),
        "volume_ml": round(float(mask.sum()) * voxel_ml, 3) if scan.is_volume else None,
        "seconds": round(seconds, 2),
        "prompts": prompts[0].to_json() if len(prompts) == 1 else [prompt.to_json() for prompt in prompts],
    }  # fmt: skip
    if text:
        facts["labels"] = [
            {"label": i, "text": said, "voxels": int((labels == i).sum())} for i, said in enumerate(text, 1)
        ]
    if overlay:
        from medsam_adapter.evaluation.pictures import overlay_item
        from medsam_adapter.evaluation.sheets import write_best_median_worst

        item = overlay_item(scan, predictor.processor, encoded.turn, mask, None, prompts[0], image.name)
        facts["overlay"] = str(write_best_median_worst(overlay, [item], scale_to=512))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    volume = f", {facts['volume_ml']:g} ml" if scan.is_volume else ""
    typer.echo(f"{output}: {facts['voxels']} voxels on {facts['slices']} slices{volume}, {seconds:.1f} s")
    for label in facts.get("labels", ()):
        nothing = "" if label["voxels"] else "   (not found; --min-score 0.2 would accept a worse mask)"
        typer.echo(f"  {label['label']}  {label['voxels']:>9} voxels  {label['text']}{nothing}")
    if not mask.any() and not text:
        typer.secho("the mask is empty: try a click nearer to the object's middle, or a box", fg=typer.colors.YELLOW)


def _prompts(point, negative_point, box, text, scan) -> list:
    """One object from clicks and boxes, with a text or without; or one object for each text."""
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.types import ObjectPrompt

    prompt = ObjectPrompt()
    for numbers, label in [(t, 1) for t in point or []] + [(t, 0) for t in negative_point or []]:
        prompt.points.append(_numbers(numbers, scan.is_volume, "--point"))
        prompt.labels.append(label)
    for numbers in box or []:
        x0, y0, x1, y1, z = _box_numbers(numbers, scan.is_volume)
        prompt.boxes.append((x0, y0, z, x1, y1, z))
    texts = list(text or [])
    if not prompt.points and not prompt.boxes and texts:
        return [ObjectPrompt(text=each) for each in texts]
    if len(texts) > 1:
        raise PromptError(
            "clicks and boxes belong to one object", expected="one --text beside them", found=f"{len(texts)} texts",
            hint="give the clicks of each object in a call of its own, or the texts alone",
        )  # fmt: skip
    prompt.text = texts[0] if texts else ""
    _check_before_encoding(prompt, scan.shape_zyx, scan.is_volume)
    return [prompt]


def _label_map(logits):
    """(n, D, H, W) logits to labels 1..n; where objects overlap the one with the highest logit stays."""
    import numpy as np

    labels = logits.argmax(0) + 1
    return np.where(logits.max(0) > 0, labels, 0).astype(np.uint8 if len(logits) < 256 else np.uint16)


def _check_before_encoding(prompt, shape_zyx: tuple[int, int, int], is_volume: bool) -> None:
    """What the predictor would refuse too, but only after minutes of encoding."""
    from medsam_adapter.errors import PromptError
    from medsam_adapter.processing_msa import check_point

    if not prompt.points and not prompt.boxes:
        raise PromptError(
            "there is no prompt", expected="--point, --box or --text", found="none", hint="click into the object"
        )
    for point in [*prompt.points, *(box[:3] for box in prompt.boxes), *(box[3:] for box in prompt.boxes)]:
        check_point(point[: 3 if is_volume else 2], shape_zyx, is_volume)


def _numbers(text: str, is_volume: bool, name: str) -> tuple[float, ...]:
    from medsam_adapter.errors import PromptError

    wanted = 3 if is_volume else 2
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != wanted:
        raise PromptError(
            f"{name} is not usable",
            expected="x,y,z for a volume" if is_volume else "x,y for a picture",
            found=text,
            hint="voxels counted from 0, without spaces",
        )
    return values if is_volume else (*values, 0.0)


def _box_numbers(text: str, is_volume: bool) -> tuple[float, ...]:
    from medsam_adapter.errors import PromptError

    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != (5 if is_volume else 4):
        raise PromptError(
            "--box is not usable", expected="x0,y0,x1,y1,z for a volume" if is_volume else "x0,y0,x1,y1", found=text
        )
    return values if is_volume else (*values, 0.0)
