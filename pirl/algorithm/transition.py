"""One denoising step as a Gaussian: the only place where a transition's mean and std are computed.

Owns the step tables of a recipe and the transition of `algorithm.md` 3.2 with both base samplers
(section 4) and the last-step rule (section 3.9). Refuses to know how steps are chosen, recorded or
scored. Read `pirl.algorithm.chain` next.

    x_{k+1} = (1 - t') clean + w n + s z,   n = carried noise (native) or noise estimate (Euler)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.algorithm.gaussian import GaussianStep
from pirl.algorithm.mask import (
    last_step_std,
    noise_coordinates,
    require_hidden_gripper,
)
from pirl.algorithm.schedule import flow_time, step_noise
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.errors import ConfigError, FieldError
from pirl.records import ActionSpec

FLOW_NOISE_REFERENCE_STD = 0.12
"""Middle of the published 0.08-0.16 range: the last step scales the learned std by std/0.12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTables:
    """Everything about the K steps of a recipe that does not depend on the network."""

    base_sampler: str
    """`native` or `euler`."""
    time: Float[Tensor, " K+1"]
    """t_0 = 1 .. t_K = 0."""
    clean_weight: Float[Tensor, " K"]
    """1 - t', subtracted in the chain's dtype as the stock sampler does."""
    noise_weight: Float[Tensor, "K C D"]
    """w of a stochastic step; t' on coordinates without noise."""
    std: Float[Tensor, "K C D"]
    """s of a stochastic step, 0 without noise; in Flow-Noise the factor on the learned std."""

    @property
    def num_steps(self) -> int:
        """K."""
        return len(self.clean_weight)


def build_tables(
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> StepTables:
    """Tables of a recipe for a policy's chunk shape.

    Raises:
        ConfigError: the variant's section is missing, or a method or rule is unknown.
        ContractError: `gripper_mode=bernoulli` on an action mode without gripper logits.

    Source: `algorithm.md` 3.2, 3.8 (channels without noise), 3.9 (last step), 6 (Flow-Noise).
    """
    require_hidden_gripper(spec, pirl)
    num_steps = spec.denoising_steps
    noised = noise_coordinates(spec, pirl)
    std_KD, weight_KD = _channel_noise(spec, pirl)
    time = torch.tensor([flow_time(k, num_steps) for k in range(num_steps + 1)], dtype=dtype)
    no_noise = time[1:, None, None].expand(noised.shape)
    if not pirl.is_flow_noise:
        weight = torch.where(noised, weight_KD.to(dtype)[:, None], no_noise)
    else:
        weight = no_noise.clone()
    return StepTables(
        base_sampler=pirl.base_sampler,
        time=time.to(device),
        clean_weight=(1 - time[1:]).to(device),
        noise_weight=weight.to(device),
        std=(std_KD.to(dtype)[:, None] * noised).to(device),
    )


def transition(
    tables: StepTables,
    *,
    step: Int64[Tensor, " B"],
    x: Float[Tensor, "B C D"],
    clean: Float[Tensor, "B C D"],
    carried: Float[Tensor, "B C D"],
    stochastic: Bool[Tensor, " B"] | None = None,
    learned_std: Float[Tensor, "B C D"] | None = None,
) -> GaussianStep:
    """Law of x_{k+1} given x_k, per batch row at its own step.

    Args:
        step: k of each row.
        x: x_k.
        clean: the network's predicted clean chunk at (x_k, t_k).
        carried: noise carried by the native sampler; read by the native base only.
        stochastic: rows whose step adds noise; None means all. The others take the sampler's own
        step
            (std 0, weight t').
        learned_std: Flow-Noise std before the last-step factor.

    Invariant: with std 0 the mean is bit-identical to the stock sampler's update (native base).
    """
    time = tables.time[step][:, None, None]
    next_time = tables.time[step + 1][:, None, None]
    weight = tables.noise_weight[step]
    std = tables.std[step]
    if learned_std is not None:
        std = std * learned_std
    if stochastic is not None:
        adds_noise = stochastic[:, None, None]
        weight = torch.where(adds_noise, weight, next_time)
        std = torch.where(adds_noise, std, torch.zeros_like(std))
    # Euler base: the noise estimate of an x-prediction network; t_k is at least 1/K.
    is_native = tables.base_sampler == "native"
    direction = carried if is_native else (x - (1 - time) * clean) / time
    mean = tables.clean_weight[step][:, None, None] * clean + weight * direction
    return GaussianStep(mean=mean, std=std)


def refresh_carried(
    tables: StepTables,
    *,
    step: int,
    x_next: Float[Tensor, "B C D"],
    clean: Float[Tensor, "B C D"],
    carried: Float[Tensor, "B C D"],
    std: Float[Tensor, "B C D"],
) -> Float[Tensor, "B C D"]:
    """Noise carried after `step`: what makes the drawn x_{k+1} a point on the native path again.

    Without it the next native step forgets the perturbation. Coordinates with std 0 keep theirs,
    bit for bit. Not for Flow-Noise, whose state is (o, x_k, x_0), and not after the last step.

    Source: `algorithm.md` 4.4.
    """
    refreshed = (x_next - tables.clean_weight[step] * clean) / tables.time[step + 1]
    return torch.where(std > 0, refreshed, carried)


def flow_sde_settings(pirl: PiRLConfig) -> FlowSDEConfig:
    """The Flow-SDE section. Raises ConfigError when the recipe has none."""
    if pirl.flow_sde is None:
        raise _missing_section("pirl.flow_sde")
    return pirl.flow_sde


def flow_noise_settings(pirl: PiRLConfig) -> FlowNoiseConfig:
    """The Flow-Noise section. Raises ConfigError when the recipe has none."""
    if pirl.flow_noise is None:
        raise _missing_section("pirl.flow_noise")
    return pirl.flow_noise


def _channel_noise(spec: ActionSpec, pirl: PiRLConfig) -> tuple[Tensor, Tensor]:
    """(s, w) of a stochastic step on noised coordinates, each [K, D], fp64."""
    num_steps = spec.denoising_steps
    std = torch.ones(num_steps, spec.model_dim, dtype=torch.float64)
    weight = torch.zeros_like(std)
    if not pirl.is_flow_noise:
        sde = flow_sde_settings(pirl)
        for k in range(num_steps):
            noise = step_noise(
                k,
                num_steps,
                method=sde.noise_method,
                noise_level=sde.noise_level,
                w_rule=sde.w_rule,
            )
            std[k], weight[k] = noise.std, noise.weight
    if pirl.last_step_rule == "additive":
        # Mean exactly the prediction (t' = 0, w = 0), std in action units.
        scale = FLOW_NOISE_REFERENCE_STD if pirl.is_flow_noise else 1.0
        std[-1] = last_step_std(spec, pirl.last_step_std) / scale
        weight[-1] = 0.0
    return std, weight


def _missing_section(name: str) -> ConfigError:
    error = FieldError(
        field=name,
        value=None,
        expected="the section of the chosen variant",
        fix=f"add {name} to the config, or choose the other pirl.variant",
    )
    return ConfigError([error])
