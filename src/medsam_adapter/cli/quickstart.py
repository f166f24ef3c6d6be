"""`msa quickstart`: the whole road in a few minutes, offline, on phantom CTs."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

TEST_CASES, SEED = 4, 0
RECIPE = Path(__file__).parents[1] / "assets" / "quickstart.yaml"


def quickstart_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is made.")] = Path(
        "outputs/quickstart"
    ),
) -> None:
    """Make phantom CTs, score sam-tiny, train an adapter, score it, show what to do next. Offline, about 4 minutes.

    Example: msa quickstart -o outputs/quickstart
    """
    began = time.perf_counter()
    typer.echo("loading libraries ...")
    import numpy as np
    from transformers.utils import logging

    from medsam_adapter.cli.models import open_predictor
    from medsam_adapter.cli.progress import bar
    from medsam_adapter.data.io import write_mask
    from medsam_adapter.data.phantom import write_phantom_dataset
    from medsam_adapter.evaluation.evaluate import evaluate
    from medsam_adapter.evaluation.pictures import overlay_item, write_extremes
    from medsam_adapter.evaluation.sheets import PANEL_PIXELS
    from medsam_adapter.evaluation.tables import print_results
    from medsam_adapter.training.loop import train
    from medsam_adapter.training.recipe import load_recipe
    from medsam_adapter.training.setup import open_data

    logging.disable_progress_bar()
    data, run = output / "phantom", output / "msa-phantom"
    recipe = load_recipe(RECIPE, ["--data.path", str(data), "--run.output", str(run)])
    cases = round(TEST_CASES / recipe.data.test_fraction)
    with bar("writing phantom CTs", cases, "volume") as show:
        write_phantom_dataset(data, cases, SEED, progress=show)
    opened = open_data(recipe.data)
    dataset, test = opened.dataset, opened.test
    typer.echo(f"1/4  {len(dataset.cases)} phantom CTs with {len(dataset.label_names)} organs in {data}")
    results, pictures = [], []
    labels: dict[str, Any] = {}

    def score(predictor, name: str, protocol: str, keep=None) -> None:
        with bar(f"{name}, {protocol}", len(test), "volume") as show:
            results.append(
                evaluate(
                    predictor,
                    dataset,
                    test,
                    model_name=name,
                    protocol=protocol,
                    targets=recipe.data.targets,
                    seed=SEED,
                    progress=show,
                    keep=keep,
                )
            )

    typer.echo(f"2/4  scoring sam-tiny, not adapted, on {len(test)} volumes that training will not see")
    sam = open_predictor("sam-tiny", recipe.data.intensity, orientation=recipe.data.orientation)
    for protocol in ("1-point", "3-points", "10-points"):
        score(sam, "sam-tiny", protocol)

    typer.echo(f"3/4  training an adapter on {len(opened.train)} volumes; sam-tiny stays frozen")
    result = train(recipe, overwrite=True)
    size_mb = (run / "adapter_model.safetensors").stat().st_size / 1e6

    msa = open_predictor(str(run))
    values = {name: value for value, name in dataset.label_names.items()}

    def keep_masks(done) -> None:
        caption = f"{done.result.case_id}, {done.result.target}"
        item = overlay_item(
            done.scan, msa.processor, done.turn, done.prediction, done.reference, done.prompt, caption, PANEL_PIXELS
        )
        pictures.append((done.result.metrics.dice, item))
        if done.result.case_id == test[0].case_id:
            labels.setdefault("scan", done.scan)
            map_ = labels.setdefault("map", np.zeros(done.prediction.shape, np.uint8))
            map_[done.prediction & (map_ == 0)] = values[done.result.target]

    score(msa, "MSA", "1-point", keep_masks)
    mask_file = write_mask(output / f"{test[0].case_id}_prediction.nii.gz", labels["map"], labels["scan"])
    overlay = write_extremes(output / "overlay.png", pictures)
    for r in results:
        r.save(output / "results" / f"{r.model}_{r.settings['protocol']}")
    rows = [
        {"model": r.model, "prompts": r.protocol}
        | {name: round(getattr(r.summary().overall, name).mean, 4) for name in ("dice", "iou", "hd95_mm")}
        | {"targets": {t: round(s.dice.mean, 4) for t, s in r.summary().targets.items()}}
        for r in results
    ]
    seconds = time.perf_counter() - began
    facts = {
        "rows": rows,
        "adapter_mb": round(size_mb, 2),
        "seconds": round(seconds, 1),
        "training_seconds": round(result.seconds, 1),
    }
    (output / "results.json").write_text(json.dumps(facts, indent=1) + "\n")
    print_results(results)
    point = results[-1].cases[0].prompts["points"][0]
    words = [shlex.quote(str(path)) for path in (run, test[0].image, run / "recipe.yaml")]
    typer.echo(
        f"4/4  done in {seconds / 60:.1f} min\n"
        f"     adapter     {run}  ({size_mb:.1f} MB)\n"
        f"     prediction  {mask_file}\n"
        f"     overlay     {overlay}\n"
        f"     table       {output / 'results.json'}\n"
        "next, on this phantom and on your own data:\n"
        f"     msa predict {words[0]} {words[1]} --point {','.join(f'{v:.0f}' for v in point)} -o mask.nii.gz\n"
        "     msa data check FOLDER     (which names the scale that the scans need)\n"
        f"     msa train {words[2]} --data.path FOLDER --data.intensity SCALE --run.output outputs/mine\n"
        "     (SCALE: ct:soft-tissue for CT, percentile for MR and ultrasound, rgb for 8-bit pictures)"
    )
