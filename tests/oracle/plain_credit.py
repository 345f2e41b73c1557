"""The oracle's credit: returns, advantages and weights of decisions, in plain Python floats.

Written from sections 8, 9, 10.1 and 11 of `algorithm.md`; shares no code with `pirl.algorithm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pirl.config.recipe import PiRLConfig

LAYER_NORM_EPS = 1e-5
NORMALIZE_EPS = 1e-5
GROUP_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a decision led to."""

    episode: int
    chunk: int
    group: int
    reward: float
    terminated: bool
    truncated: bool


def followers(outcomes: Sequence[Outcome]) -> list[int | None]:
    """Row of the next decision of the same episode."""
    row_of = {(o.episode, o.chunk): row for row, o in enumerate(outcomes)}
    return [row_of.get((o.episode, o.chunk + 1)) for o in outcomes]


def episodes_of(outcomes: Sequence[Outcome]) -> dict[int, list[int]]:
    """Rows of every episode, in the order of its decisions."""
    rows: dict[int, list[int]] = {}
    for row in sorted(range(len(outcomes)), key=lambda r: outcomes[r].chunk):
        rows.setdefault(outcomes[row].episode, []).append(row)
    return rows


def is_done(outcome: Outcome, pirl: PiRLConfig) -> bool:
    """Whether nothing follows; a time limit counts as an end unless it bootstraps."""
    if pirl.bootstrap_on_truncation:
        return outcome.terminated
    return outcome.terminated or outcome.truncated


def gae(
    outcomes: Sequence[Outcome],
    value: Sequence[float],
    next_value: Sequence[float],
    pirl: PiRLConfig,
) -> list[float]:
    """Section 9, backwards through every episode; `next_value` is V(next_state) of each row."""
    advantage = [0.0] * len(outcomes)
    for rows in episodes_of(outcomes).values():
        later = 0.0
        for row in reversed(rows):
            outcome = outcomes[row]
            go_on = 0.0 if is_done(outcome, pirl) else 1.0
            delta = outcome.reward + pirl.gamma * go_on * next_value[row] - value[row]
            linked = go_on * (0.0 if outcome.truncated else 1.0)
            advantage[row] = delta + pirl.gamma * pirl.gae_lambda * linked * later
            later = advantage[row]
    return advantage


def normalized(advantage: Sequence[float], valid: Sequence[bool], pirl: PiRLConfig) -> list[float]:
    """(A - mean) / (std + 1e-5) over the valid rows; 0 elsewhere."""
    chosen = [a for a, counts in zip(advantage, valid, strict=True) if counts]
    if not chosen:
        return [0.0] * len(advantage)
    mean = sum(chosen) / len(chosen)
    std = math.sqrt(sum((a - mean) ** 2 for a in chosen) / len(chosen))
    std = max(std, getattr(pirl, "adv_std_floor", 0.0))
    return [
        (a - mean) / (std + NORMALIZE_EPS) if counts else 0.0
        for a, counts in zip(advantage, valid, strict=True)
    ]


def grpo(outcomes: Sequence[Outcome], pirl: PiRLConfig) -> tuple[list[float], list[bool]]:
    """Section 11: (advantage, kept) of every row; a kept group is whole, finished and mixed."""
    episodes = episodes_of(outcomes)
    score = {e: sum(outcomes[row].reward for row in rows) for e, rows in episodes.items()}
    finished = {
        e: any(outcomes[row].terminated or outcomes[row].truncated for row in rows)
        for e, rows in episodes.items()
    }
    members: dict[int, list[int]] = {}
    for e, rows in episodes.items():
        members.setdefault(outcomes[rows[0]].group, []).append(e)
    advantage, kept = [0.0] * len(outcomes), [False] * len(outcomes)
    low, high = pirl.reward_filter
    for group, group_episodes in members.items():
        scores = [score[e] for e in group_episodes]
        whole = len(scores) == pirl.group_size and all(finished[e] for e in group_episodes)
        mean = sum(scores) / len(scores)
        if group < 0 or not whole or mean < low or mean > high:
            continue
        std = math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))
        for e in group_episodes:
            for row in episodes[e]:
                advantage[row] = (score[e] - mean) / (std + GROUP_EPS)
                kept[row] = True
    return advantage, kept


def trajectory_weights(
    outcomes: Sequence[Outcome], valid: Sequence[bool], pirl: PiRLConfig
) -> list[float]:
    """10.1: mean chunks per trajectory / chunks of this one, over valid rows; 0 elsewhere.

    pirl keeps these weights in fp32, the only rounding between the two implementations.
    """
    if pirl.loss_weighting == "chunk":
        return [1.0 if counts else 0.0 for counts in valid]
    weights = [0.0] * len(outcomes)
    chunks = {e: sum(valid[row] for row in rows) for e, rows in episodes_of(outcomes).items()}
    present = [count for count in chunks.values() if count > 0]
    for row, outcome in enumerate(outcomes):
        if valid[row]:
            mean = sum(present) / len(present)
            weights[row] = float(np.float32(mean / chunks[outcome.episode]))
    return weights


def shuffled(
    advantage: Sequence[float], valid: Sequence[bool], rng: torch.Generator
) -> list[float]:
    """The negative control: valid advantages change places."""
    rows = [row for row, counts in enumerate(valid) if counts]
    order = torch.randperm(len(rows), generator=rng).tolist()
    mixed = list(advantage)
    for place, source in enumerate(order):
        mixed[rows[place]] = advantage[rows[source]]
    return mixed


def value_of(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Section 8.2: LayerNorm, ReLU layers, one number; `inputs` is one decision's [F]."""
    centred = inputs - inputs.mean()
    h = centred / torch.sqrt((centred * centred).mean() + LAYER_NORM_EPS)
    h = h * weights["critic.norm.weight"] + weights["critic.norm.bias"]
    layers = sum(1 for name in weights if name.startswith("critic.hidden.")) // 2
    for layer in range(layers):
        h = h @ weights[f"critic.hidden.{layer}.weight"].T + weights[f"critic.hidden.{layer}.bias"]
        h = torch.where(h > 0, h, torch.zeros_like(h))
    return (h @ weights["critic.last.weight"].T + weights["critic.last.bias"])[0]


def spread(values: Sequence[float]) -> float:
    """Population variance."""
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)
