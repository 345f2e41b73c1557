"""What trains, and the three passes over it: encode, replay, one micro-batch at a time.

Owns the modules of a learner and the size of a forward pass. Refuses to know advantages and losses.
Read `pirl.algorithm.prepare` next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pirl.algorithm.chain import replay_log_prob
from pirl.algorithm.critic import Critic, critic_input_width
from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.log_prob import ReplayedLogProb, reduce_log_prob
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.records import Context, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What trains: the policy, and the two modules that only training needs; and the recipe it trains by."""

    pirl: PiRLConfig
    policy: FlowPolicy
    critic: Critic | None
    """None with GRPO."""
    noise_head: NoiseHead | None
    """None with Flow-SDE."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that trains, by name."""
        named = dict(self.policy.trained_parameters())
        for prefix, module in (("noise_head", self.noise_head), ("critic", self.critic)):
            if module is not None:
                named |= {f"{prefix}.{name}": p for name, p in module.named_parameters()}
        return named

    def gradients(self) -> dict[str, Tensor]:
        """Every gradient there is, by parameter name."""
        return {name: p.grad for name, p in self.parameters().items() if p.grad is not None}


def build_networks(policy: FlowPolicy, pirl: PiRLConfig, *, seed: int) -> Networks:
    """`policy` with a new critic and noise head, whose weights are functions of `seed` alone."""
    critic = None
    if pirl.adv_type != "grpo":
        critic = Critic(
            critic_input_width(policy, pirl),
            hidden=pirl.value_hidden,
            last_init=pirl.value_last_init,
            generator=seeded_generator(seed, Stream.CRITIC_INIT),
        ).to(policy.device)
    noise_head = None
    if pirl.is_flow_noise and pirl.flow_noise is not None:
        noise_head = NoiseHead(
            feature_width=policy.feature_width,
            model_dim=policy.spec.model_dim,
            settings=pirl.flow_noise,
            generator=seeded_generator(seed, Stream.NOISE_HEAD_INIT),
        ).to(policy.device)
    return Networks(pirl=pirl, policy=policy, critic=critic, noise_head=noise_head)


class Rows[T](Protocol):
    """Observations or contexts of a batch, asked for by row."""

    def index(self, rows: Tensor, /) -> T:
        """Those of `rows`, in that order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass. The first `num_live` count; the rest repeat a row as padding."""

    rows: Int64[Tensor, " M"]
    num_live: int

    @property
    def live(self) -> Bool[Tensor, " M"]:
        """Which rows count."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.num_live


def micro_batches(
    rows: Int64[Tensor, " B"],
    *,
    size: int,
    at_least: int = 0,
    filler: Int64[Tensor, " 1"] | None = None,
) -> Iterator[MicroBatch]:
    """Split `rows` in pieces of exactly `size`, the last one padded.

    Args:
        at_least: so many pieces, with padding alone where there are no rows left.
        filler: the row that pads; the first of `rows` by default.
    """
    filler = rows[:1] if filler is None else filler
    for index in range(max(at_least, -(-len(rows) // size))):
        part = rows[index * size : (index + 1) * size]
        padding = filler.expand(size - len(part))
        yield MicroBatch(rows=torch.cat([part, padding]), num_live=len(part))


def per_micro_batch(
    compute: Callable[[Tensor], Tensor], rows: Int64[Tensor, " B"], *, size: int
) -> Tensor:
    """`compute` over all rows in micro-batches of one size, results in the order of `rows`."""
    parts = [compute(micro.rows)[: micro.num_live] for micro in micro_batches(rows, size=size)]
    return torch.cat(parts)


def encode(policy: FlowPolicy, observation: Observation, *, size: int) -> Context:
    """Contexts of all observations, in micro-batches of `size`, kept on the policy's device."""
    parts = [
        encode_rows(policy, observation, micro.rows).index(slice(0, micro.num_live))
        for micro in micro_batches(torch.arange(len(observation)), size=size)
    ]
    return Context.cat(parts)


def encode_rows(
    policy: FlowPolicy,
    observation: Rows[Observation],
    rows: Int64[Tensor, " M"],
    *,
    gradient: bool = False,
) -> Context:
    """Contexts of some rows of an observation that may lie on another device, in one pass."""
    device, part = policy.device, observation.index(rows)
    return policy.encode(part.to(device), gradient=gradient)


def replay(
    nets: Networks,
    context: Rows[Context],
    fields: Mapping[str, Tensor],
    *,
    rows: Tensor,
    observation: Rows[Observation] | None = None,
) -> ReplayedLogProb:
    """Log-prob of the recorded chains of `rows` under the current weights.

    Args:
        context: of the whole batch, under the weights that it was encoded with.
        observation: of the whole batch, for a pass under other weights; encoded again if those are
            the encoder's too.
    """
    if observation is not None and nets.policy.trains_encoder:
        graph = torch.is_grad_enabled()
        current = encode_rows(nets.policy, observation, rows, gradient=graph)
    else:
        current = context.index(rows)
    return replay_log_prob(
        nets.policy,
        current,
        fields={name: value[rows] for name, value in fields.items()},
        pirl=nets.pirl,
        noise_head=nets.noise_head,
    )


def replayed_samples(
    nets: Networks,
    context: Rows[Context],
    fields: Mapping[str, Tensor],
    *,
    rows: Tensor,
) -> Float[Tensor, "B ..."]:
    """`replay`, reduced to the samples of `logprob_level`."""
    replayed = replay(nets, context, fields, rows=rows)
    level = nets.pirl.logprob_level
    return reduce_log_prob(replayed.log_prob, mask=replayed.mask, level=level).value
