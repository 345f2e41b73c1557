"""Which episode runs where, as a pure function: no plan depends on what happened before.

Owns the derivation of every random stream and every episode plan from (seed, policy version, rank,
slot, episode). Refuses to know simulators. Read `pirl.runtime.rollout` next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pirl.envs.split import StateSplit
from pirl.episodes import EpisodePlan
from pirl.errors import ConfigError, FieldError

EPISODES_PER_VERSION = 2**16
"""Episode ids of one actor within one policy version."""
_VERSIONS = 2**16


def stream_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for one named random stream, from SHA-256; independent of call order.

    `stream_seed(1, "noise", 23)` and `stream_seed(1, "noise", "23")` differ.
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) & (2**63 - 1)


def plan_episode(
    *,
    seed: int,
    policy_version: int,
    rank: int,
    env_index: int,
    episode_index: int,
    task_names: Sequence[str],
    split: StateSplit,
    num_envs: int,
    num_actors: int = 1,
    group_size: int = 1,
    adv_type: str = "gae",
) -> EpisodePlan:
    """The `episode_index`-th episode of slot `env_index` of actor `rank` under a policy version.

    `episode_index` counts from 0 in each slot and policy version, so a run resumed at a version
    plans exactly what the uninterrupted run planned. Tasks rotate over slots, episodes, actors and
    versions. With `adv_type="grpo"`, `group_size` neighbouring slots share task, initial state and
    seed.

    Raises:
        ConfigError: a counter exceeds what an episode id can hold.
    """
    turn = episode_index * num_envs + env_index
    _check_counter("episode_index", turn, EPISODES_PER_VERSION)
    _check_counter("policy_version", policy_version, _VERSIONS)
    # Position among all episodes that all actors start under this version.
    place = (episode_index * num_actors + rank) * num_envs + env_index
    grouped = adv_type == "grpo"
    unit = place // group_size if grouped else place
    units_per_version = max(1, num_envs * num_actors // (group_size if grouped else 1))
    task_id = _task(seed, policy_version * units_per_version + unit, len(task_names))
    task = task_names[task_id]
    draw = stream_seed(seed, "episode", policy_version, unit)
    state = split.state(task, draw % split.count(task))
    return EpisodePlan(
        task_id=task_id,
        init_state_id=state,
        seed=_simulator_seed(split, state, seed, "simulator", policy_version, unit),
        episode_id=first_episode_id(rank, policy_version) + turn,
        group_id=policy_version * 2**32 + unit if grouped else -1,
    )


def first_episode_id(rank: int, policy_version: int) -> int:
    """Ids of an actor's episodes under a version count up from here."""
    return rank * 2**32 + policy_version * EPISODES_PER_VERSION


def evaluation_plans(
    *, seed: int, task_names: Sequence[str], split: StateSplit, episodes_per_task: int
) -> list[EpisodePlan]:
    """A fixed schedule: episode k of a task always means the k-th state of the split, cyclically.

    Raises:
        ConfigError: MetaWorld would have to repeat a state, and with it the very same episode.
    """
    plans: list[EpisodePlan] = []
    for task_id, task in enumerate(task_names):
        count = split.count(task)
        if split.states_are_seeds:
            _check_counter("episodes_per_task", episodes_per_task - 1, count)
        for k in range(episodes_per_task):
            state = split.state(task, k % count)
            plans.append(
                EpisodePlan(
                    task_id=task_id,
                    init_state_id=state,
                    seed=_simulator_seed(split, state, seed, "evaluation", task_id, k),
                    episode_id=len(plans),
                )
            )
    return plans


def _task(seed: int, position: int, count: int) -> int:
    # A fixed shuffle, so that few slots do not always meet the same tasks together.
    order = sorted(range(count), key=lambda task: stream_seed(seed, "task", task))
    return order[position % count]


def _simulator_seed(split: StateSplit, state: int, seed: int, *parts: int | str) -> int:
    # robosuite hands the seed to NumPy's legacy generator, which takes 32 bits.
    return state if split.states_are_seeds else stream_seed(seed, *parts) % 2**31


def _check_counter(name: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise ConfigError(
            [
                FieldError(
                    field=name,
                    value=value,
                    expected=f"0 <= value < {limit}",
                    fix="use fewer slots, shorter rollouts or fewer updates",
                )
            ],
            source="episode schedule",
        )
