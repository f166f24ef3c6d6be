"""`msa predict --session session.json [MODEL] SCAN -o OUT`: the masks of a session that `msa demo` saved."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def predict_session(
    session_file: Path,
    model: str | None,
    image: Path | None,
    output: Path,
    as_json: bool,
    not_for_sessions: Mapping[str, Any],
) -> None:
    """Make a session's masks again; its i-th object becomes label i.

    Args:
        model: in place of the session's own model and adapter; alone, it is the scan (the session names a model).
        image: the scan.
        not_for_sessions: {option: value} of what the session already says.

    Raises:
        MSAInputError: no such session, a scan of another size, or options that do not go with a session.
    """
    import numpy as np

    from medsam_adapter.cli.given_options import given_options
    from medsam_adapter.cli.mask_output import check_output
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.io import content_digest, is_picture_file, read_scan, write_mask
    from medsam_adapter.errors import PromptError
    from medsam_adapter.inference.predictor import MSAPredictor
    from medsam_adapter.inference.session import Session
    from medsam_adapter.inference.session_masks import label_map, object_mask, session_processor

    given = given_options(not_for_sessions)
    if given:
        raise PromptError(
            f"{given[0]} does not go with --session", expected="prompts and window of the session alone",
            found=", ".join(given), hint="leave it out, or give prompts without --session",
        )  # fmt: skip
    session = Session.load(session_file)
    if image is None:
        model, image = None, Path(model) if model else session_file.parent / session.scan_name
    scan = read_scan(image)
    if scan.shape_zyx != session.shape_zyx:
        raise PromptError(
            "is not the scan of this session", file=image, found=f"{scan.shape_zyx}",
            expected=f"{session.scan_name}, {session.shape_zyx} (z, y, x)",
        )  # fmt: skip
    check_output(output, scan)
    if content_digest(image) != session.scan_sha256:
        typer.secho(
            f"note: {image} is not the very file that the session was made on", fg=typer.colors.YELLOW, err=True
        )

    predictor = open_predictor(model or session.model)
    if not isinstance(predictor, MSAPredictor):
        raise PromptError(
            "takes no prompts, and a session is made of them", file=model or session.model,
            expected="an adapter or a plain SAM", found="the run of a network without prompts",
            hint="leave --session out: every target of the network is segmented",
        )  # fmt: skip
    adapter: tuple[str, ...] | None = None
    if model is None and session.is_plain:
        adapter = ()
    elif model is None and session.adapter is not None:
        predictor.load_adapter(session.adapter, "session")
        adapter = ("session",)
    began, kind = time.perf_counter(), "volume" if scan.is_volume else "image"
    masks, encodings = [], {}
    for thing in session.objects:
        if (
            not thing.is_asked and thing.carried is None
        ):  # nobody has clicked it yet, and it may not say how the scan is seen
            masks.append(np.zeros(scan.shape_zyx, bool))
            continue
        processor = session_processor(predictor, adapter, thing)
        sees = processor.intensity, tuple(processor.window_hu or ())
        if sees not in encodings:
            encodings[sees] = predictor.encode(scan, kind, adapter=adapter, processor=processor)
        encoded = encodings[sees]
        with bar(thing.name, len(scan.array)) as show:
            masks.append(object_mask(predictor, encoded, thing, show))
    seconds = time.perf_counter() - began
    labels = label_map(masks, scan.shape_zyx)
    is_black_and_white = is_picture_file(output) and len(masks) == 1
    names = {value: thing.name for value, thing in enumerate(session.objects, 1)}
    write_mask(output, labels * 255 if is_black_and_white else labels, scan, names)
    objects = [
        {"label": value, "name": names[value], "voxels": int((labels == value).sum())} for value in names
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"output": str(output), "objects": objects, "seconds": round(seconds, 2)}))
        return
    typer.echo(f"{output}: {len(objects)} objects of {session_file.name}, {seconds:.1f} s")
    for each in objects:
        typer.echo(f"  {each['label']}  {each['voxels']:>9} voxels  {each['name']}")
