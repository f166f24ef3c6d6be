"""Image embeddings of a volume's slices, made when they are asked for.

One object rarely reaches through a whole volume: only the chunks of slices that a click or the walk of a mask touches
are encoded, the clicked one first. The rest can follow behind, in the background, nearest to the click first.

All slices of one scan are encoded by the same adapters, whatever the model has been switched to in the meantime.

Shapes: D slices, S side of the model frame, C embedding width, g grid side.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medsam_adapter.adapters.switching import active_adapters, loaded_as
from medsam_adapter.errors import CheckpointError
from medsam_adapter.inference.feature_store import FeatureStore
from medsam_adapter.inference.kept_chunks import KeptChunks
from medsam_adapter.inference.turns import turns_of


@torch.no_grad()
def encode_volume(
    model,
    slices: Tensor,
    num_slices: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    is_frozen: bool = False,
) -> Tensor:
    """Embeddings of all slices of one volume.

    Args:
        slices: (D, 3, S, S); moved to the model's device chunk by chunk.
        num_slices: slices that are encoded together, and that the depth branch lets see each other.
        progress: called with (slices done, D).
        is_frozen: `slices` are the frozen features of slices rather than pixels.

    Returns:
        (D, C, g, g) on the model's device; the last chunk may be shorter.
    """
    num_slices = num_slices or max(model.config.num_slices, 1)
    batch = num_slices if num_slices > 1 else 8
    parts = []
    for first in range(0, len(slices), batch):
        chunk = slices[first : first + batch].to(model.device)
        chunk = {"frozen": chunk} if is_frozen else {"pixel_values": chunk.to(model.dtype)}
        if num_slices > 1:
            parts.append(model.encode(**{name: value[None] for name, value in chunk.items()})[0])
        else:
            parts.append(model.encode(**chunk))
        if progress:
            progress(min(first + batch, len(slices)), len(slices))
    return torch.cat(parts)


_in_background: weakref.WeakSet[SliceEmbeddings] = weakref.WeakSet()


@atexit.register
def _stop_backgrounds() -> None:
    """A thread that still computes when the interpreter goes away would abort the program."""
    for embeddings in list(_in_background):
        embeddings.close()


class SliceEmbeddings:
    """Embeddings (D, C, g, g) of one scan; `embeddings[z]` with a list or slice of indices encodes what is missing.

    Args:
        model: an `MSAModel`.
        num_slices: D.
        slices_to_model: makes (n, 3, S, S) of the slices `first:last`; called once for each chunk.
        chunk_slices: slices that are encoded together.
        sees_neighbours: whether slices of a chunk may see each other (through a depth branch).
        store: keeps the features of the frozen part of the encoder on disk.

    `adapters` are the names of those that were active when this was made. Once one of them has been deleted, or
    replaced by another of its name, nothing is encoded any more: slices of both would stand side by side.
    """

    def __init__(
        self,
        model,
        num_slices: int,
        slices_to_model: Callable[[int, int], Tensor],
        chunk_slices: int,
        sees_neighbours: bool = False,
        store: FeatureStore | None = None,
    ):
        self.model, self.chunk_slices, self.device = model, chunk_slices, model.device
        self._together = chunk_slices if sees_neighbours else 1
        vision = model.config.vision_config
        grid = vision.image_size // vision.patch_size
        self.shape = (num_slices, vision.output_channels, grid, grid)
        self._slices_to_model = slices_to_model
        self._features = store.get(slices_to_model(0, num_slices)) if store else None
        self._chunks = KeptChunks()
        self.adapters = active_adapters(model)
        self._loaded = loaded_as(model, self.adapters)
        self._turns = turns_of(model)
        self._background: threading.Thread | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, slices: slice | Sequence[int]) -> Tensor:
        """(n, C, g, g) of these slices."""
        indices = range(*slices.indices(len(self))) if isinstance(slices, slice) else [int(z) for z in slices]
        numbers = dict.fromkeys(z // self.chunk_slices for z in indices)
        with self._turns.in_front():
            chunks = {number: self._encoded(number) for number in numbers}
        return torch.stack([chunks[z // self.chunk_slices][z % self.chunk_slices] for z in indices])

    @property
    def gone(self) -> list[str]:
        """Names of the adapters that have been deleted or replaced since."""
        now = loaded_as(self.model, self.adapters)
        return [name for name, a, b in zip(self.adapters, self._loaded, now, strict=True) if a is not b]

    def refuse_gone(self) -> None:
        """Raise a `CheckpointError` if an adapter has been deleted or replaced."""
        if self.gone:
            raise CheckpointError(
                f"the adapter {self.gone[0]!r} that the scan was encoded by is gone",
                expected="the adapter that was there then", found="none, or another one of its name",
                hint="encode the scan again",
            )  # fmt: skip

    @property
    def num_encoded(self) -> int:
        """Number of slices that are encoded by now."""
        return self._chunks.num_slices

    def encode_rest(self, near: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode what is missing, outwards from slice `near`; `progress` is called with (slices done, D)."""
        for number in self._outwards(near):
            self._encoded(number)
            if progress:
                progress(self.num_encoded, len(self))

    def encode_rest_in_background(self, near: int) -> None:
        """The same beside the caller's work, who goes first whenever slices are asked for. A second call is ignored.

        It ends when the model is switched to other adapters.
        """
        is_running = self._background is not None and self._background.is_alive()
        if not is_running and self.num_encoded < len(self):
            self._background = threading.Thread(target=self._follow, args=(near,), daemon=True)
            _in_background.add(self)
            self._background.start()

    def close(self) -> None:
        """Stop the background after the chunk at hand."""
        self._is_closed = True
        if self._background is not None:
            self._background.join()

    def _follow(self, near: int) -> None:
        waiting = self._outwards(near)
        while waiting and not self._is_closed:
            if self._turns.background_rests:
                time.sleep(0.005)
                continue
            with self._turns.lock:
                if self._turns.background_rests:  # somebody came while the lock was waited for
                    continue
                if not self._encode_if_active(waiting[0]):
                    return
            waiting.pop(0)

    def _outwards(self, near: int) -> list[int]:
        chunks = range(-(-len(self) // self.chunk_slices))
        return sorted(chunks, key=lambda number: abs(number - near // self.chunk_slices))

    def _encoded(self, number: int) -> Tensor:
        with self._turns.lock:
            self.refuse_gone()
            if number not in self._chunks:
                is_active = active_adapters(self.model) == self.adapters
                with contextlib.nullcontext() if is_active else self.model.using_adapter(self.adapters):
                    self._chunks[number] = self._compute(number)
            return self._chunks[number]

    def _encode_if_active(self, number: int) -> bool:
        """The same for the background, which holds the lock and never switches the model; False if others have."""
        if number in self._chunks:
            return True
        if self.gone or active_adapters(self.model) != self.adapters:
            return False
        chunk = self._compute(number)
        # Switched by someone without the lock: half of each.
        if self.gone or active_adapters(self.model) != self.adapters:
            return False
        self._chunks[number] = chunk
        return True

    def _compute(self, number: int) -> Tensor:
        first = number * self.chunk_slices
        last = min(first + self.chunk_slices, len(self))
        chunk = self._slices_to_model(first, last) if self._features is None else self._features[first:last]
        return encode_volume(self.model, chunk, self._together, is_frozen=self._features is not None)
