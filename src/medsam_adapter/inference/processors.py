"""The processor that was saved beside a model."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from medsam_adapter.backbones import resolve_base
from medsam_adapter.errors import CheckpointError
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.processor_settings import IMAGENET_MEAN, IMAGENET_STD, settings_told

FILE = "preprocessor_config.json"


def read_processor(name: str | Path, model: MSAModel, **source) -> MSAProcessor | None:
    """The processor saved in a folder or Hub repo; None where there is none, or SAM's own with SAM's pixel values.

    Args:
        model: what was opened from there.
        source: where in the Hub: `revision`, `token`, ...

    Raises:
        CheckpointError: an adapter's processor that is out of reach; without it scans would be prepared otherwise. Or
            a file with values that cannot be.
    """
    at = resolve_base(name)
    try:
        settings = MSAProcessor.get_image_processor_dict(at, **source)[0] if _is_there(at, source) else {}
    except (OSError, ValueError) as error:
        if not model._hf_peft_config_loaded:
            return None
        raise CheckpointError(
            f"its {FILE} cannot be read",
            file=at,
            expected="how scans are prepared for this adapter",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint="open it once with the network, or save the processor there: processor.save_pretrained(folder)",
        ) from error
    with settings_told(at):
        # A plain SAM has no processor, or SAM's own, which knows neither intensities nor volumes.
        if settings.get("image_processor_type") == MSAProcessor.__name__:
            return MSAProcessor.from_dict(settings)
        normalisation = [settings.get("image_mean") or IMAGENET_MEAN, settings.get("image_std") or IMAGENET_STD]
        if [list(values) for values in normalisation] == [list(IMAGENET_MEAN), list(IMAGENET_STD)]:
            return None
        mean, std = normalisation
        return MSAProcessor.from_model(model, image_mean=mean, image_std=std)  # MedSAM's


def _is_there(at: str, source: dict) -> bool:
    """Whether the file exists. Raises OSError if nobody can tell: no network, and not in the cache.

    transformers' own look-up takes a file that is not in the cache for one that does not exist.
    """
    if Path(at).is_dir():
        return (Path(at) / source.get("subfolder", "") / FILE).is_file()
    try:
        hf_hub_download(at, FILE, **{key: value for key, value in source.items() if key != "proxies"})
        return True
    except LocalEntryNotFoundError:
        path = "/".join(filter(None, (source.get("subfolder"), FILE)))
        cached = try_to_load_from_cache(at, path, source.get("cache_dir"), source.get("revision"))
        if cached is _CACHED_NO_EXIST:
            return False
        raise
    except EntryNotFoundError:
        return False
