"""One learner iteration of piRL, top to bottom: check, epochs of minibatches, critic epochs.

Owns the total loss of `algorithm.md` 10.4 and the loop of 14.1. Refuses to know where decisions
come from and who gets the weights. Symbols: r ratio, A advantage, w_b behaviour weight, V value.
Read `pirl.algorithm.pi_rl` next, which gives this loop LeRobot's interface.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.optim import AdamW

from pirl.algorithm import checks
from pirl.algorithm.checks import Parity
from pirl.algorithm.critic import ValueBuffer, ValueTargets
from pirl.algorithm.diagnostics import RatioStats
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
from pirl.algorithm.optim import ACTOR_GROUPS, clip_gradients, drop_gradients, group_parameters
from pirl.algorithm.prepare import Networks, Prepared, micro_batches, replay
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.config.recipe import PiRLConfig
from pirl.errors import NumericsError

DemoBatches = Iterator[Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tolerances of the live checks."""

    parity: float
    """Nats."""
    ratio: float


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


@dataclass(slots=True, kw_only=True)
class UpdateStats:
    """What one update did, for metrics and for the adaptive rate."""

    losses: dict[str, float] = field(default_factory=dict[str, float])
    grad_norms: dict[str, float] = field(default_factory=dict[str, float])
    ratio: RatioStats = field(default_factory=RatioStats)
    first: RatioStats = field(default_factory=RatioStats)
    """The first minibatch, before any optimiser step."""
    parity: Parity = field(default_factory=lambda: Parity(max_abs=0.0, mean_abs=0.0, decisions=0))
    last_epoch: RatioStats = field(default_factory=RatioStats)
    """How far the policy moved: the last epoch only."""
    minibatches: int = 0
    optimiser_steps: int = 0
    epochs: int = 0
    value_epoch_loss: float | None = None
    noise_std: list[float] = field(default_factory=list[float])

    def add_losses(self, losses: Losses, *, train_actor: bool) -> None:
        """Add the terms of one micro-batch; actor terms only where they train."""
        for name, value in losses.terms().items():
            if train_actor or name == "value_loss":
                self.losses[name] = self.losses.get(name, 0.0) + float(value.detach())

    def add_noise_std(self, noise_std: float) -> None:
        """Remember the mean std of one micro-batch."""
        self.noise_std.append(noise_std)

    @property
    def approx_kl(self) -> float | None:
        """Mean k3 over the last epoch, nats; None when the actor did not train."""
        return self.last_epoch.approx_kl if self.last_epoch.samples else None


def update(
    nets: Networks,
    prepared: Prepared,
    *,
    optimizer: AdamW,
    buffer: ValueBuffer,
    pirl: PiRLConfig,
    seed: int,
    limits: Limits,
    train_actor: bool,
    demos: DemoBatches | None,
) -> UpdateStats:
    """Train on one prepared batch, in place.

    Raises:
        NumericsError: parity or the first ratio is off (no weight has changed then), or a loss,
            gradient or parameter is not finite.

    Source: `algorithm.md` 14.1.
    """
    stats = UpdateStats()
    everything = torch.arange(len(prepared), device=prepared.lag.device)
    if prepared.proximal is not None:
        stats.parity = checks.require_parity(
            nets, prepared, prepared.proximal, rows=everything, pirl=pirl, tolerance=limits.parity
        )
    for epoch in range(pirl.update_epochs):
        rng = seeded_generator(seed, Stream.MINIBATCH, prepared.version, epoch)
        stats.last_epoch = RatioStats()
        stop = False
        for rows in minibatches(len(prepared), size=pirl.global_batch, generator=rng):
            optimizer.zero_grad(set_to_none=True)
            if train_actor and demos is not None:
                _backward_demos(
                    nets,
                    demos,
                    optimizer,
                    len(rows),
                    pirl=pirl,
                    stats=stats,
                    seed=(seed, prepared.version),
                )
            ratio = _backward_minibatch(
                nets,
                prepared,
                rows.to(prepared.lag.device),
                pirl=pirl,
                train_actor=train_actor,
                limits=limits if stats.minibatches == 0 else None,
                stats=stats,
            )
            stats.minibatches += 1
            stop = train_actor and _beyond_target(ratio, pirl)
            if stop:
                break
            if not train_actor or (ratio.samples == 0 and demos is None):
                drop_gradients(group_parameters(optimizer, ACTOR_GROUPS))
            _step(nets, optimizer, pirl=pirl, stats=stats)
        stats.epochs = epoch + 1
        if stop:
            break
    _critic_epochs(nets, prepared, optimizer, buffer, pirl=pirl, seed=seed, stats=stats)
    optimizer.zero_grad(set_to_none=True)
    checks.require_finite(nets.parameters(), what="parameter")
    return stats


