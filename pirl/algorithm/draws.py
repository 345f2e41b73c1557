"""Every random number of a decision, drawn from one generator per batch row.

Owns the order of draws and the law of the stochastic step. Refuses to know networks and densities.
Read `pirl.algorithm.chain` next.

A row's numbers depend on its own generator only, never on who shares the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pirl.config.recipe import FlowSDEConfig
from pirl.errors import ConfigError, FieldError
from pirl.records import ActionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Random numbers of a batch of decisions, in drawing order."""

    initial: Float[Tensor, "B C D"]
    """x_0, standard normal; drawn first so that it is the same with and without noise."""
    step_quantile: Float[Tensor, " B"]
    """Uniform on [0, 1), fp64; picks the stochastic step in hybrid mode."""
    noise: Float[Tensor, "B S C D"]
    """z, standard normal, one per stochastic step."""
    gripper_quantile: Float[Tensor, "B E G"]
    """Uniform on [0, 1); decides the Bernoulli gripper."""


def draw_initial(
    spec: ActionSpec, rngs: Sequence[torch.Generator], *, device: torch.device
) -> Float[Tensor, "B C D"]:
    """x_0 alone: all the randomness of the deterministic sampler."""
    shape = (spec.chunk_size, spec.model_dim)
    return torch.stack([torch.randn(shape, generator=g, device=g.device) for g in rngs]).to(device)


def draw_decision(
    spec: ActionSpec,
    rngs: Sequence[torch.Generator],
    *,
    stochastic_steps: int,
    device: torch.device,
) -> Draws:
    """Numbers of one stochastic decision per generator.

    Args:
        stochastic_steps: S, transitions that add noise per decision.
    """
    initial = draw_initial(spec, rngs, device=device)
    chunk = (stochastic_steps, spec.chunk_size, spec.model_dim)
    gripper = (spec.executed_steps, len(spec.gripper_dims))
    quantiles = [torch.rand((), generator=g, device=g.device, dtype=torch.float64) for g in rngs]
    noise = [torch.randn(chunk, generator=g, device=g.device) for g in rngs]
    grippers = [torch.rand(gripper, generator=g, device=g.device) for g in rngs]
    return Draws(
        initial=initial,
        step_quantile=torch.stack(quantiles).to(device),
        noise=torch.stack(noise).to(device),
        gripper_quantile=torch.stack(grippers).to(device),
    )


def stochastic_step(
    quantile: Float[Tensor, " B"], *, num_steps: int, settings: FlowSDEConfig
) -> Int64[Tensor, " B"]:
    """Index of the one stochastic step of each decision, by inverse of its law (`algorithm.md` 5).

    Raises:
        ConfigError: the law leaves no step or its weights do not fit K.
    """
    weights = _step_weights(num_steps, settings)
    cumulative = torch.cumsum(torch.tensor(weights, dtype=torch.float64), dim=0)
    cumulative = (cumulative / cumulative[-1]).to(quantile.device)
    return torch.searchsorted(cumulative, quantile.contiguous(), right=True)


def _step_weights(num_steps: int, settings: FlowSDEConfig) -> list[float]:
    law = settings.step_sampling
    weights: list[float] = []
    if law == "uniform":
        weights = [1.0] * num_steps
    elif law == "exclude_last":
        weights = [1.0] * (num_steps - 1) + [0.0]
    elif law == "weights":
        weights = list(settings.step_weights or ())
    if len(weights) != num_steps or min(weights) < 0 or sum(weights) <= 0:
        error = FieldError(
            field="pirl.flow_sde.step_sampling",
            value=(law, settings.step_weights),
            expected=f"uniform, exclude_last (K > 1), or {num_steps} weights >= 0, not all 0",
            fix="set pirl.flow_sde.step_sampling=uniform, or give one weight per denoising step",
        )
        raise ConfigError([error])
    return weights
