"""`msa predict MODEL INPUT --point x,y[,z] | --text SENTENCE -o OUT`: a mask without a reference."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def predict_command(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The mask: .nii.gz, .mha, .nrrd; .dcm (DICOM SEG) of DICOM; .png for pictures. Of many: a folder.",
        ),
    ],
    model: Annotated[str | None, typer.Argument(help="Run folder, Hub id, or sam-tiny.")] = None,
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT",
            help="Volume (.nii.gz, .mha, .nrrd, .npz, .h5), DICOM series (folder) or file, PNG, JPEG, TIFF picture; or "
            "many: a folder of them, or MANIFEST.csv (case_id,image,output).",
        ),
    ] = None,
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
        str | None, typer.Option(help="percentile, rgb, ct:soft-tissue, ...; replaces what an adapter has saved.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="LOW,HIGH in HU.")] = None,
    orientation: Annotated[str | None, typer.Option(help="Slices: LPS axial, LIP coronal, PIL sagittal.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Also a PNG of the largest slice with the mask.")] = None,
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, for a folder of several DICOM series.")] = None,
    key: Annotated[str | None, typer.Option(help="Name of the array in a .npz or .h5 file of several.")] = None,
    one_slice: Annotated[bool, typer.Option("--one-slice", help="Volumes: only the prompted slices.")] = False,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", help="Of many cases: CSV, case,object,x,y,z,label,x0,y0,x1,y1,text; see docs/batch.md."
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Of many cases: try those again that failed.")
    ] = False,
    session: Annotated[
        Path | None, typer.Option(help="session.json of `msa demo`: the same masks again; MODEL may be left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Segment one object from clicks or boxes, or one object for each --text.

    One click on one slice of a volume is enough. A text alone needs no click: the i-th text becomes label i of the
    output, and what it names may be absent.

    Many cases go on where they were stopped when the same command is run again, and several processes share them
    (`accelerate launch -m medsam_adapter.cli.main predict ...`); exit code 3 says that some failed.

    Example: msa predict outputs/mine scan.nii.gz --point 120,88,14 -o mask.nii.gz
    """
    from medsam_adapter.cli.predict_batch import accept_scores, is_many, predict_many

    for_one: dict[str, Any] = {"--point": point, "--negative-point": negative_point, "--box": box, "--overlay": overlay}
    if session is not None:
        from medsam_adapter.cli.predict_session import predict_session

        said = for_one | {"--text": text, "--window": window, "--intensity": intensity, "--orientation": orientation}
        said |= {"--one-slice": one_slice, "--min-score": min_score, "--prompts": prompts_file}
        said |= {"--retry-failed": retry_failed, "--series": series, "--key": key}
        return predict_session(session, model, image, output, as_json, said)
    if model is None or image is None:
        raise typer.BadParameter("MODEL and INPUT are needed, such as: msa predict sam-tiny scan.nii.gz ...")
    if is_many(image, prompts_file):
        return predict_many(
            model, image, output, prompts=prompts_file, text=text, min_score=min_score, intensity=intensity,
            window=window, orientation=orientation, carry=not one_slice, retry_failed=retry_failed, as_json=as_json,
            not_for_many=for_one | {"--series": series, "--key": key},
        )  # fmt: skip
    from medsam_adapter.cli.given_options import refuse_unheard
    from medsam_adapter.cli.mask_output import check_output
    from medsam_adapter.cli.models import is_network, open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.cli.prompts_arguments import prompts_of
    from medsam_adapter.data.io import is_picture_file, read_scan, write_mask
    from medsam_adapter.errors import PromptError
    from medsam_adapter.inference.predictor import MSAPredictor

    if retry_failed:
        raise PromptError(
            "--retry-failed belongs to many cases", expected="a folder, MANIFEST.csv or --prompts", found=str(image),
            hint="leave it out",
        )  # fmt: skip
    scan = read_scan(image, series=series, key=key)
    check_output(output, scan, overlay)
    if is_network(model):
        from medsam_adapter.cli.predict_network import predict_network

        asked = for_one | {"--text": text, "--min-score": min_score, "--one-slice": one_slice, "--window": window}
        asked |= {"--intensity": intensity, "--orientation": orientation}
        return predict_network(model, scan, output, as_json, asked)
    prompts = prompts_of(point, negative_point, box, text, scan)
    refuse_unheard(prompts, one_slice, min_score)
    predictor = open_predictor(model, intensity, window, orientation)
    assert isinstance(predictor, MSAPredictor)
    accept_scores(predictor, min_score)
    began = time.perf_counter()
    encoded = predictor.encode(scan)
    with bar("following the object", len(scan.array)) as show:  # slices are encoded when the mask reaches them
        labels = predictor.predict_labels(
            encoded, prompts, carry=not one_slice, progress=lambda done: show(done, len(scan.array))
        )
    seconds = time.perf_counter() - began
    mask = labels > 0
    is_black_and_white = is_picture_file(output) and len(prompts) == 1
    write_mask(output, labels * 255 if is_black_and_white else labels, scan, _segment_names(text, predictor))
    voxel_ml = scan.spacing_mm[0] * scan.spacing_mm[1] * scan.spacing_mm[2] / 1000
    facts: dict[str, Any] = {
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
    missing = "not found"
    if mask.any():  # where masks overlap the more certain one stays
        missing += ", or all of it lies under another label"
    if predictor.text_rules.min_best_score > 0.2:
        missing += "; --min-score 0.2 would accept a worse mask"
    for label in facts.get("labels", ()):
        nothing = "" if label["voxels"] else f"   ({missing})"
        typer.echo(f"  {label['label']}  {label['voxels']:>9} voxels  {label['text']}{nothing}")
    if not mask.any() and not text:
        typer.secho("the mask is empty: try a click nearer to the object's middle, or a box", fg=typer.colors.YELLOW)


def _segment_names(text: list[str] | None, predictor) -> dict[int, str]:
    """What the labels of the output are called: the texts, or the one label of the model."""
    if text:
        return dict(enumerate(text, start=1))
    # A SAM without adapters carries transformers' stand-ins LABEL_0, LABEL_1.
    named = predictor.model.config.id2label.items()
    known = [name for value, name in named if int(value) and not name.startswith("LABEL_")]
    return {1: known[0] if len(known) == 1 else "object"}