def minibatches(
    count: int, *, size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " M"], ...]:
    """All rows in random order, in the fewest parts of at most `size`, equal to within one row."""
    order = torch.randperm(count, generator=generator)
    return order.tensor_split(max(1, math.ceil(count / size)))


def actor_terms(
    nets: Networks,
    prepared: Prepared,
    rows: Int64[Tensor, " M"],
    *,
    live: Bool[Tensor, " M"],
    counts: Counts,
    pirl: PiRLConfig,
) -> ActorTerms:
    """Surrogate, entropy and reference KL of `rows` (`algorithm.md` 10.1, 10.3, 12.1)."""
    replayed = replay(nets, prepared.context, prepared.fields, rows=rows, pirl=pirl)
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


def minibatch_losses(
    nets: Networks,
    prepared: Prepared,
    rows: Int64[Tensor, " M"],
    *,
    live: Bool[Tensor, " M"],
    counts: Counts,
    pirl: PiRLConfig,
    with_actor: bool = True,
) -> Losses:
    """L_actor + value_coef L_V - entropy_bonus H + kl_beta KL (`algorithm.md` 10.4, without BC)."""
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
    actor = actor_terms(nets, prepared, rows, live=live, counts=counts, pirl=pirl)
    total = total + actor.policy - pirl.entropy_bonus * actor.entropy
    total = total + pirl.kl_beta * actor.kl_reference
    return Losses(value=value, total=total, actor=actor)


def _backward_minibatch(
    nets: Networks,
    prepared: Prepared,
    rows: Int64[Tensor, " M"],
    *,
    pirl: PiRLConfig,
    train_actor: bool,
    limits: Limits | None,
    stats: UpdateStats,
) -> RatioStats:
    """Accumulate the exact gradient of the minibatch `rows`; with `limits`, check it first."""
    counts = Counts.of(prepared, rows)
    ratio, anchored = RatioStats(), RatioStats()
    for micro in micro_batches(rows, size=pirl.micro_batch):
        losses = minibatch_losses(
            nets,
            prepared,
            micro.rows,
            live=micro.live,
            counts=counts,
            pirl=pirl,
            with_actor=train_actor or limits is not None,
        )
        actor = losses.actor
        if actor is not None:
            ratio.add(actor.surrogate, actor.weight, mask=actor.mask)
            stats.add_noise_std(actor.noise_std)
        if actor is not None and limits is not None:
            if prepared.proximal is None:
                live = slice(0, micro.num_live)
                parity = checks.require_parity(
                    nets,
                    prepared,
                    actor.replayed[live],
                    rows=micro.rows[live],
                    pirl=pirl,
                    tolerance=limits.parity,
                )
                stats.parity = stats.parity.merge(parity)
            # An interpolated anchor of a stale decision moves with the weights: no claim about it.
            fresh = rows_like(prepared.lag[micro.rows] == 0, actor.mask)
            exact = actor.mask if prepared.proximal is not None else actor.mask & fresh
            anchored.add(actor.surrogate, actor.weight, mask=exact)
        checks.require_finite(losses.terms(), what="loss")
        stats.add_losses(losses, train_actor=train_actor)
        if losses.total.requires_grad:
            losses.total.backward()
    if limits is not None:
        checks.require_ratio_one(anchored, tolerance=limits.ratio)
        stats.first = ratio
    if train_actor:
        stats.ratio.merge(ratio)
        stats.last_epoch.merge(ratio)
    return ratio


