"""Flow-Noise: a small network that learns the std of every denoising step.

Owns the noise head and its bounds. Refuses to know chains and densities. Read
`pirl.algorithm.chain` next.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pirl.config.recipe import FlowNoiseConfig


class NoiseHead(nn.Module):
    """ExploreNoiseNet of RLinf: action-token features to a bounded std per chunk row and channel.

    std = exp((l_lo + (l_hi - l_lo) (tanh y + 1) / 2) / 2) with l = log(std^2), y the MLP's output,
    tanh hidden units. Source: `algorithm.md` 6; piRL (arXiv 2510.25889), Flow-Noise.
    """

    def __init__(
        self,
        *,
        feature_width: int,
        model_dim: int,
        settings: FlowNoiseConfig,
        generator: torch.Generator,
    ) -> None:
        """Weights are a function of `generator` alone; torch's global stream is left untouched."""
        super().__init__()
        self.std_range = settings.noise_std_range
        self.detach = settings.noise_head_detach
        widths = (feature_width, *settings.noise_head_hidden, model_dim)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [_linear(width_in, width_out, generator), nn.Tanh()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, features: Float[Tensor, "*rows W"]) -> Float[Tensor, "*rows D"]:
        """Std in flow units, inside `noise_std_range`, in the head's dtype."""
        if self.detach:
            features = features.detach()
        low, high = self.std_range
        y = self.mlp(features.to(next(self.parameters()).dtype))
        position = (torch.tanh(y) + 1) / 2
        std = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * position)
        # exp(log(bound)) may round past the bound when tanh saturates.
        return std.clamp(low, high)


def _linear(width_in: int, width_out: int, generator: torch.Generator) -> nn.Linear:
    """torch's default initialisation of a linear layer, drawn from `generator`."""
    # The constructor draws from the global stream; its weights are overwritten.
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(width_in, width_out)
    bound = 1 / math.sqrt(width_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
