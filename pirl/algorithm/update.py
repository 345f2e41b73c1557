"""One learner iteration of piRL, top to bottom: check, epochs of minibatches, critic epochs.

Owns the loop of `algorithm.md` 14.1; the loss is in `pirl.algorithm.objective`, what stays fixed in
`pirl.algorithm.prepare`, what several processes do together in `pirl.algorithm.replicas`. Refuses to
know where decisions come from and who gets the weights. Read `pirl.algorithm.pi_rl` next, which gives
this loop LeRobot's interface.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor
from torch.optim import AdamW

from pirl.algorithm import checks
from pirl.algorithm.critic import Critic, ValueBuffer, ValueTargets
from pirl.algorithm.demonstrations import Imitation, demo_rows
from pirl.algorithm.diagnostics import Parity, RatioStats, UpdateStats
from pirl.algorithm.loss import rows_like
from pirl.algorithm.networks import Networks, micro_batches
from pirl.algorithm.objective import Counts, minibatch_losses
from pirl.algorithm.optim import ACTOR_GROUPS, clip_gradients, drop_gradients, group_parameters
from pirl.algorithm.prepare import Prepared
from pirl.algorithm.replicas import Replicas, agreed, gathered, most_owned, owned_among
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.config.recipe import PiRLConfig
from pirl.errors import NumericsError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tolerances of the live checks."""

    parity: float
    """Nats."""
    ratio: float


