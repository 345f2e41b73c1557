"""A batch of decisions to everything an update holds fixed: contexts, values, advantages, anchors.

Owns the no-gradient half of an iteration (`algorithm.md` 14.1, steps 2 and 3). Refuses to change a
weight. Read `pirl.algorithm.update` next, which consumes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pirl.algorithm.advantage import (
    EpisodeLayout,
    episode_layout,
    gae,
    grpo_advantages,
    normalize,
    shuffle,
    trajectory_weights,
)
from pirl.algorithm.chain import replay_log_prob
from pirl.algorithm.critic import Critic, critic_input
from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.log_prob import ReplayedLogProb, recorded_log_prob, reduce_log_prob
from pirl.algorithm.loss import rows_like
from pirl.algorithm.optim import swap_values
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import NumericsError
from pirl.records import Context, DecisionBatch, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What trains: the policy, and the two modules that only training needs."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One batch with everything that stays fixed over the epochs of an update.

    "..." is the sample shape of `logprob_level`: J (chunk), J E (action) or J E D (token).
    """

    context: Context
    fields: Mapping[str, Tensor]
    version: int
    lag: Int64[Tensor, " B"]
    """Learner version minus acting version."""
    behaviour: Float[Tensor, "B ..."]
    """Log-prob recorded by the actor, nats."""
    proximal: Float[Tensor, "B ..."] | None
    """Log-prob under the weights this update starts from; None without `recompute_proximal`."""
    sample_mask: Bool[Tensor, "B ..."]
    """Samples of the actor loss: something recorded, not a human's, group kept."""
    advantage: Float[Tensor, " B"]
    actor_weight: Float[Tensor, " B"]
    critic_inputs: Float[Tensor, "B F"]
    old_value: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    critic_weight: Float[Tensor, " B"]
    reference_mean: Float[Tensor, "B S E D"] | None
    metrics: Mapping[str, float]

    def __len__(self) -> int:
        return int(self.lag.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credit:
    """Advantages and critic targets before anything is broadcast to samples."""

    advantage: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    critic_inputs: Float[Tensor, "B F"]
    old_value: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    metrics: Mapping[str, float]


def prepare(
    nets: Networks,
    batch: DecisionBatch,
    *,
    pirl: PiRLConfig,
    seed: int,
    reference: Mapping[str, Tensor] | None,
) -> Prepared:
    """Everything an update needs of `batch`, computed once with the weights it starts from.

    Args:
        reference: frozen weights of the KL term, by name; None without one.

    Raises:
        NumericsError: the decisions of an episode are not consecutive, or come from the future.
        ContractError: the actor did not score what the recipe's mask counts.
    """
    device = nets.policy.device
    lag = batch.policy_version - batch.fields["pirl_version"].reshape(-1)
    if bool((lag < 0).any()):
        raise NumericsError(
            f"{int((lag < 0).sum())} decisions acted under a version after {batch.policy_version}, "
            "the one that consumes them"
        )
    fields = {name: value.to(device) for name, value in batch.fields.items()}
    with torch.no_grad():
        context = encode(nets.policy, batch.observation, micro_batch=pirl.micro_batch)
        recorded, mask = recorded_log_prob(nets.policy.spec, pirl, fields)
        behaviour = reduce_log_prob(recorded, mask=mask, level=pirl.logprob_level)
        credit = _credit(
            nets, batch, context=context, fields=fields, samples=behaviour.mask, pirl=pirl
        )
        proximal = None
        if pirl.recompute_proximal:
            proximal = per_micro_batch(
                lambda rows: replayed_samples(nets, context, fields, rows=rows, pirl=pirl),
                torch.arange(len(batch), device=device),
                micro_batch=pirl.micro_batch,
            )
        reference_mean = None
        if reference is not None:
            reference_mean = _reference_mean(nets, context, fields, pirl=pirl, reference=reference)
    advantage = credit.advantage
    if pirl.shuffle_advantages:
        rng = seeded_generator(seed, Stream.SHUFFLE_ADVANTAGES, batch.policy_version)
        advantage = shuffle(advantage, valid=credit.valid, generator=rng)
    layout = _layout(fields)
    everyone = torch.ones_like(credit.valid)
    by_trajectory = pirl.loss_weighting == "trajectory"
    return Prepared(
        context=context,
        fields=fields,
        version=batch.policy_version,
        lag=lag.to(device),
        behaviour=behaviour.value,
        proximal=proximal,
        sample_mask=behaviour.mask & rows_like(credit.valid, behaviour.mask),
        advantage=advantage,
        actor_weight=(
            trajectory_weights(layout, valid=credit.valid)
            if by_trajectory
            else credit.valid.float()
        ),
        critic_inputs=credit.critic_inputs,
        old_value=credit.old_value,
        target=credit.target,
        critic_weight=(
            trajectory_weights(layout, valid=everyone) if by_trajectory else everyone.float()
        ),
        reference_mean=reference_mean,
        metrics=credit.metrics,
    )


def _layout(fields: Mapping[str, Tensor]) -> EpisodeLayout:
    return episode_layout(fields["pirl_episode_id"], fields["pirl_chunk_idx"])


def _credit(
    nets: Networks,
    batch: DecisionBatch,
    *,
    context: Context,
    fields: Mapping[str, Tensor],
    samples: Bool[Tensor, "B ..."],
    pirl: PiRLConfig,
) -> _Credit:
    """Advantages of section 9 or 11, and the critic's inputs and targets."""
    device = samples.device
    layout = _layout(fields)
    reward = batch.reward.to(device)
    terminated, truncated = batch.terminated.to(device), batch.truncated.to(device)
    valid = samples.flatten(1).any(dim=1)
    critic = nets.critic
    if critic is None:
        groups = grpo_advantages(
            layout,
            reward=reward,
            group_id=fields["pirl_group_id"],
            finished=terminated | truncated,
            group_size=pirl.group_size,
            reward_filter=pirl.reward_filter,
        )
        nothing = torch.zeros_like(reward)
        return _Credit(
            advantage=groups.advantage,
            valid=valid & groups.kept,
            critic_inputs=nothing.unsqueeze(-1),
            old_value=nothing,
            target=nothing,
            metrics={
                "groups": float(groups.num_groups),
                "groups_kept": float(groups.num_kept_groups),
            }
            | _advantage_metrics(groups.advantage, valid & groups.kept),
        )
    start = first_state(fields)
    chunk_idx = fields["pirl_chunk_idx"].reshape(-1)
    inputs = critic_input(nets.policy, context, pirl=pirl, chunk_idx=chunk_idx, start=start)
    value = critic(inputs)
    done = terminated if pirl.bootstrap_on_truncation else terminated | truncated
    follower = layout.next_row.to(device)
    next_value = torch.where(follower >= 0, value[follower.clamp(min=0)], torch.zeros_like(value))
    # Inside an episode V(next) is the next row's value; only open ends need another encoding.
    open_end = ((follower < 0) | truncated) & ~done
    rows = open_end.nonzero().reshape(-1)
    if len(rows):
        ends = encode(
            nets.policy, batch.next_observation.index(rows.cpu()), micro_batch=pirl.micro_batch
        )
        next_inputs = critic_input(
            nets.policy, ends, pirl=pirl, chunk_idx=chunk_idx[rows] + 1, start=start[rows]
        )
        next_value[rows] = critic(next_inputs)
    advantage = gae(
        layout,
        reward=reward,
        value=value,
        next_value=next_value,
        terminated=terminated,
        truncated=truncated,
        gamma=pirl.gamma,
        gae_lambda=pirl.gae_lambda,
        bootstrap_on_truncation=pirl.bootstrap_on_truncation,
    )
    target = advantage + value
    metrics = {
        **_advantage_metrics(advantage, valid),
        "return_mean": float(target.mean()),
        "value_mean": float(value.mean()),
        "explained_variance": explained_variance(value, target),
    }
    if pirl.normalize_advantages:
        advantage = normalize(advantage, valid=valid)
    return _Credit(
        advantage=advantage,
        valid=valid,
        critic_inputs=inputs,
        old_value=value,
        target=target,
        metrics=metrics,
    )


def _advantage_metrics(advantage: Tensor, valid: Tensor) -> dict[str, float]:
    chosen = advantage[valid].double()
    return {
        "advantage_mean": float(chosen.mean()) if len(chosen) else 0.0,
        "advantage_std": float(chosen.std(correction=0)) if len(chosen) else 0.0,
        "decisions": float(len(valid)),
        "masked_fraction": 1.0 - len(chosen) / max(1, len(valid)),
    }


def explained_variance(value: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> float:
    """1 - var(target - V) / var(target); 0 when the targets do not vary."""
    spread = float(target.double().var(correction=0))
    if spread == 0.0:
        return 0.0
    return 1.0 - float((target - value).double().var(correction=0)) / spread


def encode(policy: FlowPolicy, observation: Observation, *, micro_batch: int) -> Context:
    """Contexts of all observations, in micro-batches, kept on the policy's device."""
    device = policy.device

    def one(rows: Tensor) -> Context:
        part = observation.index(rows)
        return policy.encode(
            Observation(
                images={name: image.to(device) for name, image in part.images.items()},
                state=part.state.to(device),
                input_ids=part.input_ids.to(device),
                domain_id=part.domain_id.to(device),
            )
        )

    parts = [
        one(micro.rows).index(slice(0, micro.num_live))
        for micro in micro_batches(torch.arange(len(observation)), size=micro_batch)
    ]
    return Context.cat(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass. The first `num_live` count; the rest repeat a row as padding."""

    rows: Int64[Tensor, " M"]
    num_live: int

    @property
    def live(self) -> Bool[Tensor, " M"]:
        """Which rows count."""
        return torch.arange(len(self.rows), device=self.rows.device) < self.num_live


def micro_batches(rows: Int64[Tensor, " B"], *, size: int) -> Iterator[MicroBatch]:
    """Split `rows` in pieces of one size, the last one padded.

    One size, because GPU kernels differ between batch sizes and the ratio must start at one.
    """
    size = min(size, len(rows))
    for part in rows.split(size):
        padding = rows[:1].expand(size - len(part))
        yield MicroBatch(rows=torch.cat([part, padding]), num_live=len(part))


def per_micro_batch(
    compute: Callable[[Tensor], Tensor], rows: Int64[Tensor, " B"], *, micro_batch: int
) -> Tensor:
    """`compute` over all rows in micro-batches of one size, results in the order of `rows`."""
    parts = [
        compute(micro.rows)[: micro.num_live] for micro in micro_batches(rows, size=micro_batch)
    ]
    return torch.cat(parts)


def replay(
    nets: Networks,
    context: Context,
    fields: Mapping[str, Tensor],
    *,
    rows: Tensor,
    pirl: PiRLConfig,
) -> ReplayedLogProb:
    """Log-prob of the recorded chains of `rows` under the current weights."""
    return replay_log_prob(
        nets.policy,
        context.index(rows),
        fields={name: value[rows] for name, value in fields.items()},
        pirl=pirl,
        noise_head=nets.noise_head,
    )


def replayed_samples(
    nets: Networks,
    context: Context,
    fields: Mapping[str, Tensor],
    *,
    rows: Tensor,
    pirl: PiRLConfig,
) -> Float[Tensor, "B ..."]:
    """`replay`, reduced to the samples of `logprob_level`."""
    replayed = replay(nets, context, fields, rows=rows, pirl=pirl)
    return reduce_log_prob(replayed.log_prob, mask=replayed.mask, level=pirl.logprob_level).value


def first_state(fields: Mapping[str, Tensor]) -> Float[Tensor, "B C D"]:
    """x_0 of every recorded chain."""
    return fields["pirl_noise"] if "pirl_noise" in fields else fields["pirl_chain"][:, 0]


def _reference_mean(
    nets: Networks,
    context: Context,
    fields: Mapping[str, Tensor],
    *,
    pirl: PiRLConfig,
    reference: Mapping[str, Tensor],
) -> Float[Tensor, "B S E D"]:
    """Transition means under the reference weights, which are swapped in for the pass."""
    trained = nets.policy.trained_parameters()
    current = swap_values(trained, reference)
    try:
        return per_micro_batch(
            lambda rows: replay(nets, context, fields, rows=rows, pirl=pirl).mean,
            torch.arange(len(context), device=nets.policy.device),
            micro_batch=pirl.micro_batch,
        )
    finally:
        swap_values(trained, current)
