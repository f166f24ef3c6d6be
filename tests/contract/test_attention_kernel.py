"""The attention kernel in C gives what torch's operations give, forward and backward, for every geometry; and without
it everything works."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.adapters.tiled_attention import TiledAttention
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.native import library

needs_kernel = pytest.mark.skipif(not library.level(), reason="the kernel is not built, or not for this processor")
TYPES = [torch.float32] + [torch.bfloat16] * (library.level() > 1)
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def problem(grid=(8, 8), window=5, images=2, heads=2, channels=16, has_tables=True, seed=0):
    """Random qkv, padding, tables and gradient of the result, in fp64, and heads, window and scale."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.7 * torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    width = heads * channels
    tables = draw(2 * (2 * (window or grid[0]) - 1), channels) * 0.3 if has_tables else None
    tensors = draw(images, *grid, 3 * width), draw(3 * width), tables, draw(images, *grid, width)
    return tensors, (heads, window, channels**-0.5)


def both_ways(tensors, numbers, dtype):
    """(result, gradient of qkv) of the kernel in a type, and of torch's operations in fp64 on the same values."""
    qkv, padding, tables, grad = (None if t is None else t.to(dtype) for t in tensors)
    log_sums = torch.empty(*qkv.shape[:3], numbers[0])
    out = library.attention(qkv, padding, tables, *numbers, log_sums)
    got = out, library.attention_backward(grad, qkv, padding, tables, *numbers, out, log_sums)
    exact, padding, tables, grad = (None if t is None else t.double() for t in (qkv, padding, tables, grad))
    exact.requires_grad_()
    out = TiledAttention.apply(exact, padding, tables, *numbers)
    return got, (out.detach(), torch.autograd.grad(out, exact, grad)[0])


def assert_equal_within_rounding(got, want, dtype, least=1.0):
    assert all(tensor.abs().max() > 1e-3 for tensor in want)
    # Of queries, keys and values each by itself: they differ much in size.
    parts = [(got[0], want[0]), *zip(got[1].chunk(3, -1), want[1].chunk(3, -1), strict=True)]
    for (one, other), what in zip(parts, ("result", "of queries", "of keys", "of values"), strict=True):
        assert one.dtype == dtype
        # Inputs are nearly 1; what is much smaller than `least` is a difference of such terms.
        size = other.abs().max().clamp_min(least)
        error = (one.double() - other).abs().max() / size
        assert error <= TOLERANCES[dtype], f"{what}: {error:.1e}"


@needs_kernel
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "geometry",
    [
        {"grid": (16, 16), "window": 14},  # SAM at 256 px: one whole window and three that the edges cut
        {"grid": (16, 16), "window": 0},
        {"grid": (15, 15), "window": 0},  # a row of keys does not fill a vector
        {"grid": (33, 33), "window": 0},  # more keys than one block holds, and rows of three vectors
        {"grid": (20, 20), "window": 17, "channels": 80},  # the width of ViT-H's heads
        {"grid": (5, 9), "window": 4, "images": 1, "heads": 1, "channels": 64},
        {"grid": (3, 3), "window": 14, "channels": 48},
        {"grid": (1, 7), "window": 3, "channels": 256},
        {"grid": (49, 49), "window": 0, "images": 1, "heads": 1},  # rows of four vectors
        {"grid": (1, 1), "window": 0},
        {"has_tables": False},
    ],
    ids=str,
)
def test_the_kernel_equals_torch(geometry, dtype):
    least = 1.0 if dtype == torch.float32 else 0.1  # of many keys each has a small share, and a small gradient
    assert_equal_within_rounding(*both_ways(*problem(**geometry), dtype), dtype, least)


@needs_kernel
@settings(deadline=None, max_examples=60)
@given(
    grid=st.tuples(st.integers(2, 19), st.integers(2, 19)),
    window=st.integers(1, 20),
    images=st.integers(1, 3),
    heads=st.integers(1, 3),
    channels=st.sampled_from([16, 32, 48, 64, 80, 96]),
    has_tables=st.booleans(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(TYPES),
)
def test_the_kernel_equals_torch_for_any_geometry(grid, window, images, heads, channels, has_tables, seed, dtype):
    tensors, numbers = problem(grid, window, images, heads, channels, has_tables, seed)
    assert_equal_within_rounding(*both_ways(tensors, numbers, dtype), dtype, least=2.0)


@needs_kernel
@pytest.mark.parametrize("size", [100.0, 1e-3])
def test_scores_of_any_size_are_softened_rightly(size):
    """Scores of ten thousands: e to that power is no number, but the shares are."""
    (qkv, padding, _, grad), numbers = problem(has_tables=False)
    got, want = both_ways((qkv * size, padding * size, None, grad), numbers, torch.float32)
    assert all(tensor.isfinite().all() for tensor in got)
    # At that size fp32 has rounded the scores themselves by a thousandth.
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=(2e-3 if size > 1 else 1e-6) * size)


