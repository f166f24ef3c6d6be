"""What the authors' public MSA code computes, written down once more in plain PyTorch from its facts, and checkpoints
in its layout with random weights. Nothing here uses the library's own encoder: tests compare the two.

Facts from https://github.com/ImprintLab/Medical-SAM-Adapter: models/ImageEncoder/vit/adapter_block.py (blocks),
models/sam/modeling/image_encoder.py (patches, positions, neck), models/common/adapter.py (adapters), train.py (files).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medsam_adapter.hub.convert.names import meta_name

KINDS = ("MLP", "Space", "Depth")
State = dict[str, Tensor]


# -- checkpoints -------------------------------------------------------------------------------------------------------


def sam_part(sam) -> State:
    """A SamModel's tensors under Meta's names."""
    return {meta_name(name): value.detach().clone() for name, value in sam.state_dict().items()}


def sam_part_in_order(sam: State, adapters_: State) -> State:
    """Both together as a module's state_dict has them: the encoder's adapters before prompt encoder and decoder."""
    parts = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
    return {name: value for part in parts for name, value in (sam | adapters_).items() if name.startswith(part)}


def adapters(width: int, layers: int, *, narrow: int = 0, trained: str = "3d", seed: int = 1) -> State:
    """Random adapters in each block; with trained="2d" the depth adapters are as PyTorch starts them."""
    generator, narrow = torch.Generator().manual_seed(seed), narrow or width // 4
    state = {}
    for i in range(layers):
        for kind in KINDS:
            for projection, (out, inputs) in {"1": (narrow, width), "2": (width, narrow)}.items():
                bound = 1 / math.sqrt(inputs)
                for part, shape in {"weight": (out, inputs), "bias": (out,)}.items():
                    value = (2 * torch.rand(shape, generator=generator) - 1) * bound
                    if kind != "Depth" or trained == "3d":
                        value = value + 0.1 * torch.randn(shape, generator=generator)
                    state[f"image_encoder.blocks.{i}.{kind}_Adapter.D_fc{projection}.{part}"] = value
    return state


def trained_decoder(state: State, seed: int = 2) -> State:
    """The same checkpoint with its mask decoder changed, as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        if name.startswith("mask_decoder.")
        else value
        for name, value in state.items()
    }


def without_positions(state: State, which: str, windows: list[int], grid: int) -> State:
    """Relative positions lost, as versions of the code lost them: "none" left, by renaming, or "windowed" ones left."""
    result = {}
    for name, value in state.items():
        if ".attn.rel_pos_" in name:
            window = windows[int(name.split(".")[2])]
            if which == "none" or not window:
                value = torch.zeros(2 * (window or grid) - 1, value.shape[1])
            if which == "none":
                name = name.replace(".rel_pos_", ".rel_")
        result[name] = value
    return result


def training_dictionary(state: State, trained: tuple[str, ...] | None = None, prefix: str = "") -> dict:
    """What save_checkpoint writes. `trained`: beginnings of what Adam has a state for; None for no optimizer state."""
    names = [name for name in state if "gaussian_matrix" not in name]
    steps = {
        number: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
        for number, name in enumerate(names)
        if any(part in name for part in trained or ())
    }
    return {
        "epoch": 3,
        "model": "sam",
        "state_dict": {prefix + name: value for name, value in state.items()},
        "optimizer": {"state": steps, "param_groups": [{"lr": 1e-4, "params": list(range(len(names)))}]},
        "best_tol": torch.tensor(0.3),
        "path_helper": {"log_path": "logs/x/Log"},
    }


# -- the forward pass --------------------------------------------------------------------------------------------------


def encoder(state: State, pixels: Tensor, windows: list[int], head_size: int, chunk: int | None = None) -> Tensor:
    """(N, 3, S, S) -> (N, E, g, g). `windows`: side for each block, 0 for global; `chunk`: slices, None for images."""
    at = "image_encoder."
    patch = state[f"{at}patch_embed.proj.weight"].shape[-1]
    x = F.conv2d(pixels, state[f"{at}patch_embed.proj.weight"], state[f"{at}patch_embed.proj.bias"], stride=patch)
    table = state[f"{at}pos_embed"].permute(0, 3, 1, 2)
    x = x + F.interpolate(table, size=x.shape[2:], mode="bicubic", align_corners=False)
    x = x.permute(0, 2, 3, 1)
    for i, window in enumerate(windows):
        x = block(state, i, x, window, head_size, chunk)
    x = F.conv2d(x.permute(0, 3, 1, 2), state[f"{at}neck.0.weight"])
    x = channel_norm(x, state, f"{at}neck.1")
    x = F.conv2d(x, state[f"{at}neck.2.weight"], padding=1)
    return channel_norm(x, state, f"{at}neck.3")


