"""`msa predict RUN SCAN -o OUT` where the run is of a network without prompts: one label for each of its targets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from medsam_adapter.data.sample import Scan


def predict_network(model: str, scan: Scan, output: Path, as_json: bool, not_for_networks: Mapping[str, Any]) -> None:
    """Segment everything that a network was trained on; the i-th target becomes label i.

    Args:
        model: the run folder.
        not_for_networks: {option: value} of what only a prompted model takes.

    Raises:
        PromptError: such an option.
    """
    from medsam_adapter.baselines.predictor import NetworkPredictor
    from medsam_adapter.cli.given_options import given_options
    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.data.io import is_picture_file, write_mask
    from medsam_adapter.errors import PromptError
    from medsam_adapter.inference.session_masks import label_map

    given = given_options(not_for_networks)
    if given:
        raise PromptError(
            f"this network takes no {given[0]}", expected="a scan alone", found=", ".join(given),
            hint="leave it out: every target of the network is segmented",
        )  # fmt: skip
    predictor = open_predictor(model)
    assert isinstance(predictor, NetworkPredictor)
    began, targets = time.perf_counter(), list(predictor.plan.targets)
    labels = label_map(list(predictor.masks(scan, targets)), scan.shape_zyx)
    seconds = time.perf_counter() - began
    is_black_and_white = is_picture_file(output) and len(targets) == 1
    names = dict(enumerate(targets, 1))
    write_mask(output, labels * 255 if is_black_and_white else labels, scan, names)
    found = [{"label": value, "name": name, "voxels": int((labels == value).sum())} for value, name in names.items()]
    if as_json:
        typer.echo(json.dumps({"output": str(output), "labels": found, "seconds": round(seconds, 2)}))
        return
    typer.echo(f"{output}: {len(found)} targets, {seconds:.1f} s")
    for each in found:
        typer.echo(f"  {each['label']}  {each['voxels']:>9} voxels  {each['name']}")
