"""Flow times and the scalar noise of each denoising step, in closed form.

Owns t_k, s_k and w_k of `algorithm.md` 3.2 and 3.5. Refuses to know tensors, channels and policies.
Read `pirl.algorithm.mask` next.

Flow time runs from 1 (noise) to 0 (data): step k maps x_k at t_k = 1 - k/K to x_{k+1} at t_{k+1}.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pirl.errors import ConfigError, FieldError

NOISE_METHODS = ("ode", "flow_sde", "flow_cps")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNoise:
    """Scalars of one transition: x_{k+1} = (1 - t') clean + weight * direction + std * z."""

    std: float
    """s_k, in flow units."""
    weight: float
    """w_k; equals t' when the step adds no noise, negative at the last Flow-SDE step."""


def flow_time(step: int, num_steps: int) -> float:
    """t_k, written as a ratio of integers so that it rounds as the stock sampler's does."""
    return (num_steps - step) / num_steps


def step_noise(
    step: int, num_steps: int, *, method: str, noise_level: float, w_rule: str = "sde"
) -> StepNoise:
    """Noise of denoising step `step` of `num_steps`.

    Flow-SDE: s = sigma_t sqrt(1/K), sigma_t = a sqrt(t / (1 - t)), where the infinite value at t =
    1 takes 1 - t_1 in the denominator (the clamp of Flow-GRPO and RLinf). The closed forms below
    include it. Flow-CPS: s = t' sin(pi a / 2), w = t' cos(pi a / 2).

    Args:
        step: k in 0..K-1.
        num_steps: K.
        method: one of `NOISE_METHODS`.
        noise_level: a; unitless.
        w_rule: `sde` (drift of the SDE) or `vp` (carried noise keeps unit variance), Flow-SDE only.

    Raises:
        ConfigError: unknown method or rule.

    Source: `algorithm.md` 3.2, 3.4, 3.5, 3.10; piRL (arXiv 2510.25889) eq. 7-9 with time reversed.
    """
    next_time = flow_time(step + 1, num_steps)
    if method == "ode":
        return StepNoise(std=0.0, weight=next_time)
    if method == "flow_cps":
        angle = math.pi * noise_level / 2
        return StepNoise(std=next_time * math.sin(angle), weight=next_time * math.cos(angle))
    if method != "flow_sde":
        raise _unknown("pirl.flow_sde.noise_method", method, NOISE_METHODS)
    if step == 0:
        # sigma_0 = a sqrt(K) by the clamp, hence s_0 = a for every K.
        std, drift = noise_level, noise_level**2 / 2
    else:
        std = noise_level * math.sqrt((num_steps - step) / (step * num_steps))
        drift = noise_level**2 / (2 * step)
    if w_rule == "sde":
        return StepNoise(std=std, weight=next_time - drift)
    if w_rule == "vp":
        return StepNoise(std=std, weight=math.sqrt(max(next_time**2 - std**2, 0.0)))
    raise _unknown("pirl.flow_sde.w_rule", w_rule, ("sde", "vp"))


def _unknown(name: str, value: str, allowed: tuple[str, ...]) -> ConfigError:
    error = FieldError(
        field=name,
        value=value,
        expected=f"one of {', '.join(allowed)}",
        fix=f"set {name} to one of them",
    )
    return ConfigError([error])
