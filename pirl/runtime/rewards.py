"""What a chunk of actions is worth: the environment's own success, or a reward that a config names.

Owns the protocol, the kind that the door finds (`pirl.rewards`), the built-in shaped example and the check that
every reward keeps its bound. Refuses to end episodes and to decide what success is: that stays the
environment's, and so does every success rate. Imports no torch. Read `pirl.runtime.lockstep` next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from jaxtyping import Float32

from pirl import doors
from pirl.config import lerobot_fields
from pirl.config.bounds import Range, bounded
from pirl.config.kinds import Rule
from pirl.envs.base import Array, EnvInfo, EnvObservation
from pirl.errors import NumericsError

SUCCESS = "success"
"""The reward of a config that names none, in the run's identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutedChunk:
    """One decision and what came of it, as a reward sees it."""

    before: EnvObservation
    """What the policy saw."""
    after: EnvObservation
    """At the boundary after the last executed row; the terminal one when the episode ended."""
    actions: Float32[Array, "E A"]
    """Rows given to the environment; those from `valid_steps` on did not run."""
    step_rewards: Float32[Array, " E"]
    """The environment's own: 1 in the row that reached success, 0 elsewhere."""
    valid_steps: int
    terminated: bool
    truncated: bool
    instruction: str


class Reward(Protocol):
    """A reward over chunks: a function of one executed chunk, without memory and without a random draw."""

    def __call__(self, chunk: ExecutedChunk) -> Float32[Array, " E"]:
        """One number per row, 0 from `valid_steps` on; none beyond the kind's bound."""
        ...


class RewardKind(ABC):
    """A reward that `reward_model.type` can name; an entry point of the group `pirl.rewards` names an instance."""

    rules: Sequence[Rule] = ()

    @abstractmethod
    def config_class(self) -> type:
        """The class of its config, registered with LeRobot's `RewardModelConfig` or a plain one of ours."""

    @abstractmethod
    def bound(self, reward_config: Any, env: EnvInfo) -> float:
        """Largest |reward| of one control action; the learner refuses decisions with more."""

    @abstractmethod
    def identity(self, reward_config: Any) -> str:
        """What decides the numbers, in words: learner and actors must agree on it."""

    @abstractmethod
    def build(self, reward_config: Any, *, device: str) -> Reward:
        """The reward itself; only actors build one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedReward:
    """A reward and what it may never leave."""

    name: str
    bound: float
    reward: Reward

    def __call__(self, chunk: ExecutedChunk) -> Float32[Array, " E"]:
        """The reward of a chunk, checked.

        Raises:
            NumericsError: another length, not finite, beyond the bound, or for rows that did not run.
        """
        rows = np.asarray(self.reward(chunk), dtype=np.float32)
        wanted = chunk.step_rewards.shape
        if rows.shape != wanted:
            raise NumericsError(f"reward {self.name}: shape {rows.shape}, must be {wanted}")
        wrong = ~(np.abs(rows) <= self.bound)
        wrong[chunk.valid_steps :] |= rows[chunk.valid_steps :] != 0
        if wrong.any():
            row = int(wrong.argmax())
            allowed = f"-{self.bound:g}..{self.bound:g}" if row < chunk.valid_steps else "0"
            where = f"row {row} of {chunk.valid_steps} that ran"
            raise NumericsError(f"reward {self.name}: {rows[row]:g} in {where}, must be {allowed}")
        return rows


def _success(chunk: ExecutedChunk) -> Float32[Array, " E"]:
    return chunk.step_rewards


def bound_of(cfg: Any, env: EnvInfo) -> float:
    """Largest |reward| of one control action under a train config."""
    chosen = cfg.reward_model
    return env.max_step_reward if chosen is None else _kind(chosen.type).bound(chosen, env)


def identity_of_reward(cfg: Any) -> str:
    """The reward of a train config in words."""
    chosen = cfg.reward_model
    return SUCCESS if chosen is None else f"{chosen.type} {_kind(chosen.type).identity(chosen)}"


def build_reward(cfg: Any, env: EnvInfo, *, device: str = "cpu") -> BoundedReward:
    """The reward of a train config.

    Raises:
        ConfigError: nobody offers it; the message lists those that are there.
        EnvironmentNotReadyError, CheckpointError: what it is made of is not here.
    """
    chosen = cfg.reward_model
    reward = _success if chosen is None else _kind(chosen.type).build(chosen, device=device)
    return BoundedReward(name=identity_of_reward(cfg), bound=bound_of(cfg, env), reward=reward)


def _kind(name: str) -> RewardKind:
    return doors.load(doors.REWARDS, name)


@dataclass(kw_only=True)
class TimeCostConfig(lerobot_fields.RewardModelConfig):
    """Success, minus something for every control action until then."""

    cost: float = bounded(0.01, Range(0, 1, "reward; success is worth 1"))
    """Reward that one control action costs."""


@final
class TimeCostKind(RewardKind):
    """The shaped example: the sooner the better, where success alone is discounted only per chunk."""

    def config_class(self) -> type:
        """`TimeCostConfig`."""
        return TimeCostConfig

    def bound(self, reward_config: Any, env: EnvInfo) -> float:
        """The environment's, and the cost."""
        return env.max_step_reward + float(reward_config.cost)

    def identity(self, reward_config: Any) -> str:
        """The cost."""
        return f"cost={reward_config.cost}"

    def build(self, reward_config: Any, *, device: str) -> Reward:
        """Subtract the cost from every row that ran."""
        del device
        cost = np.float32(reward_config.cost)

        def reward(chunk: ExecutedChunk) -> Float32[Array, " E"]:
            rows = chunk.step_rewards.copy()
            rows[: chunk.valid_steps] -= cost
            return rows

        return reward


TIME_COST = TimeCostKind()
