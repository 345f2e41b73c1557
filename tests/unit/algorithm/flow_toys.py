"""Toy flow policies with known answers, and builders of what a chain needs, for chain tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.records import ActionSpec, Context, Prediction


def a_spec(
    *,
    steps: int = 5,
    chunk: int = 6,
    executed: int = 4,
    groups: Sequence[str] = ("xyz", "xyz", "rot6d", "gripper_logit", "other"),
    executed_dims: Sequence[int] = (0, 1, 2, 3),
) -> ActionSpec:
    """A chunk with pose dims, one executed hidden gripper and one padded dim."""
    hidden = tuple(d for d, group in enumerate(groups) if group == "gripper_logit")
    return ActionSpec(
        action_mode="toy",
        chunk_size=chunk,
        executed_steps=executed,
        model_dim=len(groups),
        env_dim=len(groups),
        denoising_steps=steps,
        executed_dims=tuple(executed_dims),
        hidden_gripper_dims=hidden,
        group_of_dim=tuple(groups),
    )


def a_plain_spec(*, steps: int, chunk: int = 1, dims: int = 1) -> ActionSpec:
    """A chunk in which every coordinate is an executed pose coordinate."""
    return a_spec(
        steps=steps,
        chunk=chunk,
        executed=chunk,
        groups=("other",) * dims,
        executed_dims=range(dims),
    )


def a_context(rows: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Context:
    """Observations that differ from row to row."""
    rng = torch.Generator().manual_seed(seed)
    empty = torch.zeros(rows, 1, 1, dtype=dtype)
    return Context(
        tensors={
            "vlm_features": empty,
            "aux_visual_inputs": empty,
            "proprio": torch.randn(rows, 3, generator=rng, dtype=dtype),
            "domain_id": torch.zeros(rows, dtype=torch.int64),
        },
        critic_features=torch.zeros(rows, 1, dtype=dtype),
    )


def flow_sde(*, sde: dict[str, Any] | None = None, **knobs: Any) -> PiRLConfig:
    """A Flow-SDE recipe."""
    return PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig(**(sde or {})), **knobs)


def flow_noise(*, noise: dict[str, Any] | None = None, **knobs: Any) -> PiRLConfig:
    """A Flow-Noise recipe."""
    return PiRLConfig(variant="flow-noise", flow_noise=FlowNoiseConfig(**(noise or {})), **knobs)


def at_step(k: int, steps: int) -> dict[str, Any]:
    """Flow-SDE knobs that make step k the stochastic one."""
    weights = tuple(float(i == k) for i in range(steps))
    return {"step_sampling": "weights", "step_weights": weights}


def a_head(spec: ActionSpec, pirl: PiRLConfig, *, width: int, seed: int = 1) -> NoiseHead | None:
    """The noise head a recipe needs, in fp64 for the reason of `MixingPolicy`; None with Flow-SDE."""
    if pirl.flow_noise is None:
        return None
    rng = torch.Generator().manual_seed(seed)
    return NoiseHead(
        feature_width=width, model_dim=spec.model_dim, settings=pirl.flow_noise, generator=rng
    ).double()


def generators(count: int, *, seed: int = 0) -> list[torch.Generator]:
    """One independent generator per row."""
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


class ToyPolicy:
    """What every toy shares: no real module, no trained parameters by name."""

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self.module: nn.Module = nn.Identity()
        self.device = torch.device("cpu")
        self.critic_width = 1
        self.primary_view_shape = (1, 1)


class MixingPolicy(ToyPolicy):
    """An MLP over the whole chunk, time and observation; blind to gripper channels, as X-VLA is.

    It computes in fp64: how a matrix product rounds depends on the number of rows and on the CPU,
    and at a std of 5 mm one fp32 ulp of a prediction moves a log-prob by more than 1e-5. What is
    left is the rounding of pirl's own fp32 chain.
    """

    feature_width = 8

    def __init__(self, spec: ActionSpec, *, seed: int = 0) -> None:
        super().__init__(spec)
        size = spec.chunk_size * spec.model_dim
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.Sequential(
                nn.Linear(size + 4, 32), nn.Tanh(), nn.Linear(32, size + spec.chunk_size * 8)
            ).double()

    def predict(self, context: Context, x: Tensor, t: Tensor) -> Prediction:
        seen = x.clone()
        seen[..., list(self.spec.hidden_gripper_dims)] = 0
        inputs = torch.cat([seen.flatten(1), t[:, None], context.tensors["proprio"]], dim=1)
        output = self.module(inputs.double())
        split = self.spec.chunk_size * self.spec.model_dim
        return Prediction(
            clean=output[:, :split].view(x.shape),
            features=output[:, split:].view(*x.shape[:2], 8),
        )


class GaussianDataPolicy(ToyPolicy):
    """The exact predictor E[a | x_t] of independent data N(mean, std^2)."""

    feature_width = 1

    def __init__(self, spec: ActionSpec, *, mean: float, std: float) -> None:
        super().__init__(spec)
        self.mean, self.std = mean, std

    def predict(self, context: Context, x: Tensor, t: Tensor) -> Prediction:
        clean = exact_clean(x, t[:, None, None], mean=self.mean, std=self.std)
        return Prediction(clean=clean, features=x[..., :1])


class AffinePolicy(ToyPolicy):
    """clean = b0 + b1 x + b2 t, elementwise; `shift` is added to the three parameters."""

    feature_width = 2

    def __init__(self, spec: ActionSpec, theta: Tensor) -> None:
        super().__init__(spec)
        self.theta = theta
        self.shift = torch.zeros_like(theta)

    def predict(self, context: Context, x: Tensor, t: Tensor) -> Prediction:
        theta = self.theta + self.shift
        clean = theta[0] + theta[1] * x + theta[2] * t[:, None, None]
        return Prediction(clean=clean, features=torch.ones_like(x[..., :1]).expand(-1, -1, 2))


def exact_clean(x: Tensor, t: Tensor | float, *, mean: float, std: float) -> Tensor:
    """Posterior mean of a ~ N(mean, std^2) given x = t noise + (1 - t) a."""
    t = torch.as_tensor(t, dtype=x.dtype)
    gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
    return mean + gain * (x - (1 - t) * mean)
