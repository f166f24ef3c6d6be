"""TransUNet's tokens: each place of the grid keeps its own, and nobody reads the class token."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from medsam_adapter.baselines.transunet import TransUNetModel


class Echo(nn.Module):
    """In place of the transformer: tokens are their places, and the class token is no number."""

    def forward(self, features):
        places = torch.arange(6.0).view(1, 6, 1).expand(len(features), 6, 16)
        return SimpleNamespace(last_hidden_state=torch.cat([torch.full((len(features), 1, 16), torch.nan), places], 1))


def test_tokens_go_back_to_their_places():
    net = TransUNetModel(1, 2, (32, 48), 4, (1, 1, 1), 16, 1, 2, (8, 8, 8, 4, 4)).eval()
    net.vit, seen = Echo(), []
    net.bridge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert torch.isfinite(net(torch.randn(1, 1, 32, 48))).all()
    assert seen[0][0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]  # 2 rows of 3: height first
