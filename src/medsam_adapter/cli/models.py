"""Opening a model for evaluation or prediction: a run folder, a Hub repo, or a plain SAM."""

from __future__ import annotations

from pathlib import Path

from medsam_adapter.baselines.predictor import NETWORK_FILE, NetworkPredictor
from medsam_adapter.errors import CheckpointError, MSAError, did_you_mean, near_path
from medsam_adapter.inference.predictor import MSAPredictor


def parse_window(text: str | None) -> list[float] | None:
    """ "low,high" to numbers. Raises `CheckpointError` for anything else."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise CheckpointError(
            "--window is not usable", expected="LOW,HIGH in HU, such as -160,240", found=text
        ) from error
    return [low, high]


def refuse_two_scales(intensity: str | None, window: str | None) -> None:
    """Raises CheckpointError for a window beside another way to scale intensities, which would leave it out."""
    if window and intensity not in (None, "window"):
        raise CheckpointError(
            f"--window and --intensity {intensity} say two things", expected="one of them",
            found=f"--window {window} --intensity {intensity}", hint="leave one out: --window alone is a window",
        )  # fmt: skip


def is_network(name: str) -> bool:
    """Whether this is the run folder of a network without prompts.

    Raises:
        CheckpointError: a folder that holds another model, too; nobody could say which one was meant.
    """
    folder = Path(name)
    if not (folder / NETWORK_FILE).is_file():
        return False
    others = [file.name for pattern in ("adapter_config.json", "model*.safetensors") for file in folder.glob(pattern)]
    if others:
        raise CheckpointError(
            "the folder holds two models",
            file=folder,
            expected="one of them",
            found=f"{NETWORK_FILE} and {sorted(others)[0]}",
            hint="move the files of one to a folder of its own",
        )
    return True


def open_predictor(
    name: str,
    intensity: str | None = None,
    window: str | None = None,
    orientation: str | None = None,
    image_size: int | None = None,
    device: str | None = None,
) -> MSAPredictor | NetworkPredictor:
    """A predictor; settings given here replace those saved with the model, except for a network without prompts.

    Raises:
        CheckpointError: no such model, or one that is broken; a window beside another intensity.
    """
    from transformers.utils import logging

    from medsam_adapter.image_size import set_image_size
    from medsam_adapter.processing_msa import MSAProcessor

    logging.disable_progress_bar()
    refuse_two_scales(intensity, window)
    if is_network(name):
        return NetworkPredictor.from_pretrained(name, device)
    try:
        predictor = MSAPredictor.from_pretrained(name, device)
    except MSAError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a folder whose config is of no model
        raise CheckpointError(
            "there is no such model",
            file=name,
            expected="a run folder, a Hub id, or sam-tiny",
            found="an empty place" if not Path(name).exists() else "a folder without a model",
            hint=did_you_mean(name, ["sam-tiny"])
            or near_path(name, "*config.json", "msa train makes a run folder; sam-tiny is always there"),
        ) from error
    if image_size:
        set_image_size(predictor.model, image_size)
    saved = predictor.processor
    predictor.processor = MSAProcessor(
        image_size=predictor.model.config.vision_config.image_size,
        intensity=intensity or (None if window else saved.intensity),
        window_hu=parse_window(window) or saved.window_hu,
        orientation=orientation or saved.orientation,
        image_mean=saved.image_mean,
        image_std=saved.image_std,
    )
    return predictor