@needs_kernel
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("window", [5, 0])
def test_neither_threads_nor_neighbours_change_a_bit(dtype, window):
    """Sums run in one order, however the work is split: what makes resumed runs equal to the bit."""
    tensors, numbers = problem((12, 12), window, images=3)
    qkv, padding, tables, grad = (t.to(dtype) for t in tensors)

    def both(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        log_sums = torch.empty(*qkv[part].shape[:3], numbers[0])
        out = library.attention(qkv[part], padding, tables, *numbers, log_sums)
        args = (grad[part], qkv[part], padding, tables, *numbers, out, log_sums)
        return out, library.attention_backward(*args)

    together, alone = both(slice(None)), [both(slice(i, i + 1)) for i in range(3)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        split = both(slice(None))
    finally:
        torch.set_num_threads(threads)
    for result, singles, other in zip(together, zip(*alone, strict=True), split, strict=True):
        assert torch.equal(result, torch.cat(singles)) and torch.equal(result, other)


@needs_kernel
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_no_number_is_not_hidden(dtype, bad, part):
    """A run that diverges must show it (training/nonfinite.py), where torch's attention does."""
    (qkv, padding, tables, _), numbers = problem(window=4, images=1)
    qkv[0, 1, 2, part * 32 + 5] = bad  # head 0
    qkv, padding, tables = (t.to(dtype) for t in (qkv, padding, tables))
    log_sums = torch.empty(*qkv.shape[:3], numbers[0])
    got = library.attention(qkv, padding, tables, *numbers, log_sums)
    want = TiledAttention.apply(qkv, padding, tables, *numbers)
    assert not want.isfinite().all() and torch.equal(got.isfinite(), want.isfinite())
    grad = library.attention_backward(torch.ones_like(got), qkv, padding, tables, *numbers, got, log_sums)
    assert not grad.isfinite().all()


@needs_kernel
def test_no_images_are_no_error():
    (qkv, padding, tables, grad), numbers = problem(images=1)
    none = [t.float() for t in (qkv[:0], padding, tables)]
    log_sums = torch.empty(0, 8, 8, 2)
    out = library.attention(*none, *numbers, log_sums)
    assert out.shape == grad[:0].shape
    assert library.attention_backward(grad[:0], *none, *numbers, out, log_sums).shape == qkv[:0].shape


@needs_kernel
def test_tensors_in_any_order_of_memory():
    tensors, numbers = problem()
    qkv, padding, tables, grad = (t.float() for t in tensors)
    turned = qkv.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.stack([tables, tables], -1)[..., 0]
    assert not turned.is_contiguous() and not wide.is_contiguous()
    results = []
    for one, table in ((qkv, tables), (turned, wide)):
        log_sums = torch.empty(*one.shape[:3], numbers[0])
        out = library.attention(one, padding, table, *numbers, log_sums)
        swapped = grad.transpose(1, 2).contiguous().transpose(1, 2) if one is turned else grad
        results.append((out, library.attention_backward(swapped, one, padding, table, *numbers, out, log_sums)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -- which way is taken ------------------------------------------------------------------------------------------------


def ways_taken(monkeypatch) -> list[str]:
    taken = []
    for owner, name in ((library, "attention"), (library, "attention_backward"), (TiledAttention, "apply")):
        original = getattr(owner, name)
        spy = lambda *args, _o=original, _n=f"{name}": (taken.append(_n), _o(*args))[1]  # noqa: E731
        monkeypatch.setattr(owner, name, spy)
    return taken


@needs_kernel
def test_encoders_take_the_kernel(tiny_base, monkeypatch):
    model = MSAModel.from_base(tiny_base, MSAAdapterConfig())
    taken = ways_taken(monkeypatch)
    model.encode(torch.randn(1, 3, 64, 64)).sum().backward()
    blocks = len(model.vision_encoder.layers)
    # Nothing flows back into the first block's attention, whose queries depend on nothing that is trained.
    assert taken == ["attention"] * blocks + ["attention_backward"] * (blocks - 1)


@needs_kernel
@pytest.mark.parametrize("trained", ["rel_pos_h", "qkv.bias"])
def test_trained_tables_and_biases_get_their_gradients_elsewhere(tiny_base, monkeypatch, trained):
    model = MSAModel.from_base(tiny_base).requires_grad_(False)
    parameter = model.vision_encoder.layers[0].attn.get_parameter(trained).requires_grad_()
    taken = ways_taken(monkeypatch)
    model.vision_encoder(torch.randn(1, 3, 64, 64)).last_hidden_state.square().sum().backward()
    assert taken[0] == "apply" and parameter.grad.abs().max() > 0


def test_it_can_be_left_alone(tiny_base, monkeypatch):
    model = MSAModel.from_base(tiny_base)
    pixels = torch.randn(1, 3, 64, 64)
    want = model.get_image_embeddings(pixels)
    taken = ways_taken(monkeypatch)
    with library.without_kernel():
        torch.testing.assert_close(model.get_image_embeddings(pixels), want, rtol=1e-4, atol=1e-4)
    assert set(taken) == {"apply"}


@needs_kernel
def test_a_lora_in_the_projection_trains_through_the_kernel(tiny_base, monkeypatch):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(MSAModel.from_base(tiny_base), LoraConfig(target_modules=["qkv"]))
    taken = ways_taken(monkeypatch)
    model.get_base_model().encode(torch.randn(1, 3, 64, 64)).sum().backward()
    assert set(taken) == {"attention", "attention_backward"}
    assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("adapter", [None, MSAAdapterConfig()], ids=["SAM's block", "adapted block"])
def test_a_traced_block_computes_and_does_not_remember(tiny_base, adapter):
    """A tracer sees torch's operations only: of what a kernel writes it would keep memory that nobody has filled."""
    block = MSAModel.from_base(tiny_base, adapter).requires_grad_(False).vision_encoder.layers[0]
    traced = torch.jit.trace(block, torch.randn(1, 8, 8, 32))
    other = torch.randn(1, 8, 8, 32)
    torch.testing.assert_close(traced(other), block(other), rtol=1e-4, atol=1e-4)


def test_what_it_does_not_serve():
    qkv = torch.zeros(1, 2, 2, 3 * 32)
    served = {
        (dtype, heads): library.serves(qkv.to(dtype), heads)
        for dtype in (torch.float64, torch.float16, torch.float32, torch.bfloat16)
        for heads in (1, 2, 4)
    }
    right = {key: key[0] in TYPES and key[1] < 4 and library.level() > 0 for key in served}  # 8 channels: half a vector
    assert served == right
    assert not library.serves(qkv.to("meta"), 2)
    assert not library.serves(qkv, 2, None, qkv.to("meta")[0])  # weights that have been moved away
    assert not library.serves(qkv, 2, qkv.double(), None)
    assert not library.serves(torch.zeros(1, 2, 2, 3 * 33), 2)
    with FakeTensorMode():
        assert not library.serves(torch.zeros(1, 2, 2, 96), 2)


@pytest.mark.parametrize("why", ["switched off", "not built", "damaged", "of another version"])
def test_without_the_kernel_everything_works(why, tmp_path):
    """In a process of its own, because the library is loaded once."""
    program = (
        "import sys, torch\n"
        "from medsam_adapter.native import library\n"
        "if sys.argv[1:]: library.__file__ = sys.argv[1]\n"
        "from medsam_adapter.adapters.attention import space_attention\n"
        "from transformers import SamVisionConfig\n"
        "from transformers.models.sam.modeling_sam import SamVisionSdpaAttention\n"
        "config = SamVisionConfig(hidden_size=32, num_attention_heads=2, image_size=64, patch_size=8)\n"
        "attention = SamVisionSdpaAttention(config, 5)\n"
        "qkv = torch.randn(1, 8, 8, 96, requires_grad=True)\n"
        "assert not library.serves(qkv, 2)\n"
        "space_attention(attention, qkv, 5).sum().backward()\n"
        "print(tuple(qkv.grad.shape))\n"
    )
    built = tmp_path / f"_attention{library.SUFFIX}"
    if why == "damaged":
        built.write_bytes(b"not a library")
    if why == "of another version":
        if not library.level():
            pytest.skip("there is no kernel to be of another version")
        shutil.copy(Path(library.__file__).with_name(built.name), built)
        program = program.replace("if sys.argv[1:]:", "library.VERSION += 1\nif sys.argv[1:]:", 1)
    arguments = [] if why == "switched off" else [str(tmp_path / "library.py")]
    environment = {**os.environ, "MSA_NATIVE_ATTENTION": "0" if why == "switched off" else "1"}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "(1, 8, 8, 96)"
    assert ("_attention" in run.stderr) == (why in ("damaged", "of another version"))  # a warning names the file


def test_the_kernel_is_built_where_it_can_be():
    """A build that fails leaves the package slower and says nothing; here, with a compiler, it must not."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if platform.machine() != "x86_64" or "avx512_bf16" not in flags or not shutil.which("cc"):
        pytest.skip("not a Linux machine with AVX-512 and a C compiler")
    assert library.level() == 2
