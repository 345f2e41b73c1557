"""An episode as planned and as it went; the part of `pirl.records` that needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePlan:
    """Which episode an environment slot must run next; fixed before it starts."""

    task_id: int
    init_state_id: int
    seed: int
    episode_id: int
    """Unique in a run: actor rank * 2**32 + counter."""
    group_id: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenOffEpisode:
    """An episode that began and was not finished."""

    task_id: int
    task: str
    init_state_id: int
    seed: int
    episode_id: int
    policy_version: int
    env_steps: int
    decisions: int
    end: str
    """`env-error`: the simulator died; `interrupted`: given up or lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """What happened in one episode; success figures are computed from these and from nothing else."""

    task_id: int
    task: str
    init_state_id: int
    seed: int
    episode_id: int
    policy_version: int
    env_steps: int
    decisions: int
    reward: float
    success: bool
    truncated: bool
