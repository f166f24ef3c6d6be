"""The scan of a visitor as models see it: encoded once for each model and window, a few of them kept."""

from __future__ import annotations

from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.models import Models
from medsam_adapter.demo.uploads import without_folders
from medsam_adapter.errors import MSAError
from medsam_adapter.inference.prompted_slices import Encoded
from medsam_adapter.inference.session import SessionObject
from medsam_adapter.inference.session_masks import session_processor

_MAX_KEPT = 3


class Encodings:
    """Of one scan; `close` before another is opened."""

    def __init__(self, models: Models):
        self._models = models
        self._kept: dict[tuple, Encoded] = {}

    def of(self, scan: Scan, thing: SessionObject, choice: str) -> Encoded:
        """The scan as a model of the menu sees it for an object; its slices are encoded when they are reached.

        Raises:
            DataError: intensities that the model cannot take.
        """
        names = self._models.names(choice)
        processor = session_processor(self._models.predictor, names, thing)
        key = names, processor.intensity, tuple(processor.window_hu or ())
        if key in self._kept and self._kept[key].embeddings.gone:  # another adapter has been loaded under its name
            self._kept.pop(key).embeddings.close()
        if key not in self._kept:
            while len(self._kept) >= _MAX_KEPT:
                self._kept.pop(next(iter(self._kept))).embeddings.close()
            kind = "volume" if scan.is_volume else "image"
            try:
                self._kept[key] = self._models.predictor.encode(scan, kind, adapter=names, processor=processor)
            except MSAError as error:
                raise without_folders(error) from error
        return self._kept[key]

    def progress(self) -> tuple[int, int]:
        """(slices encoded by now, all slices) of what was asked for last; (0, 0) of nothing. Waits for nobody."""
        latest = next(reversed(list(self._kept.values())), None)
        return (0, 0) if latest is None else (latest.embeddings.num_encoded, len(latest.embeddings))

    def close(self) -> None:
        """Stop what is encoded in the background, and forget all."""
        for encoded in self._kept.values():
            encoded.embeddings.close()
        self._kept.clear()
