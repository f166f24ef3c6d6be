"""Linear layers through the faster kernels where a machine has them; the result is torch's own up to rounding.

On x86 CPUs torch hands fp32 products to MKL, which is slow on processors that are not Intel's; oneDNN, which ships with
torch too, is up to 1.4 times as fast there and can apply the activation before it writes the result. Everywhere else,
under torch.compile, and under autocast unless the weights are of its type, these functions are the plain layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUActivation
from transformers.models.sam.modeling_sam import SamMLPBlock

_has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(layer: nn.Module, hidden_states: Tensor) -> Tensor:
    """`layer(hidden_states)`, (..., C) -> (..., C'); gradients as there."""
    if is_hooked(layer):
        return layer(hidden_states).clone()  # a hook may have kept it, and callers add to what they get here
    if type(layer) is nn.Linear and layer.weight.dtype == _autocast_dtype():
        hidden_states = hidden_states.to(layer.weight.dtype)  # as autocast does
    if not _is_plain(layer, hidden_states):
        return layer(hidden_states)
    needs_weight_gradient = any(p.requires_grad for p in layer.parameters())
    if not torch.is_grad_enabled() or not (hidden_states.requires_grad or needs_weight_gradient):
        return onednn_product(hidden_states, layer.weight, layer.bias)
    if needs_weight_gradient:
        return layer(hidden_states)
    # As a matrix: what oneDNN makes of more axes is a view, which nobody may add to in place.
    out = _FrozenLinear.apply(hidden_states.flatten(0, -2), layer.weight, layer.bias)
    return out.view(*hidden_states.shape[:-1], -1)


def feed_forward(mlp: nn.Module, hidden_states: Tensor) -> Tensor:
    """`mlp(hidden_states)` of a `SamMLPBlock`; without gradients its GELU is applied within the first product."""
    if type(mlp) is not SamMLPBlock or is_hooked(mlp):
        return mlp(hidden_states).clone()  # as in `linear`
    is_gelu = type(mlp.act) is GELUActivation and mlp.act.act is F.gelu and not is_hooked(mlp.lin1)
    needs_gradient = torch.is_grad_enabled() and (
        hidden_states.requires_grad or any(p.requires_grad for p in mlp.parameters())
    )
    if is_gelu and not needs_gradient and _is_plain(mlp.lin1, hidden_states):
        wide = onednn_product(hidden_states, mlp.lin1.weight, mlp.lin1.bias, "gelu")
    else:
        wide = mlp.act(linear(mlp.lin1, hidden_states))
    return linear(mlp.lin2, wide)


def add_residual(fresh: Tensor, residual: Tensor) -> Tensor:
    """Their sum, in the memory of a tensor that nobody else needs: at this size fresh memory costs more than a sum."""
    return fresh.add_(residual) if fresh.dtype == residual.dtype else fresh + residual


def is_hooked(module: nn.Module) -> bool:
    """Whether something happens when the module is called that its weights do not tell (accelerate's offloading)."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def may_use_onednn(tensor: Tensor) -> bool:
    """Whether `onednn_product` takes this tensor, here and now."""
    return (
        _has_onednn
        and torch.backends.mkldnn.enabled
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16)
        and _autocast_dtype() in (None, tensor.dtype)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _autocast_dtype() -> torch.dtype | None:
    """What autocast on a CPU casts to, None where it is off."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def onednn_product(left: Tensor, right: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(left right^T + bias), no gradients: (..., K) and (N, K) -> (..., N); `activation` is none or gelu."""
    algorithm = "none" if activation == "gelu" else ""  # GELU's exact form, not that of tanh
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, activation, [], algorithm)


def _is_plain(layer: nn.Module, hidden_states: Tensor) -> bool:
    """Whether a layer is nothing but its product, and oneDNN can make it."""
    return (
        may_use_onednn(hidden_states)
        and type(layer) is nn.Linear  # a layer that another PEFT method has wrapped does more
        and layer.weight.dtype == hidden_states.dtype
    )


class _FrozenLinear(torch.autograd.Function):
    """A linear layer whose weights get no gradient."""

    @staticmethod
    def forward(ctx, hidden_states, weight, bias):
        ctx.save_for_backward(weight)
        return onednn_product(hidden_states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        (weight,) = ctx.saved_tensors
        if weight.dtype != torch.float32:
            return grad_out @ weight, None, None  # oneDNN's already, and without a turned copy of the weight
        return onednn_product(grad_out.contiguous(), weight.t().contiguous()), None, None
