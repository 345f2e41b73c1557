"""The losses of piRL as plain functions of tensors: PPO surrogate, decoupled weight, value, k3.

Owns the formulas of `algorithm.md` 10 and 12; exact KL and entropy are in
`pirl.algorithm.log_prob`. Refuses to know networks, batches and optimisers. Read
`pirl.algorithm.update` next, where they are put together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Dual-clipped PPO loss per sample; the two flags mark where the gradient is zero."""

    loss: Float[Tensor, ...]
    ratio: Float[Tensor, ...]
    log_ratio: Float[Tensor, ...]
    clipped: Bool[Tensor, ...]
    dual_clipped: Bool[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BehaviourWeight:
    """Truncated importance weight between the proximal and the acting policy; no gradient."""

    weight: Float[Tensor, ...]
    admitted: Bool[Tensor, ...]
    """weight <= behave_weight_threshold; other samples are masked from the actor loss."""


def ppo_surrogate(
    log_prob: Float[Tensor, ...],
    *,
    proximal: Float[Tensor, ...],
    advantage: Float[Tensor, ...],
    clip_low: float,
    clip_high: float,
    clip_dual: float,
    log_ratio_clamp: float,
) -> Surrogate:
    """max(-A r, -A clip(r, 1 - low, 1 + high)), capped at clip_dual |A| where A < 0.

    r = exp(clamp(log_prob - proximal, +-log_ratio_clamp)). Source: `algorithm.md` 10.1.
    """
    log_ratio = (log_prob - proximal.detach()).clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    plain = -advantage * ratio
    bounded = -advantage * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    pessimistic = torch.maximum(plain, bounded)
    cap = clip_dual * advantage.abs()
    dual = (advantage < 0) & (pessimistic > cap)
    return Surrogate(
        loss=torch.where(advantage < 0, torch.minimum(pessimistic, cap), pessimistic),
        ratio=ratio.detach(),
        log_ratio=log_ratio.detach(),
        clipped=(bounded > plain).detach(),
        dual_clipped=dual.detach(),
    )


def behaviour_weight(
    proximal: Float[Tensor, ...],
    *,
    behaviour: Float[Tensor, ...],
    threshold: float,
    log_ratio_clamp: float,
) -> BehaviourWeight:
    """exp(proximal - behaviour), and where it is small enough to use (`algorithm.md` 12.1)."""
    gap = (proximal - behaviour).detach()
    weight = gap.clamp(-log_ratio_clamp, log_ratio_clamp).exp()
    return BehaviourWeight(weight=weight, admitted=weight <= threshold)


def interpolated_proximal(
    log_prob: Float[Tensor, ...],
    *,
    behaviour: Float[Tensor, ...],
    staleness: Int64[Tensor, ...],
) -> Float[Tensor, ...]:
    """behaviour + (d - 1) / d (log_prob - behaviour): the fallback without recomputation.

    Args:
        staleness: d = (learner version + 1) - acting version; 1 for fresh data.

    Source: `algorithm.md` 12.2.
    """
    d = staleness.to(log_prob.dtype).clamp(min=1.0)
    return (behaviour + (d - 1.0) / d * (log_prob.detach() - behaviour)).detach()


def value_loss(
    value: Float[Tensor, " B"],
    *,
    old_value: Float[Tensor, " B"],
    target: Float[Tensor, " B"],
    value_clip: float,
    huber_delta: float,
) -> Float[Tensor, " B"]:
    """max(huber(target - V), huber(target - V_clip)) per decision; V_clip stays near V_old."""
    clipped = old_value + (value - old_value).clamp(-value_clip, value_clip)
    return torch.maximum(
        F.huber_loss(value, target, reduction="none", delta=huber_delta),
        F.huber_loss(clipped, target, reduction="none", delta=huber_delta),
    )


def k3(log_ratio: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """exp(d) - 1 - d: unbiased, non-negative estimate of KL(old, new) per sample, nats."""
    return log_ratio.exp() - 1.0 - log_ratio


def rows_like(per_decision: Tensor, samples: Tensor) -> Tensor:
    """A per-decision tensor [B] shaped to broadcast against samples [B, ...]."""
    return per_decision.reshape(-1, *([1] * (samples.ndim - 1)))


def masked_sum(terms: Tensor, *, weight: Tensor, mask: Tensor) -> Tensor:
    """Sum of weight * terms where `mask`; masked entries may hold anything finite or not."""
    return torch.where(mask, weight * terms, torch.zeros_like(terms)).sum()
