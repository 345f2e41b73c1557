"""The diagonal Gaussian: log-density, entropy and divergence, element by element.

Owns these three formulas; every other module calls them. Refuses to know chains, masks and
policies. Read `pirl.algorithm.transition` next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pirl.errors import NumericsError

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianStep:
    """The law of x_{k+1} given x_k: independent per coordinate; std 0 means no noise there."""

    mean: Float[Tensor, "*shape"]
    std: Float[Tensor, "*shape"]


def log_density(
    value: Float[Tensor, "*shape"],
    law: GaussianStep,
    *,
    mask: Bool[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """log N(value; mean, std) in nats where `mask`, exactly 0 elsewhere; the dtype of `value`.

    Raises:
        NumericsError: a masked coordinate has no density (std is not positive), or the result is
        not
            finite; carries the index of the first offender.

    Source: `algorithm.md` 7.4.
    """
    # Outside the mask std may be 0; a dummy keeps both the value and its gradient finite there.
    std = torch.where(mask, law.std, torch.ones_like(law.std))
    scaled = (value - law.mean) / std
    result = torch.where(
        mask, -torch.log(std) - _HALF_LOG_2PI - 0.5 * scaled * scaled, torch.zeros_like(scaled)
    )
    finite = torch.isfinite(result) & (std > 0)
    if not bool(finite.all()):
        where = tuple(int(i) for i in (~finite).nonzero()[0])
        raise NumericsError(
            f"no finite log-density at index {where}: value {float(value[where]):.6g}, "
            f"mean {float(law.mean[where]):.6g}, std {float(law.std[where]):.6g}\n"
            "  expected: a positive std on every coordinate whose density is asked for\n"
            "  fix: a step without noise has no density; sample with noise or mask the coordinate"
        )
    return result


def entropy(std: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0.5 log(2 pi e std^2) in nats; std must be positive. Source: `algorithm.md` 6."""
    return torch.log(std) + _HALF_LOG_2PI + 0.5


def kl_divergence(law: GaussianStep, reference: GaussianStep) -> Float[Tensor, "*shape"]:
    """KL(law || reference) in nats; both stds must be positive.

    With equal stds this is (mean difference)^2 / (2 std^2). Source: `algorithm.md` 10.3.
    """
    ratio = law.std / reference.std
    scaled = (law.mean - reference.mean) / reference.std
    return 0.5 * (ratio * ratio + scaled * scaled - 1) - torch.log(ratio)
