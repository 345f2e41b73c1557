"""Decisions to advantages: episode order, chunk-level GAE, GRPO, normalisation, weights.

Owns the outer MDP of `algorithm.md` 9 and 11. Refuses to know networks, losses or where decisions
come from. Read `pirl.algorithm.loss` next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.errors import NumericsError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeLayout:
    """Which decision follows which; rows are positions in the batch, in any order of arrival."""

    order: Int64[Tensor, " B"]
    """Rows sorted by (episode, chunk)."""
    next_row: Int64[Tensor, " B"]
    """Row of the following decision of the same episode; -1 where the collected fragment ends."""
    episode: Int64[Tensor, " B"]
    """0-based index of the row's episode within the batch."""
    num_episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAdvantages:
    """GRPO result: one advantage per decision, and whether its group takes part."""

    advantage: Float[Tensor, " B"]
    kept: Bool[Tensor, " B"]
    num_groups: int
    num_kept_groups: int


def episode_layout(
    episode_id: Int64[Tensor, " B"], chunk_idx: Int64[Tensor, " B"]
) -> EpisodeLayout:
    """Sort by (episode, chunk) and link each decision to its successor (`algorithm.md` 9.2).

    Raises:
        NumericsError: a decision is repeated, or one in the middle of an episode is missing.
    """
    ids = [int(v) for v in episode_id.reshape(-1).tolist()]
    chunks = [int(v) for v in chunk_idx.reshape(-1).tolist()]
    order = sorted(range(len(ids)), key=lambda row: (ids[row], chunks[row]))
    next_row = [-1] * len(ids)
    episode = [0] * len(ids)
    current = -1
    for place, row in enumerate(order):
        previous = order[place - 1] if place else None
        if previous is None or ids[previous] != ids[row]:
            current += 1
        elif chunks[row] != chunks[previous] + 1:
            raise NumericsError(
                f"episode {ids[row]}: chunk {chunks[row]} follows chunk {chunks[previous]}; chunks "
                "of an episode must be consecutive and unique, or GAE credits the wrong decision"
            )
        else:
            next_row[previous] = row
        episode[row] = current
    return EpisodeLayout(
        order=torch.tensor(order),
        next_row=torch.tensor(next_row),
        episode=torch.tensor(episode),
        num_episodes=current + 1,
    )


def gae(
    layout: EpisodeLayout,
    *,
    reward: Float[Tensor, " B"],
    value: Float[Tensor, " B"],
    next_value: Float[Tensor, " B"],
    terminated: Bool[Tensor, " B"],
    truncated: Bool[Tensor, " B"],
    gamma: float,
    gae_lambda: float,
    bootstrap_on_truncation: bool,
) -> Float[Tensor, " B"]:
    """Chunk-level generalised advantage estimates; the return of a decision is advantage + value.

    delta_i = R_i + gamma (1 - done_i) V(next_i) - V_i
    A_i = delta_i + gamma lambda (1 - done_i)(1 - truncated_i) A_{i+1}

    A fragment that ends without either flag bootstraps with V(next). Without
    `bootstrap_on_truncation` a time limit counts as terminal.
    Source: `algorithm.md` 9.2, 9.3; gamma and lambda are per chunk.
    """
    done = terminated if bootstrap_on_truncation else terminated | truncated
    ends = done | truncated | (layout.next_row < 0).to(done.device)
    bootstrap = torch.where(done, torch.zeros_like(next_value), next_value)
    delta = (reward + gamma * bootstrap - value).double().tolist()
    stops = ends.tolist()
    follower = layout.next_row.tolist()
    advantage = [0.0] * len(delta)
    for row in reversed(layout.order.tolist()):
        carried = 0.0 if stops[row] else gamma * gae_lambda * advantage[follower[row]]
        advantage[row] = delta[row] + carried
    return torch.tensor(advantage, dtype=value.dtype, device=value.device)


