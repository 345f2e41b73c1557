"""The total loss of piRL for some decisions of a prepared batch.

Owns `algorithm.md` 10.4: how surrogate, value loss, entropy and reference KL are put together and
divided. Refuses to know the loop around it. Read `pirl.algorithm.update` next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.algorithm.log_prob import ReplayedLogProb, reduce_log_prob, step_kl
from pirl.algorithm.loss import (
    BehaviourWeight,
    Surrogate,
    behaviour_weight,
    interpolated_proximal,
    masked_sum,
    ppo_surrogate,
    rows_like,
    value_loss,
)
from pirl.algorithm.networks import Networks, replay
from pirl.algorithm.prepare import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Denominators of a minibatch, so that micro-batch gradients add up to its exact gradient."""

    samples: float
    decisions: float
    critic: float

    @staticmethod
    def of(prepared: Prepared, rows: Int64[Tensor, " M"]) -> Counts:
        """Counts of the decisions `rows`."""
        mask = prepared.sample_mask[rows]
        return Counts(
            samples=max(1.0, float(mask.sum())),
            decisions=max(1.0, float(mask.flatten(1).any(dim=1).sum())),
            critic=max(1.0, float((prepared.critic_weight[rows] > 0).sum())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorTerms:
    """The actor's part of a micro-batch, with what diagnostics and checks need of it."""

    policy: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    kl_reference: Float[Tensor, ""]
    replayed: Float[Tensor, "M ..."]
    """Log-prob samples, nats, detached."""
    surrogate: Surrogate
    weight: BehaviourWeight
    mask: Bool[Tensor, "M ..."]
    """Samples that count, before `behave_weight_threshold`."""
    noise_std: float
    """Mean std of the counted elements, flow units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The terms of one micro-batch, already divided by the counts of the whole minibatch."""

    value: Float[Tensor, ""]
    total: Float[Tensor, ""]
    actor: ActorTerms | None
    """None when the actor was left out."""

    def terms(self) -> dict[str, Tensor]:
        """The scalar terms by metric name."""
        named = {"value_loss": self.value, "total_loss": self.total}
        if self.actor is not None:
            named |= {
                "policy_loss": self.actor.policy,
                "entropy": self.actor.entropy,
                "kl_reference": self.actor.kl_reference,
            }
        return named


def minibatch_losses(
    nets: Networks,
    prepared: Prepared,
    rows: Int64[Tensor, " M"],
    *,
    live: Bool[Tensor, " M"],
    counts: Counts,
    with_actor: bool = True,
) -> Losses:
    """L_actor + value_coef L_V - entropy_bonus H + kl_beta KL (`algorithm.md` 10.4, without BC)."""
    pirl = nets.pirl
    value = torch.zeros((), device=prepared.lag.device)
    if nets.critic is not None:
        per_decision = value_loss(
            nets.critic(prepared.critic_inputs[rows]),
            old_value=prepared.old_value[rows],
            target=prepared.target[rows],
            value_clip=pirl.value_clip,
            huber_delta=pirl.huber_delta,
        )
        weight = prepared.critic_weight[rows] / counts.critic
        value = masked_sum(per_decision, weight=weight, mask=live)
    total = pirl.value_coef * value
    if not with_actor:
        return Losses(value=value, total=total, actor=None)
    actor = actor_terms(nets, prepared, rows, live=live, counts=counts)
    total = total + actor.policy - pirl.entropy_bonus * actor.entropy
    total = total + pirl.kl_beta * actor.kl_reference
    return Losses(value=value, total=total, actor=actor)


def actor_terms(
    nets: Networks,
    prepared: Prepared,
    rows: Int64[Tensor, " M"],
    *,
    live: Bool[Tensor, " M"],
    counts: Counts,
) -> ActorTerms:
    """Surrogate, entropy and reference KL of `rows` (`algorithm.md` 10.1, 10.3, 12.1)."""
    pirl = nets.pirl
    replayed = replay(
        nets, prepared.context, prepared.fields, rows=rows, observation=prepared.observation
    )
    log_prob = reduce_log_prob(
        replayed.log_prob, mask=replayed.mask, level=pirl.logprob_level
    ).value
    behaviour = prepared.behaviour[rows]
    if prepared.proximal is not None:
        anchor = prepared.proximal[rows]
    else:
        staleness = rows_like(prepared.lag[rows] + 1, behaviour)
        anchor = interpolated_proximal(log_prob, behaviour=behaviour, staleness=staleness)
    mask = prepared.sample_mask[rows] & rows_like(live, behaviour)
    surrogate = ppo_surrogate(
        log_prob,
        proximal=anchor,
        advantage=rows_like(prepared.advantage[rows], log_prob),
        clip_low=pirl.clip_low,
        clip_high=pirl.clip_high,
        clip_dual=pirl.clip_dual,
        log_ratio_clamp=pirl.log_ratio_clamp,
    )
    weight = behaviour_weight(
        anchor,
        behaviour=behaviour,
        threshold=pirl.behave_weight_threshold,
        log_ratio_clamp=pirl.log_ratio_clamp,
    )
    trajectory = rows_like(prepared.actor_weight[rows], log_prob)
    decision = mask.flatten(1).any(dim=1)
    per_decision = prepared.actor_weight[rows] / counts.decisions
    kl = torch.zeros_like(per_decision)
    if prepared.reference_mean is not None:
        # The reference keeps the current std: the exact KL of equal-std Gaussians (section 10.3).
        reference = replace(replayed, mean=prepared.reference_mean[rows], std=replayed.std.detach())
        kl = step_kl(replayed, reference).sum(dim=1)
    return ActorTerms(
        policy=masked_sum(
            surrogate.loss, weight=weight.weight * trajectory, mask=mask & weight.admitted
        )
        / counts.samples,
        entropy=masked_sum(replayed.entropy.mean(dim=1), weight=per_decision, mask=decision),
        kl_reference=masked_sum(kl, weight=per_decision, mask=decision),
        replayed=log_prob.detach(),
        surrogate=surrogate,
        weight=weight,
        mask=mask,
        noise_std=_mean_std(replayed, live),
    )


def _mean_std(replayed: ReplayedLogProb, live: Bool[Tensor, " M"]) -> float:
    """Mean std over counted elements of live rows; 0 when nothing counts."""
    chosen = replayed.step_mask & rows_like(live, replayed.step_mask)
    if not bool(chosen.any()):
        return 0.0
    return float(replayed.std.detach()[chosen].double().mean())