def _backward_demos(
    nets: Networks,
    demos: DemoBatches,
    optimizer: AdamW,
    count: int,
    *,
    pirl: PiRLConfig,
    seed: tuple[int, int],
    stats: UpdateStats,
) -> None:
    """Gradient of bc_weight L_bc, one demonstration batch per micro-batch (`algorithm.md` 10.5)."""
    batches = math.ceil(count / pirl.micro_batch)
    for index in range(batches):
        position = stats.minibatches * batches + index
        rng = seeded_generator(seed[0], Stream.DEMO_NOISE, seed[1], position)
        loss = nets.policy.demo_loss(next(demos), rng=rng) / batches
        checks.require_finite({"bc_loss": loss}, what="loss")
        for name, weight in (("bc_loss", 1.0), ("total_loss", pirl.bc_weight)):
            term = weight * float(loss.detach())
            stats.losses[name] = stats.losses.get(name, 0.0) + term
        (pirl.bc_weight * loss).backward()
    actor = group_parameters(optimizer, ACTOR_GROUPS)
    norm = torch.nn.utils.get_total_norm([p.grad for p in actor if p.grad is not None])
    stats.grad_norms["bc"] = stats.grad_norms.get("bc", 0.0) + float(norm)


def _beyond_target(ratio: RatioStats, pirl: PiRLConfig) -> bool:
    """Whether the epoch loop ends before this step; `kl_adaptive` steers by the target instead."""
    if pirl.target_kl is None or pirl.lr_schedule == "kl_adaptive":
        return False
    return ratio.approx_kl > pirl.target_kl


def _step(nets: Networks, optimizer: AdamW, *, pirl: PiRLConfig, stats: UpdateStats) -> None:
    """Clip per group, refuse gradients that are not finite, take one AdamW step."""
    norms = clip_gradients(optimizer, limit=pirl.grad_clip)
    if not all(math.isfinite(norm) for norm in norms.values()):
        checks.require_finite(nets.gradients(), what="gradient of")
        raise NumericsError(f"gradient norm overflows although every gradient is finite: {norms}")
    for name, norm in norms.items():
        stats.grad_norms[name] = stats.grad_norms.get(name, 0.0) + norm
    optimizer.step()
    stats.optimiser_steps += 1


def _critic_epochs(
    nets: Networks,
    prepared: Prepared,
    optimizer: AdamW,
    buffer: ValueBuffer,
    *,
    pirl: PiRLConfig,
    seed: int,
    stats: UpdateStats,
) -> None:
    """Critic-only epochs over the targets of the last updates; off with `value_epochs=0`."""
    if nets.critic is None or pirl.value_epochs == 0:
        return
    buffer.add(
        ValueTargets(
            inputs=prepared.critic_inputs, target=prepared.target, weight=prepared.critic_weight
        )
    )
    data = buffer.all()
    total, steps = 0.0, 0
    for epoch in range(pirl.value_epochs):
        rng = seeded_generator(seed, Stream.VALUE_MINIBATCH, prepared.version, epoch)
        for part in minibatches(len(data.target), size=pirl.global_batch, generator=rng):
            rows = part.to(data.target.device)
            optimizer.zero_grad(set_to_none=True)
            error = F.huber_loss(
                nets.critic(data.inputs[rows]),
                data.target[rows],
                reduction="none",
                delta=pirl.huber_delta,
            )
            loss = (data.weight[rows] * error).mean()
            checks.require_finite({"value_epoch_loss": loss}, what="loss")
            loss.backward()
            clip_gradients(optimizer, limit=pirl.grad_clip)
            optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
    stats.optimiser_steps += steps
    stats.value_epoch_loss = total / steps


def _mean_std(replayed: ReplayedLogProb, live: Bool[Tensor, " M"]) -> float:
    """Mean std over counted elements of live rows; 0 when nothing counts."""
    chosen = replayed.step_mask & rows_like(live, replayed.step_mask)
    if not bool(chosen.any()):
        return 0.0
    return float(replayed.std.detach()[chosen].double().mean())