def block(state: State, i: int, x: Tensor, window: int, head_size: int, chunk: int | None) -> Tensor:
    at = f"image_encoder.blocks.{i}."
    count, height, width, channels = x.shape
    side = window or height
    # Windows of all slices, slice by slice, each row by row; the last ones are filled up with zeros.
    down, across = -(-height // side), -(-width // side)
    filled = x.new_zeros(count, down * side, across * side, channels)
    filled[:, :height, :width] = x
    places = [(n, r * side, c * side) for n in range(count) for r in range(down) for c in range(across)]
    pieces = torch.stack([filled[n, r : r + side, c : c + side] for n, r, c in places])
    normed = layer_norm(pieces, state, f"{at}norm1")  # only now: what was filled up becomes the norm's bias
    out = attention(normed, state, f"{at}attn.", head_size)
    out = out + adapter(out, state, f"{at}Space_Adapter.")
    if chunk is not None:
        out = out + depth(normed, state, at, head_size, chunk)
    back = torch.zeros_like(filled)
    for piece, (n, r, c) in zip(out, places, strict=True):
        back[n, r : r + side, c : c + side] = piece
    x = x + back[:, :height, :width]
    normed = layer_norm(x, state, f"{at}norm2")
    hidden = F.gelu(linear(normed, state, f"{at}mlp.lin1"))
    return x + linear(hidden, state, f"{at}mlp.lin2") + 0.5 * adapter(normed, state, f"{at}MLP_Adapter.")


def depth(normed: Tensor, state: State, at: str, head_size: int, chunk: int) -> Tensor:
    """Every `chunk` windows in a row make a sequence at each place inside a window, folded to a small picture."""
    rows, columns = folded(chunk)
    result = torch.zeros_like(normed)
    for first in range(0, len(normed), chunk):
        group = normed[first : first + chunk]
        assert len(group) == chunk
        for y in range(group.shape[1]):
            for x in range(group.shape[2]):
                picture = group[:, y, x].reshape(1, rows, columns, -1)
                mixed = adapter(attention(picture, state, f"{at}attn.", head_size), state, f"{at}Depth_Adapter.")
                result[first : first + chunk, y, x] = mixed.reshape(chunk, -1)
    return result


def folded(number: int) -> tuple[int, int]:
    """Two numbers whose product it is: from the root on the larger grows and the smaller shrinks until they meet."""
    small, large = int(number**0.5), int(number**0.5) + 1
    while small * large != number:
        small, large = (small, large + 1) if small * large < number else (small - 1, large)
    return small, large


def attention(x: Tensor, state: State, at: str, head_size: int) -> Tensor:
    """(N, y, x, C): multi-head attention with decomposed relative positions, head by head."""
    count, height, width, channels = x.shape
    query, key, value = linear(x, state, f"{at}qkv").reshape(count, height * width, 3 * channels).split(channels, -1)
    tables = [state.get(f"{at}rel_pos_{axis}", state.get(f"{at}rel_{axis}")) for axis in "hw"]
    by_row, by_column = (resized(t, side) for t, side in zip(tables, (height, width), strict=True))
    places = [(y, x) for y in range(height) for x in range(width)]
    vectors = torch.stack(  # of each query and each key, by how far it lies below and right of it
        [torch.stack([by_row[a - c + height - 1] + by_column[b - d + width - 1] for c, d in places]) for a, b in places]
    )
    heads = []
    for start in range(0, channels, head_size):
        q, k, v = (part[..., start : start + head_size] for part in (query, key, value))
        scores = q @ k.transpose(1, 2) / math.sqrt(head_size) + torch.einsum("nac,abc->nab", q, vectors)
        heads.append(scores.softmax(-1) @ v)
    return linear(torch.cat(heads, -1).reshape(count, height, width, channels), state, f"{at}proj")


def resized(table: Tensor, side: int) -> Tensor:
    return F.interpolate(table.t()[None], size=2 * side - 1, mode="linear")[0].t()


def adapter(x: Tensor, state: State, at: str) -> Tensor:
    return linear(F.gelu(linear(x, state, f"{at}D_fc1")), state, f"{at}D_fc2")


def linear(x: Tensor, state: State, at: str) -> Tensor:
    return x @ state[f"{at}.weight"].t() + state[f"{at}.bias"]


def layer_norm(x: Tensor, state: State, at: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{at}.weight"], state[f"{at}.bias"], 1e-6)


def channel_norm(x: Tensor, state: State, at: str) -> Tensor:
    return layer_norm(x.permute(0, 2, 3, 1), state, at).permute(0, 3, 1, 2)
