"""The adapter of the paper, Up(ReLU(Down(z))), and the four ways prompts enter it in the decoder.

Shapes: C width of the block, m = round(r C) width of the bottleneck, T tokens, K prompt tokens, N images x objects.
Up starts at zero (our choice), so that a fresh adapter adds exactly nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from medsam_adapter.adapters.linear import linear


def bottleneck_width(width: int, ratio: float) -> int:
    """m = round(r C), at least 1."""
    return max(1, round(ratio * width))


class Adapter(nn.Module):
    """Up(act(Down(z))): (..., C) -> (..., C), computed in the dtype of z; the weights may have a finer one."""

    def __init__(self, width: int, ratio: float, activation: str = "relu"):
        super().__init__()
        narrow = bottleneck_width(width, ratio)
        self.down = nn.Linear(width, narrow)
        self.act = ACT2FN[activation]
        self.up = nn.Linear(narrow, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _project(self.up, self.act(_project(self.down, hidden_states)))


def _project(layer: nn.Linear, hidden_states: Tensor) -> Tensor:
    dtype = hidden_states.dtype
    if layer.weight.dtype == dtype or torch.is_autocast_enabled(hidden_states.device.type):
        return linear(layer, hidden_states)
    # A small weight is cast, not the many tokens; its gradient comes back in its own dtype.
    return F.linear(hidden_states, layer.weight.to(dtype), layer.bias.to(dtype))


class PromptAdapter(Adapter):
    """Up(act(Down(t) (+) Prompt(p))): decoder adapter 1.

    p is the mean of the prompt tokens (our choice: the paper leaves open how several prompts of one object meet).
    """

    def __init__(self, width: int, ratio: float, fusion: str, hyper_depth: int = 1, activation: str = "relu"):
        super().__init__(width, ratio, activation)
        narrow = bottleneck_width(width, ratio)
        fusions: dict[str, Callable[[int, int], nn.Module]] = {
            "none": NoFusion,
            "add": AddFusion,
            "concat": ConcatFusion,
            "hyper": lambda c, m: HyperFusion(c, m, hyper_depth),
        }
        self.fusion = fusions[fusion](width, narrow)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:  # type: ignore[override]  # it hears the prompts, too
        """tokens (N, P, T, C), prompts (N, P, K, C), K >= 0 -> (N, P, T, C)."""
        prompt = prompts.mean(-2) if prompts.shape[-2] else prompts.new_zeros((*prompts.shape[:-2], prompts.shape[-1]))
        dtype = self.down.weight.dtype  # few tokens: they are cast, and the fusions stay plain
        out = self.up(self.act(self.fusion(self.down(tokens.to(dtype)), prompt.to(dtype))))
        return out.to(tokens.dtype)


class NoFusion(nn.Module):
    """The prompt stays out."""

    def __init__(self, width: int, narrow: int):
        super().__init__()

    def forward(self, hidden_states: Tensor, prompt: Tensor) -> Tensor:
        return hidden_states


class AddFusion(nn.Module):
    """Down(t) + Down_p(p), the paper's first version."""

    def __init__(self, width: int, narrow: int):
        super().__init__()
        self.down = nn.Linear(width, narrow)

    def forward(self, hidden_states: Tensor, prompt: Tensor) -> Tensor:
        return hidden_states + self.down(prompt).unsqueeze(-2)


class ConcatFusion(nn.Module):
    """[Down(t), Down_p(p)] mapped back to the bottleneck's width."""

    def __init__(self, width: int, narrow: int):
        super().__init__()
        self.down = nn.Linear(width, narrow)
        self.mix = nn.Linear(2 * narrow, narrow)

    def forward(self, hidden_states: Tensor, prompt: Tensor) -> Tensor:
        prompt = self.down(prompt).unsqueeze(-2).expand_as(hidden_states)
        return self.mix(torch.cat([hidden_states, prompt], -1))


class HyperFusion(nn.Module):
    """The Hyper-Prompting Adapter of the paper's later version: the prompt makes the weights.

    An MLP of the prompt gives a matrix (m, m) for each object, e' = ReLU(Norm(e w)), `depth` times. The matrix starts
    near the identity, so that the bottleneck passes tokens on before it has learned anything.
    """

    def __init__(self, width: int, narrow: int, depth: int):
        super().__init__()
        self.narrow = narrow
        self.makers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, narrow * narrow)) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(narrow) for _ in range(depth))
        for maker in self.makers:
            with torch.no_grad():
                maker[-1].weight.mul_(0.1)
                maker[-1].bias.copy_(torch.eye(narrow).flatten())

    def forward(self, hidden_states: Tensor, prompt: Tensor) -> Tensor:
        for maker, norm in zip(self.makers, self.norms, strict=True):
            weights = maker(prompt).unflatten(-1, (self.narrow, self.narrow))
            hidden_states = torch.relu(norm(hidden_states @ weights))
        return hidden_states
