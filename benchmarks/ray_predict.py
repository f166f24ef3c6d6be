"""`python -m benchmarks.ray_predict`: prediction of many driven by Ray Data, here on one machine with two workers.

Ray hands out batches of cases; each worker opens the model once and calls `predict_cases`, as one process would. All
write into one output folder, whose manifests make the run restartable: run it again with --output and what is done is
not predicted again. Needs the extra: pip install 'medsam-adapter[ray]'.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from medsam_adapter.data.phantom import make_phantom
from medsam_adapter.inference.batch_cases import BatchCase
from medsam_adapter.inference.batch_manifest import read_manifests
from medsam_adapter.prompts.types import ObjectPrompt


class Worker:
    """What Ray starts once in each worker: a predictor and the cases, of which it is told numbers.

    Args:
        model: run folder, Hub id, or sam-tiny.
        intensity: for models that have none saved.
    """

    def __init__(self, model: str, intensity: str, cases: list[BatchCase], output: Path):
        import torch

        from medsam_adapter.cli.models import open_predictor

        torch.set_num_threads(1)
        self.predictor, self.cases, self.output = open_predictor(model, intensity), cases, output

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{"number": (n,)} to what has become of those cases."""
        from medsam_adapter.inference.batch import predict_cases

        asked = [self.cases[number] for number in batch["number"]]
        results = list(predict_cases(self.predictor, asked, self.output))
        return {
            "case": np.array([result.case_id for result in results], dtype=object),
            "why": np.array([result.why for result in results], dtype=object),
            "process": np.full(len(results), os.getpid()),
        }


def predict_with_ray(
    cases: list[BatchCase],
    output: Path,
    model: str = "sam-tiny",
    intensity: str = "ct:soft-tissue",
    workers: int = 2,
    batch_size: int = 2,
) -> list[dict]:
    """Predict cases by workers of Ray; a row {"case", "why", "process"} for each that was not settled before."""
    import ray

    blocks = -(-len(cases) // batch_size)  # a block of a batch: whoever is free takes the next
    numbers = ray.data.from_items([{"number": number} for number in range(len(cases))], override_num_blocks=blocks)
    made = numbers.map_batches(
        Worker,
        fn_constructor_args=(model, intensity, cases, output),
        batch_size=batch_size,
        num_cpus=1,
        concurrency=workers,
    )
    return made.take_all()


def make_cases(folder: Path, number: int) -> list[BatchCase]:
    """Phantoms with a click in the middle of the liver, of which every tenth is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for i in range(number):
        path, sample = folder / f"phantom_{i:03d}.nii.gz", make_phantom(i)
        if i % 10 == 9:
            path.write_bytes(b"no volume")
        else:
            nib.save(nib.Nifti1Image(sample.scan.array.T, sample.scan.affine), path)
        inside = np.argwhere(sample.labels == 1)
        z, y, x = inside[len(inside) // 2]
        cases.append(BatchCase(path.name.removesuffix(".nii.gz"), path, [ObjectPrompt([(x, y, z)], [1])]))
    return cases


def main(arguments: list[str] | None = None) -> None:
    """Make cases, predict them with Ray, tell who did what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sam-tiny")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder of cases and masks; a temporary one if left out")
    options = parser.parse_args(arguments)
    import ray

    with tempfile.TemporaryDirectory() as temporary:
        root = (options.output or Path(temporary)).absolute()
        cases = make_cases(root / "cases", options.cases)
        ray.init(num_cpus=options.workers + 1, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        began = time.perf_counter()
        rows = predict_with_ray(cases, root / "masks", options.model, workers=options.workers)
        seconds = time.perf_counter() - began
        ray.shutdown()
        states = Counter(record.status for record in read_manifests(root / "masks").values())
        print(f"{len(cases)} cases: {states['done']} done, {states['failed']} failed, {seconds:.1f} s")
        for process, count in sorted(Counter(int(row["process"]) for row in rows).items()):
            print(f"  worker {process}: {count} cases")


if __name__ == "__main__":
    main()