def grpo_advantages(
    layout: EpisodeLayout,
    *,
    reward: Float[Tensor, " B"],
    group_id: Int64[Tensor, " B"],
    finished: Bool[Tensor, " B"],
    group_size: int,
    reward_filter: tuple[float, float],
    std_floor: float = 0.0,
) -> GroupAdvantages:
    """Group-relative scores (score - mean) / (std + 1e-6), shared by all decisions of an episode.

    A group takes part when it has exactly `group_size` finished episodes, its mean score lies
    inside `reward_filter` and its std is at least `std_floor`. Score = sum of rewards of the
    episode; std is unbiased.
    Source: `algorithm.md` 11.

    Args:
        finished: terminated or truncated, per decision.
    """
    episode = layout.episode.to(reward.device)
    score = torch.zeros(layout.num_episodes, dtype=torch.float64, device=reward.device)
    score.index_add_(0, episode, reward.double())
    group_of = torch.zeros(layout.num_episodes, dtype=torch.int64, device=reward.device)
    group_of[episode] = group_id.reshape(-1)
    complete = torch.zeros(layout.num_episodes, dtype=torch.bool, device=reward.device)
    complete[episode[finished]] = True

    advantage = torch.zeros_like(score)
    kept = torch.zeros_like(complete)
    low, high = reward_filter
    groups = [int(g) for g in torch.unique(group_of).tolist()]
    kept_groups = 0
    for group in groups:
        members = group_of == group
        scores = score[members]
        usable = group >= 0 and scores.numel() == group_size and bool(complete[members].all())
        if not usable or not low <= float(scores.mean()) <= high:
            continue
        if float(scores.std()) < std_floor:
            continue
        advantage[members] = (scores - scores.mean()) / (scores.std() + 1e-6)
        kept[members] = True
        kept_groups += 1
    return GroupAdvantages(
        advantage=advantage[episode].to(reward.dtype),
        kept=kept[episode],
        num_groups=len(groups),
        num_kept_groups=kept_groups,
    )


def normalize(
    advantage: Float[Tensor, " B"], *, valid: Bool[Tensor, " B"], std_floor: float = 0.0
) -> Float[Tensor, " B"]:
    """(A - mean) / (max(std, floor) + 1e-5) with the statistics of valid decisions; 0 elsewhere.

    Source: `algorithm.md` 9.4.
    """
    if not bool(valid.any()):
        return torch.zeros_like(advantage)
    chosen = advantage[valid].double()
    # Population std: defined, and harmless, for a batch with a single valid decision.
    std = chosen.std(correction=0).clamp(min=std_floor)
    scaled = (advantage.double() - chosen.mean()) / (std + 1e-5)
    return torch.where(valid, scaled, torch.zeros_like(scaled)).to(advantage.dtype)


def shuffle(
    advantage: Float[Tensor, " B"], *, valid: Bool[Tensor, " B"], generator: torch.Generator
) -> Float[Tensor, " B"]:
    """Negative control: the valid advantages in random order. Same statistics, no credit left."""
    rows = valid.nonzero().reshape(-1)
    mixed = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    shuffled = advantage.clone()
    shuffled[rows] = advantage[mixed]
    return shuffled


def trajectory_weights(layout: EpisodeLayout, *, valid: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean chunks per trajectory / chunks of this one; 0 where invalid (`algorithm.md` 10.1).

    Invariant: the weighted mean over valid decisions is the mean of per-trajectory means.
    """
    episode = layout.episode.to(valid.device)
    chunks = torch.zeros(layout.num_episodes, dtype=torch.float64, device=valid.device)
    chunks.index_add_(0, episode, valid.double())
    present = chunks > 0
    if not bool(present.any()):
        return torch.zeros_like(valid, dtype=torch.float32)
    weight = chunks[present].mean() / chunks.clamp(min=1.0)
    return torch.where(valid, weight[episode], torch.zeros_like(weight[episode])).float()
