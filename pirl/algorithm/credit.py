"""Which decisions deserve what: advantages of a batch, and what the critic should have said.

Owns the way from rewards and observations to advantages and targets (`algorithm.md` 8, 9, 11).
Refuses to know log-probs and losses. Read `pirl.algorithm.prepare` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.algorithm.advantage import EpisodeLayout, gae, grpo_advantages, normalize
from pirl.algorithm.critic import Critic, critic_input
from pirl.algorithm.networks import Networks, encode
from pirl.algorithm.replicas import Replicas, own_rows, owned_among
from pirl.config.recipe import PiRLConfig
from pirl.decision import CHAIN, CHUNK_INDEX, GROUP_ID, NOISE
from pirl.records import Context, DecisionBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Advantages and critic targets, one per decision."""

    advantage: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    critic_inputs: Float[Tensor, "B F"]
    old_value: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    floored: bool
    """The spread of the advantages is below `adv_std_floor`: noise of the critic, not credit."""
    metrics: Mapping[str, float]


def assign_credit(
    nets: Networks,
    batch: DecisionBatch,
    *,
    layout: EpisodeLayout,
    context: Context,
    fields: Mapping[str, Tensor],
    valid: Bool[Tensor, " B"],
    replicas: Replicas,
) -> Credit:
    """Advantages of `algorithm.md` 9 or 11, and the critic's inputs and targets; no gradient.

    Every process gets those of all rows: what its own rows say to the critic is put together first.

    Args:
        context: encoded `batch.observation`.
        fields: the batch's fields on the policy's device.
        valid: decisions with a policy log-prob; the others enter no advantage statistic.
    """
    pirl = nets.pirl
    if nets.critic is None:
        return _group_credit(batch, layout=layout, fields=fields, valid=valid, pirl=pirl)
    start = first_state(fields)
    chunk_idx = fields[CHUNK_INDEX].reshape(-1)
    own = own_rows(replicas, len(batch)).to(start.device)
    inputs = replicas.gather_rows(
        critic_input(nets.policy, context, pirl=pirl, chunk_idx=chunk_idx[own], start=start[own]),
        len(batch),
    )
    value = nets.critic(inputs)
    advantage = gae(
        layout,
        reward=batch.reward.to(value.device),
        value=value,
        next_value=_next_value(
            nets,
            nets.critic,
            batch,
            layout=layout,
            value=value,
            chunk_idx=chunk_idx,
            start=start,
            replicas=replicas,
        ),
        terminated=batch.terminated.to(value.device),
        truncated=batch.truncated.to(value.device),
        gamma=pirl.gamma,
        gae_lambda=pirl.gae_lambda,
        bootstrap_on_truncation=pirl.bootstrap_on_truncation,
    )
    target = advantage + value
    spread = _advantage_metrics(advantage, valid)
    floored = (
        pirl.normalize_advantages
        and bool(valid.any())
        and spread["advantage_std"] < pirl.adv_std_floor
    )
    if pirl.normalize_advantages:
        advantage = normalize(advantage, valid=valid, std_floor=pirl.adv_std_floor)
    metrics = {
        **spread,
        "advantage_floored": float(floored),
        "return_mean": float(target.mean()),
        "value_mean": float(value.mean()),
        "explained_variance": explained_variance(value, target),
    }
    return Credit(
        advantage=advantage,
        valid=valid,
        critic_inputs=inputs,
        old_value=value,
        target=target,
        floored=floored,
        metrics=metrics,
    )


def _next_value(
    nets: Networks,
    critic: Critic,
    batch: DecisionBatch,
    *,
    layout: EpisodeLayout,
    value: Float[Tensor, " B"],
    chunk_idx: Int64[Tensor, " B"],
    start: Float[Tensor, "B C D"],
    replicas: Replicas,
) -> Float[Tensor, " B"]:
    """V(next observation) where GAE may look at it, 0 elsewhere.

    Inside an episode it is the next row's value; only open ends need another encoding.
    """
    follower = layout.next_row.to(value.device)
    truncated = batch.truncated.to(value.device)
    done = batch.terminated.to(value.device)
    if not nets.pirl.bootstrap_on_truncation:
        done = done | truncated
    next_value = torch.where(follower >= 0, value[follower.clamp(min=0)], torch.zeros_like(value))
    rows = (((follower < 0) | truncated) & ~done).nonzero().reshape(-1)
    if len(rows):
        own = owned_among(replicas, rows)
        found = torch.zeros_like(value[own_rows(replicas, len(batch)).to(value.device)])
        if len(own):
            held = own // replicas.size
            observation = batch.next_observation.index(held)
            size = min(nets.pirl.micro_batch, len(rows))
            context = encode(nets.policy, observation, size=size)
            inputs = critic_input(
                nets.policy, context, pirl=nets.pirl, chunk_idx=chunk_idx[own] + 1, start=start[own]
            )
            found[held] = critic(inputs)
        next_value[rows] = replicas.gather_rows(found, len(batch))[rows]
    return next_value


def _group_credit(
    batch: DecisionBatch,
    *,
    layout: EpisodeLayout,
    fields: Mapping[str, Tensor],
    valid: Bool[Tensor, " B"],
    pirl: PiRLConfig,
) -> Credit:
    """GRPO: advantages by group, no critic."""
    reward = batch.reward.to(valid.device)
    groups = grpo_advantages(
        layout,
        reward=reward,
        group_id=fields[GROUP_ID],
        finished=(batch.terminated | batch.truncated).to(valid.device),
        group_size=pirl.group_size,
        reward_filter=pirl.reward_filter,
        std_floor=pirl.adv_std_floor,
    )
    nothing = torch.zeros_like(reward)
    valid = valid & groups.kept
    return Credit(
        advantage=groups.advantage,
        valid=valid,
        critic_inputs=nothing.unsqueeze(-1),
        old_value=nothing,
        target=nothing,
        floored=False,
        metrics={
            **_advantage_metrics(groups.advantage, valid),
            "groups": float(groups.num_groups),
            "groups_kept": float(groups.num_kept_groups),
        },
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


def first_state(fields: Mapping[str, Tensor]) -> Float[Tensor, "B C D"]:
    """x_0 of every recorded chain."""
    return fields[NOISE] if NOISE in fields else fields[CHAIN][:, 0]
