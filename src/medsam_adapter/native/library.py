"""The windowed attention kernel of `attention.c`, called with tensors.

pip builds it on Linux and x86-64 where there is a C compiler (`setup.py`). It serves processors with AVX-512, bfloat16
only those with its dot products; `serves` tells. MSA_NATIVE_ATTENTION=0 leaves it alone.

Shapes: B images, (H, W) tokens, C width, h heads of c channels, n side of a window.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
"""How a compiled file ends that is made for this Python and this kind of processor."""
VERSION = 1
"""Of the C functions' arguments, as `msa_attention_version` tells it."""
_ARGUMENTS: list[Any] = [ctypes.c_void_p] * 7 + [ctypes.c_int] + [ctypes.c_long] * 6 + [ctypes.c_float, ctypes.c_int]
_LEVELS = {torch.float32: 1, torch.bfloat16: 2}  # as msa_attention_level counts
_is_enabled = os.environ.get("MSA_NATIVE_ATTENTION", "1") not in ("", "0")


@contextlib.contextmanager
def without_kernel() -> Iterator[None]:
    """Let attention inside compute as on a machine that has no kernel.

    A backward pass with gradient checkpointing belongs inside, too.
    """
    global _is_enabled
    before, _is_enabled = _is_enabled, False
    try:
        yield
    finally:
        _is_enabled = before


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The kernel, or None where it was not built. torch's OpenMP is loaded by now, and both share its threads."""
    path = Path(__file__).with_name(f"_attention{SUFFIX}")
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        if library.msa_attention_version() != VERSION:
            raise OSError(f"{path}: built from another version of the source; install the package again")
        if library.msa_attention_level():
            library.msa_attention.argtypes = _ARGUMENTS
    except (OSError, AttributeError) as error:
        warnings.warn(f"attention runs without its kernel, which does not load: {error}", stacklevel=2)
        return None
    return library


@functools.cache
def level() -> int:
    """What the kernel can do here: 0 nothing, 1 fp32, 2 bf16 too."""
    library = _library()
    return 0 if library is None else library.msa_attention_level()


def serves(qkv: Tensor, heads: int, *others: Tensor | None) -> bool:
    """Whether the kernel takes this projection (..., 3 C), here and now, with the tensors that go with it."""
    return (
        _is_enabled
        and qkv.dtype in _LEVELS
        and qkv.shape[-1] % (48 * heads) == 0  # a head's channels fill whole vectors of 16
        and all(_has_memory(t) and t.dtype == qkv.dtype for t in (qkv, *others) if t is not None)
        and level() >= _LEVELS[qkv.dtype]
    )


def _has_memory(tensor: Tensor) -> bool:
    """Whether there is something on the CPU to point to: not on "meta", not a FakeTensor or another kind of its own."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, Parameter)


def attention(
    qkv: Tensor,
    padding: Tensor,
    tables: Tensor | None,
    heads: int,
    window: int,
    scale: float,
    log_sums: Tensor | None = None,
) -> Tensor:
    """The tokens of each window attend among themselves.

    Args:
        qkv: (B, H, W, 3 C), of a type that `serves` takes.
        padding: (3 C,), what queries, keys and values are where a window reaches beyond the grid.
        tables: (2 (2 n - 1), c), position tables of rows and columns, last offset first; None without.
        window: n; 0 for the whole grid, which is square then.
        log_sums: (B, H, W, h) fp32, which `attention_backward` will want; None if there is no way back.

    Returns:
        (B, H, W, C).
    """
    out = qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))
    _call(qkv, padding, tables, heads, window, scale, out, log_sums, None, None)
    return out


def attention_backward(
    grad_out: Tensor,
    qkv: Tensor,
    padding: Tensor,
    tables: Tensor | None,
    heads: int,
    window: int,
    scale: float,
    out: Tensor,
    log_sums: Tensor,
) -> Tensor:
    """The gradient of qkv, of that of the result; `out` and `log_sums` are what `attention` made."""
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grad_out = grad_out.to(qkv.dtype)
    _call(qkv, padding, tables, heads, window, scale, out, log_sums, grad_out, grad_qkv)
    return grad_qkv


def _call(qkv, padding, tables, heads, window, scale, *others: Tensor | None) -> None:
    # Contiguous copies live until the call is over, because the list holds them.
    tensors = [None if t is None else t.detach().contiguous() for t in (qkv, padding, tables, *others)]
    images, height, width, channels = qkv.shape
    if not window and height != width:
        raise ValueError(f"attention of the whole grid wants a square one, and this is {height} x {width}")
    if not qkv.numel():
        return
    library = _library()
    assert library is not None  # nobody asks where `serves` says no
    failed = library.msa_attention(
        *(None if t is None else t.data_ptr() for t in tensors),
        qkv.dtype == torch.bfloat16,
        *(images, height, width, heads, channels // 3 // heads, window or height),
        scale,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"no memory for the attention of {images} x {height} x {width} tokens")
