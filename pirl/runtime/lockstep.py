"""Run planned episodes under a policy: slots in lockstep, one batched decision at a time, no sockets.

Owns the slots, the decisions and the assembly of transitions. Refuses to know where plans, random streams and
weights come from. Read `pirl.runtime.rollout` next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.decision import CHUNK_INDEX, EPISODE_ID, GROUP_ID, VERSION
from pirl.envs.base import Array, ChunkResult, EnvObservation, PendingChunk, VectorEnv
from pirl.episodes import BrokenOffEpisode
from pirl.errors import EnvError
from pirl.records import EpisodePlan, EpisodeRecord, Observation, SampledChunk
from pirl.runtime.batch import build_transition, inputs_of, state_of
from pirl.runtime.rewards import BoundedReward, ExecutedChunk
from pirl.runtime.timers import StageTimers

type Frame = UInt8[np.ndarray[Any, Any], "h w 3"]
"""Red, green, blue."""

type ChunkSeed = Callable[[EpisodePlan, int], int]
"""Seed of the policy's draws, from the episode and the number of the decision in it."""

type NextPlans = Callable[[Sequence[int], int], Mapping[int, EpisodePlan]]
"""Plans for some of the idle slots, given these and the decisions of all rounds before.

Asked several times in a round with two groups, each time with other or fewer idle slots.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedEpisode:
    """One complete episode: its decisions in order, and its record."""

    transitions: list[Transition]
    record: EpisodeRecord
    frames: list[Frame]


@dataclass(slots=True)
class _Slot:
    """An environment slot with an episode under way."""

    plan: EpisodePlan
    raw: EnvObservation
    observation: Observation
    transitions: list[Transition] = field(default_factory=list[Transition])
    frames: list[Frame] = field(default_factory=list[Frame])
    env_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What a group of slots executes meanwhile."""

    order: list[int]
    """Slots by row."""
    sampled: SampledChunk
    actions: Float32[Array, "B E A"]
    chunk: PendingChunk


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """Where one `Lockstep.run` stands."""

    next_plans: NextPlans
    seed_of: ChunkSeed
    version: int
    executed: int = 0
    """Decisions of all rounds before this one."""
    slots: dict[int, _Slot] = field(default_factory=dict[int, _Slot])
    begun: dict[int, EpisodePlan] = field(default_factory=dict[int, EpisodePlan])
    """By slot, from before the reset to the end of the episode."""
    at_work: dict[int, _Decided] = field(default_factory=dict[int, _Decided])
    """By group, in the order in which they began."""

    def active(self, group: Sequence[int]) -> list[int]:
        """Those slots of a group that have an episode under way."""
        return [index for index in group if index in self.slots]