@dataclass(slots=True, kw_only=True)
class Iteration:
    """One learner iteration: what it trains, on what and with whom, and what came of it."""

    nets: Networks
    prepared: Prepared
    optimizer: AdamW
    buffer: ValueBuffer
    seed: int
    limits: Limits
    train_actor: bool
    """False once there is nothing to learn from."""
    imitation: Imitation | None
    replicas: Replicas
    stats: UpdateStats = field(default_factory=UpdateStats)

    def run(self) -> UpdateStats:
        """Train on the prepared batch, in place; the actor only if there is something to learn.

        AdamW takes the same step for a gradient of any scale, so dividing advantages by a floor does
        not bound what a batch without credit does: without demonstrations the actor takes no step.

        With several processes each has called `prepare` on the same batch and takes the same steps: what
        decides a branch is put together first, and so are gradients before they are clipped.

        Raises:
            ParityError: recorded log-probs do not follow from their decisions; nothing has changed then,
                and an update without those episodes may follow.
            NumericsError: the first ratio is off (no weight has changed then), or a loss, gradient or
                parameter is not finite.

        Source: `algorithm.md` 9.4, 14.1.
        """
        self._look_for_credit()
        self._check_parity()
        for epoch in range(self.nets.pirl.update_epochs):
            stop = self._epoch(epoch)
            self.stats.epochs = epoch + 1
            if stop:
                break
        self._critic_epochs()
        self.stats.put_together(self.replicas.exchange(self.stats.shared()))
        self.optimizer.zero_grad(set_to_none=True)
        checks.require_finite(self.nets.parameters(), what="parameter")
        return self.stats

    def _look_for_credit(self) -> None:
        """Leave the actor where no process found anything to learn from, unless it imitates."""
        prepared, imitation = self.prepared, self.imitation
        if any(self.replicas.exchange(prepared.floored)):
            logger.warning(
                "version %d: advantages of %d decisions have std %.3g, below pirl.adv_std_floor=%g: "
                "nothing to learn from, %s",
                prepared.version,
                len(prepared),
                prepared.metrics["advantage_std"],
                self.nets.pirl.adv_std_floor,
                "the actor takes no step" if imitation is None else "demonstrations outweigh them",
            )
            self.train_actor = self.train_actor and imitation is not None

    def _check_parity(self) -> None:
        """Compare all own decisions with what was recorded, where `prepare` replayed them."""
        prepared = self.prepared
        if prepared.proximal is None:
            return
        replayed = prepared.proximal[prepared.own]
        parity = gathered(self.replicas, lambda: asdict(self._parity(replayed, rows=prepared.own)))
        self.stats.parity = Parity.together(parity)

    def _parity(self, replayed: Tensor, *, rows: Tensor) -> Parity:
        return checks.require_parity(
            self.nets, self.prepared, replayed, rows=rows, tolerance=self.limits.parity
        )

    def _epoch(self, epoch: int) -> bool:
        """Every minibatch once; True when the KL target ends the loop before a step."""
        nets, prepared, imitation, stats = self.nets, self.prepared, self.imitation, self.stats
        rng = seeded_generator(self.seed, Stream.MINIBATCH, prepared.version, epoch)
        stats.last_epoch = RatioStats()
        parts = minibatches(len(prepared), size=nets.pirl.global_batch, generator=rng)
        for number, rows in enumerate(parts):
            self.optimizer.zero_grad(set_to_none=True)
            if self.train_actor and imitation is not None:
                self._backward_demos(
                    imitation, len(rows), position=(prepared.version, epoch, number)
                )
            ratio = self._backward(rows.to(prepared.lag.device), check=stats.minibatches == 0)
            stats.minibatches += 1
            if self.train_actor and self._is_beyond_target(ratio):
                return True
            moved: tuple[str, ...] = (*ACTOR_GROUPS, "critic")
            if not self.train_actor or (ratio.samples == 0 and imitation is None):
                drop_gradients(group_parameters(self.optimizer, ACTOR_GROUPS))
                moved = ("critic",)
            self.replicas.sum_gradients(group_parameters(self.optimizer, moved))
            self._step()
        return False

    def _backward(self, rows: Int64[Tensor, " M"], *, check: bool) -> RatioStats:
        """Accumulate the exact gradient of the minibatch `rows`; with `check`, look whether ratios are one.

        The gradient is this process's share of it, the ratios are those of all of them.
        """
        prepared, replicas, stats = self.prepared, self.replicas, self.stats
        work = partial(
            self._backward_own,
            owned_among(replicas, rows),
            counts=Counts.of(prepared, rows),
            passes=-(-most_owned(replicas, rows) // prepared.micro_size),
            check=check,
        )
        told = gathered(replicas, work)
        ratio = RatioStats.together([one["ratio"] for one in told])
        if check:
            if prepared.proximal is None:
                stats.parity = Parity.together([one["parity"] for one in told])
            anchored = RatioStats.together([one["anchored"] for one in told])
            checks.require_ratio_one(anchored, tolerance=self.limits.ratio)
            stats.first = ratio
        if self.train_actor:
            stats.ratio.merge(ratio)
            stats.last_epoch.merge(ratio)
        return ratio

    def _backward_own(
        self, rows: Int64[Tensor, " m"], *, counts: Counts, passes: int, check: bool
    ) -> dict[str, Any]:
        """Accumulate the gradient of `rows`, which this process owns, in `passes` micro-batches.

        Returns:
            Ratios, those that must be one before the first step, and parity, as JSON values.
        """
        nets, prepared, stats = self.nets, self.prepared, self.stats
        ratio, anchored = RatioStats(), RatioStats()
        parity = Parity(max_abs=0.0, mean_abs=0.0, decisions=0)
        filler = (rows if len(rows) else prepared.own)[:1]
        for micro in micro_batches(rows, size=prepared.micro_size, at_least=passes, filler=filler):
            losses = minibatch_losses(
                nets,
                prepared,
                micro.rows,
                live=micro.live,
                counts=counts,
                with_actor=self.train_actor or check,
            )
            actor = losses.actor
            if actor is not None:
                ratio.add(actor.surrogate, actor.weight, mask=actor.mask)
                if micro.num_live:
                    stats.add_noise_std(actor.noise_std)
            if actor is not None and check:
                if prepared.proximal is None:
                    live = slice(0, micro.num_live)
                    found = self._parity(actor.replayed[live], rows=micro.rows[live])
                    parity = parity.merge(found)
                # An interpolated anchor of a stale decision moves with the weights: no claim about it.
                fresh = rows_like(prepared.lag[micro.rows] == 0, actor.mask)
                exact = actor.mask if prepared.proximal is not None else actor.mask & fresh
                anchored.add(actor.surrogate, actor.weight, mask=exact)
            checks.require_finite(losses.terms(), what="loss")
            stats.add_losses(losses.terms(), train_actor=self.train_actor)
            if losses.total.requires_grad:
                losses.total.backward()
        return {"ratio": asdict(ratio), "anchored": asdict(anchored), "parity": asdict(parity)}

    def _backward_demos(
        self, imitation: Imitation, count: int, *, position: tuple[int, int, int]
    ) -> None:
        """Gradient of weight L_bc, over as many demonstration rows as the minibatch has decisions (10.5).

        In batches of at most `micro_batch` rows, of which each process reads and computes every W-th: what is
        drawn does not depend on W.

        Args:
            position: version, epoch, minibatch of the epoch; with `seed` all that the draws depend on.
        """
        nets, replicas, stats, seed = self.nets, self.replicas, self.stats, self.seed
        version, epoch, minibatch = position
        chosen = demo_rows(
            len(imitation.demos),
            count,
            seed=seed,
            version=version,
            epoch=epoch,
            minibatch=minibatch,
        )

        def work() -> None:
            for index, rows in enumerate(chosen.split(nets.pirl.micro_batch)):
                if index % replicas.size != replicas.rank:
                    continue
                rng = seeded_generator(seed, Stream.DEMO_NOISE, *position, index)
                batch = imitation.demos.batch(rows)
                loss = nets.policy.demo_loss(batch, rng=rng) * (len(rows) / count)
                checks.require_finite({"bc_loss": loss}, what="loss")
                for name, weight in (("bc_loss", 1.0), ("total_loss", imitation.weight)):
                    term = weight * float(loss.detach())
                    stats.losses[name] = stats.losses.get(name, 0.0) + term
                (imitation.weight * loss).backward()

        agreed(replicas, work)
        actor = group_parameters(self.optimizer, ACTOR_GROUPS)
        # Before the minibatch adds to it: the norm of this term alone is a metric.
        replicas.sum_gradients(actor)
        norm = torch.nn.utils.get_total_norm([p.grad for p in actor if p.grad is not None])
        stats.grad_norms["bc"] = stats.grad_norms.get("bc", 0.0) + float(norm)
        if replicas.rank > 0:
            # Summed already; one process carries it into the sum of the minibatch.
            drop_gradients(actor)

    def _is_beyond_target(self, ratio: RatioStats) -> bool:
        """Whether the epoch loop ends before this step; `kl_adaptive` steers by the target instead."""
        pirl = self.nets.pirl
        if pirl.target_kl is None or pirl.lr_schedule == "kl_adaptive":
            return False
        return ratio.approx_kl > pirl.target_kl

    def _step(self) -> None:
        """Clip per group, refuse gradients that are not finite, take one AdamW step."""
        stats = self.stats
        norms = clip_gradients(self.optimizer, limit=self.nets.pirl.grad_clip)
        if not all(math.isfinite(norm) for norm in norms.values()):
            checks.require_finite(self.nets.gradients(), what="gradient of")
            raise NumericsError(
                f"gradient norm overflows although every gradient is finite: {norms}"
            )
        for name, norm in norms.items():
            stats.grad_norms[name] = stats.grad_norms.get(name, 0.0) + norm
        self.optimizer.step()
        stats.optimiser_steps += 1

    def _critic_epochs(self) -> None:
        """Critic-only epochs over the targets of the last updates; off with `value_epochs=0`."""
        nets, prepared, optimizer, stats = self.nets, self.prepared, self.optimizer, self.stats
        pirl, replicas = nets.pirl, self.replicas
        if nets.critic is None or pirl.value_epochs == 0:
            return
        self.buffer.add(
            ValueTargets(
                inputs=prepared.critic_inputs, target=prepared.target, weight=prepared.critic_weight
            )
        )
        data = self.buffer.all()
        total, steps = 0.0, 0
        for epoch in range(pirl.value_epochs):
            rng = seeded_generator(self.seed, Stream.VALUE_MINIBATCH, prepared.version, epoch)
            for part in minibatches(len(data.target), size=pirl.global_batch, generator=rng):
                optimizer.zero_grad(set_to_none=True)
                # Every process has all of these inputs: any equal split will do.
                rows = part[replicas.rank :: replicas.size].to(data.target.device)
                work = partial(
                    _backward_critic, nets.critic, data, rows, whole=len(part), pirl=pirl
                )
                total += agreed(replicas, work)
                replicas.sum_gradients(nets.critic.parameters())
                clip_gradients(optimizer, limit=pirl.grad_clip)
                optimizer.step()
                steps += 1
        stats.optimiser_steps += steps
        stats.critic_steps = steps
        stats.value_epoch_loss = total / steps


def minibatches(
    count: int, *, size: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " M"], ...]:
    """All rows in random order, in the fewest parts of at most `size`, equal to within one row."""
    order = torch.randperm(count, generator=generator)
    return order.tensor_split(max(1, math.ceil(count / size)))


def _backward_critic(
    critic: Critic,
    data: ValueTargets,
    rows: Int64[Tensor, " m"],
    *,
    whole: int,
    pirl: PiRLConfig,
) -> float:
    """Gradient of what `rows` add to the mean loss over a minibatch of `whole` rows; that share."""
    if len(rows) == 0:
        return 0.0
    error = F.huber_loss(
        critic(data.inputs[rows]), data.target[rows], reduction="none", delta=pirl.huber_delta
    )
    loss = (data.weight[rows] * error).mean() * (len(rows) / whole)
    checks.require_finite({"value_epoch_loss": loss}, what="loss")
    loss.backward()
    return float(loss.detach())
