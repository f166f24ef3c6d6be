"""Embeddings of chunks of slices: the newest in memory, the others in a temporary file.

At 1024 px the embedding of a slice takes 4 MiB, and a thousand slices more memory than their scan by far.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from typing import BinaryIO

import torch
from torch import Tensor

MEMORY_BYTES = 2**30
"""What stays in memory (of the model's device) for one scan."""


class KeptChunks:
    """{number: chunk}, each set once; chunks all have the shape of the others but for their length.

    Args:
        memory_bytes: how much stays in memory; the chunk that was asked for last always does.
    """

    def __init__(self, memory_bytes: int | None = None):
        self._memory_bytes = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._in_memory: OrderedDict[int, Tensor] = OrderedDict()
        self._lengths: dict[int, int] = {}
        self._places: dict[int, tuple[int, torch.Size, torch.dtype, torch.device]] = {}
        self._file: BinaryIO | None = None
        self._held_bytes = 0

    def __contains__(self, number: int) -> bool:
        return number in self._lengths

    def __setitem__(self, number: int, chunk: Tensor) -> None:
        self._lengths[number] = len(chunk)
        self._hold(number, chunk)

    def __getitem__(self, number: int) -> Tensor:
        if number in self._in_memory:
            self._in_memory.move_to_end(number)
            return self._in_memory[number]
        place, shape, dtype, device = self._places[number]
        assert self._file is not None  # whatever has a place there was written
        self._file.seek(place)
        data = bytearray(self._file.read(shape.numel() * dtype.itemsize))
        chunk = torch.frombuffer(data, dtype=dtype).reshape(shape).to(device)
        self._hold(number, chunk)
        return chunk

    @property
    def num_slices(self) -> int:
        """Slices of all chunks together."""
        return sum(list(self._lengths.values()))

    def _hold(self, number: int, chunk: Tensor) -> None:
        self._in_memory[number] = chunk
        self._held_bytes += chunk.nbytes
        while self._held_bytes > self._memory_bytes and len(self._in_memory) > 1:
            oldest, gone = self._in_memory.popitem(last=False)
            self._held_bytes -= gone.nbytes
            if oldest not in self._places:
                self._write(oldest, gone)

    def _write(self, number: int, chunk: Tensor) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="msa-embeddings-")
        place = self._file.seek(0, 2)
        # bfloat16 is unknown to numpy: its bytes are not.
        self._file.write(chunk.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
        self._places[number] = place, chunk.shape, chunk.dtype, chunk.device