class Lockstep:
    """Runs episodes in a vector environment under a policy; all active slots of a group decide together.

    A round is one decision of every active slot. With two groups one simulates while the other decides; rounds,
    and with them the episodes that start, are those of one group.

    `stochastic=False` is the policy's own sampler: start noise is random, nothing after it. Without `reward` a
    decision is worth what the environment says.
    """

    def __init__(
        self,
        *,
        policy: FlowPolicy,
        noise_head: NoiseHead | None,
        env: VectorEnv,
        pirl: PiRLConfig,
        timers: StageTimers,
        stochastic: bool,
        groups: int = 1,
        reward: BoundedReward | None = None,
        on_broken_off: Callable[[BrokenOffEpisode], None] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._noise_head = noise_head
        self._env = env
        self._pirl = pirl
        self._timers = timers
        self._stochastic = stochastic
        self._groups = groups
        self._reward = reward
        self._on_broken_off = on_broken_off

    def run(
        self,
        next_plans: NextPlans,
        *,
        seed_of: ChunkSeed,
        version: int,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Generator[FinishedEpisode]:
        """Yield complete episodes, in the order they end, until no slot runs and none is to start.

        Args:
            seed_of: must differ between any two decisions; nothing else is random.
            version: the policy version that the records carry.
            give_up: asked before every decision; True leaves the episodes under way unfinished.

        Raises:
            EnvError: the simulator failed; carries task and seed.
        """
        rollout = _Rollout(next_plans=next_plans, seed_of=seed_of, version=version)
        end = "interrupted"
        try:
            while decided := (yield from self._round(rollout, give_up)):
                rollout.executed += decided
        except EnvError:
            end = "env-error"
            raise
        finally:
            for index, plan in rollout.begun.items():
                self._on_broken_off(self._broken_off(plan, rollout.slots.get(index), version, end))

    def _round(
        self, rollout: _Rollout, give_up: Callable[[], bool]
    ) -> Generator[FinishedEpisode, None, int]:
        """One decision of every active slot, group by group; returns how many, 0 when all is over."""
        decided = 0
        groups = self._slots_by_group()
        for number, group in enumerate(groups):
            yield from self._end(rollout, number)
            self._begin(rollout, group)
            if number == 0 and len(groups) > 1 and len(rollout.active(group)) < 2:
                # Whether it decides alone, and whether all are idle, the results of the others say.
                for other in tuple(rollout.at_work):
                    yield from self._end(rollout, other)
                self._begin(rollout, range(self._env.num_envs))
            order = rollout.active(group)
            if not order:
                continue
            if give_up():
                return 0
            rollout.at_work[number] = self._send(rollout, order)
            decided += len(order)
        return decided

    def _slots_by_group(self) -> list[range]:
        """Neighbours, so that episodes which end in one round are handed over in the order of their slots."""
        size = self._env.num_envs // self._groups
        return [range(number * size, (number + 1) * size) for number in range(self._groups)]

    def _begin(self, rollout: _Rollout, among: Sequence[int]) -> None:
        """Start the episodes that are planned for idle slots."""
        idle = [index for index in among if index not in rollout.slots]
        plans = rollout.next_plans(idle, rollout.executed)
        if not plans:
            return
        rollout.begun |= plans
        with self._timers.stage("reset"):
            observations = self._env.reset(plans)
        with self._timers.stage("preprocess"):
            for index, plan in plans.items():
                raw = observations[index]
                rollout.slots[index] = _Slot(plan, raw, self._observe(raw, plan.task_id))

    def _end(self, rollout: _Rollout, number: int) -> Generator[FinishedEpisode]:
        """Wait for what a group executes, if it does, and yield the episodes that are over."""
        if number not in rollout.at_work:
            return
        results = self._receive(rollout, rollout.at_work.pop(number))
        for index, result in results.items():
            if result.terminated or result.truncated:
                del rollout.begun[index]
                yield self._finish(rollout.slots.pop(index), result, rollout.version)

    def _broken_off(
        self, plan: EpisodePlan, slot: _Slot | None, version: int, end: str
    ) -> BrokenOffEpisode:
        """The record of an episode whose reset was asked for and whose end never came."""
        return BrokenOffEpisode(
            task_id=plan.task_id,
            task=self._env.task_names[plan.task_id],
            init_state_id=plan.init_state_id,
            seed=plan.seed,
            episode_id=plan.episode_id,
            policy_version=version,
            env_steps=0 if slot is None else slot.env_steps,
            decisions=0 if slot is None else len(slot.transitions),
            end=end,
        )

    def _observe(self, raw: EnvObservation, task_id: int) -> Observation:
        return self._policy.prepare(raw, self._env.instruction(task_id))

    def _send(self, rollout: _Rollout, order: list[int]) -> _Decided:
        """One decision in each slot of `order`, which they begin to execute."""
        slots = [rollout.slots[index] for index in order]
        sampled = self._decide(
            [slot.observation for slot in slots],
            seeds=[rollout.seed_of(slot.plan, len(slot.transitions)) for slot in slots],
            alone=len(rollout.slots) == 1,
        )
        with self._timers.stage("infer"):
            rows = self._policy.spec.executed_steps
            env_chunk = self._policy.postprocess(sampled.chunk)[: len(order), :rows].cpu()
        actions = self._env.to_env_actions(env_chunk.numpy())
        chunk = self._env.start_chunk({i: actions[row] for row, i in enumerate(order)})
        return _Decided(order=order, sampled=sampled, actions=actions, chunk=chunk)

    def _receive(self, rollout: _Rollout, decided: _Decided) -> dict[int, ChunkResult]:
        """What came of it in each of its slots."""
        results = decided.chunk.results()
        sampled, rows = decided.sampled, self._policy.spec.executed_steps
        for row, index in enumerate(decided.order):
            slot = rollout.slots[index]
            info = {name: value[row : row + 1].cpu() for name, value in sampled.fields.items()}
            action = sampled.chunk[row : row + 1, :rows].cpu()
            paid = self._paid(slot, results[index], decided.actions[row])
            self._append(
                slot, results[index], paid, action=action, info=info, version=rollout.version
            )
        return results

    def _decide(
        self, observations: list[Observation], *, seeds: list[int], alone: bool
    ) -> SampledChunk:
        """One chunk per observation, and perhaps a copy of the only one at the end.

        A batch of one row takes other matrix kernels than a larger batch, with other last bits. Without noise
        a row must not depend on how many slots are still active, so a single row is computed twice; so is one
        that is the last of its group and not `alone` in the round.
        """
        if len(observations) == 1 and not (self._stochastic and alone):
            observations, seeds = observations * 2, seeds * 2
        with self._timers.stage("preprocess"):
            observation = Observation.cat(observations)
        with self._timers.stage("infer"):
            return sample_chunk(
                self._policy,
                self._policy.encode(observation),
                pirl=self._pirl,
                noise_head=self._noise_head,
                rngs=[torch.Generator().manual_seed(seed) for seed in seeds],
                stochastic=self._stochastic,
            )

    def _paid(
        self, slot: _Slot, result: ChunkResult, actions: Float32[Array, "E A"]
    ) -> Float32[Array, " E"]:
        """What the executed rows are worth."""
        if self._reward is None:
            return result.step_rewards
        return self._reward(
            ExecutedChunk(
                before=slot.raw,
                after=result.observation,
                actions=actions,
                step_rewards=result.step_rewards,
                valid_steps=result.valid_steps,
                terminated=result.terminated,
                truncated=result.truncated,
                instruction=self._env.instruction(slot.plan.task_id),
            )
        )

    def _append(
        self,
        slot: _Slot,
        result: ChunkResult,
        paid: Float32[Array, " E"],
        *,
        action: Tensor,
        info: dict[str, Tensor],
        version: int,
    ) -> None:
        """Turn one executed chunk into a transition and move the slot on."""
        self._timers.add("env_step", result.timings["step_s"])
        self._timers.add("render", result.timings["render_s"])
        self._timers.add("preprocess", result.timings["preprocess_s"])
        with self._timers.stage("preprocess"):
            following = self._observe(result.observation, slot.plan.task_id)
        identifiers = {
            VERSION: torch.tensor([version]),
            EPISODE_ID: torch.tensor([slot.plan.episode_id]),
            CHUNK_INDEX: torch.tensor([len(slot.transitions)]),
            GROUP_ID: torch.tensor([slot.plan.group_id]),
            **inputs_of(slot.observation),
        }
        slot.transitions.append(
            build_transition(
                state=state_of(slot.observation),
                next_state=state_of(following),
                action=action,
                step_rewards=paid,
                valid_steps=result.valid_steps,
                terminated=result.terminated,
                truncated=result.truncated,
                info=identifiers | info,
                spec=self._policy.spec,
            )
        )
        slot.frames.extend(result.frames)
        slot.env_steps += result.sim_steps
        slot.raw, slot.observation = result.observation, following

    def _finish(self, slot: _Slot, last: ChunkResult, version: int) -> FinishedEpisode:
        plan = slot.plan
        record = EpisodeRecord(
            task_id=plan.task_id,
            task=self._env.task_names[plan.task_id],
            init_state_id=plan.init_state_id,
            seed=plan.seed,
            episode_id=plan.episode_id,
            policy_version=version,
            env_steps=slot.env_steps,
            decisions=len(slot.transitions),
            reward=float(sum(t["reward"] for t in slot.transitions)),
            success=last.success,
            truncated=last.truncated,
        )
        return FinishedEpisode(transitions=slot.transitions, record=record, frames=slot.frames)
