"""`msa predict MODEL INPUT --point x,y[,z] -o OUT`: a mask without a reference."""

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
    intensity: Annotated[
        str | None, typer.Option(help="percentile, rgb, ct:soft-tissue, ...; saved with adapters.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="LOW,HIGH in HU.")] = None,
    orientation: Annotated[str | None, typer.Option(help="Slices: LPS axial, LIP coronal, PIL sagittal.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Also a PNG of the largest slice with the mask.")] = None,
    one_slice: Annotated[bool, typer.Option("--one-slice", help="Volumes: only the prompted slices.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Segment one object from clicks or boxes. One click on one slice of a volume is enough."""
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.io import is_nifti, read_scan, write_mask
    from medsam_adapter.errors import PromptError
    from medsam_adapter.prompts.types import ObjectPrompt

    scan = read_scan(image)
    if is_nifti(output) != is_nifti(image):
        raise PromptError(
            "the output has another format than the input",
            file=output,
            expected=".nii.gz" if is_nifti(image) else ".png",
            found=output.suffix or "no suffix",
        )
    prompt = ObjectPrompt()
    for text, label in [(t, 1) for t in point or []] + [(t, 0) for t in negative_point or []]:
        prompt.points.append(_numbers(text, scan.is_volume, "--point"))
        prompt.labels.append(label)
    for text in box or []:
        x0, y0, x1, y1, z = _box_numbers(text, scan.is_volume)
        prompt.boxes.append((x0, y0, z, x1, y1, z))
    _check_before_encoding(prompt, scan.shape_zyx, scan.is_volume)
    predictor = open_predictor(model, intensity, window, orientation)
    began = time.perf_counter()
    encoded = predictor.encode(scan)
    with bar("following the object", len(scan.array)) as show:  # slices are encoded when the mask reaches them
        logits = predictor.predict_objects(
            encoded, [prompt], carry=not one_slice, progress=lambda done: show(done, len(scan.array))
        )[0]
    seconds = time.perf_counter() - began
    mask = logits > 0
    write_mask(output, mask.astype("uint8") if is_nifti(image) else mask.astype("uint8") * 255, scan)
    voxel_ml = scan.spacing_mm[0] * scan.spacing_mm[1] * scan.spacing_mm[2] / 1000
    facts = {
        "output": str(output), "voxels": int(mask.sum()), "slices": int(mask.any((1, 2)).sum()),
        "volume_ml": round(float(mask.sum()) * voxel_ml, 3) if scan.is_volume else None,
        "seconds": round(seconds, 2), "prompts": prompt.to_json(),
    }  # fmt: skip
    if overlay:
        from medsam_adapter.evaluation.pictures import overlay_item
        from medsam_adapter.evaluation.sheets import write_best_median_worst

        item = overlay_item(scan, predictor.processor, encoded.turn, mask, None, prompt, image.name)
        facts["overlay"] = str(write_best_median_worst(overlay, [item], scale_to=512))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    volume = f", {facts['volume_ml']:g} ml" if scan.is_volume else ""
    typer.echo(f"{output}: {facts['voxels']} voxels on {facts['slices']} slices{volume}, {seconds:.1f} s")
    if not mask.any():
        typer.secho("the mask is empty: try a click nearer to the object's middle, or a box", fg=typer.colors.YELLOW)


def _check_before_encoding(prompt, shape_zyx: tuple[int, int, int], is_volume: bool) -> None:
    """What the predictor would refuse too, but only after minutes of encoding."""
    from medsam_adapter.errors import PromptError
    from medsam_adapter.processing_msa import check_point

    if not prompt.points and not prompt.boxes:
        raise PromptError(
            "there is no prompt", expected="--point or --box", found="neither", hint="click into the object"
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
