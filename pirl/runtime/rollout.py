"""Collect the rollout of one policy version: policy and simulator in lockstep, no sockets.

Owns episode order, the random streams of the policy and the assembly of transitions. Refuses to know where
weights come from or decisions go. Read `pirl.runtime.actor` next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.envs.base import ChunkResult, EnvObservation, VectorEnv
from pirl.envs.schedule import plan_episode, stream_seed
from pirl.envs.split import StateSplit
from pirl.records import EpisodePlan, EpisodeRecord, Observation
from pirl.runtime.batch import DOMAIN_ID, INPUT_IDS, build_transition, state_of
from pirl.runtime.timers import StageTimers

type Frame = UInt8[np.ndarray[Any, Any], "h w 3"]
"""Red, green, blue."""


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
    observation: Observation
    transitions: list[Transition] = field(default_factory=list[Transition])
    frames: list[Frame] = field(default_factory=list[Frame])
    env_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which of all streams of episodes this collector runs."""

    seed: int
    rank: int
    num_actors: int
    split: StateSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Instruction tokens per task, computed once, and the embodiment's domain id."""

    input_ids: Mapping[int, Tensor]
    domain_id: int


class RolloutCollector:
    """Runs a vector environment under a policy, one version at a time.

    Every random draw of the policy is a function of (seed, policy version, rank, episode, chunk), so the
    result depends neither on what ran before nor on how slots were batched in time.
    """

    def __init__(
        self,
        *,
        policy: FlowPolicy,
        noise_head: NoiseHead | None,
        env: VectorEnv,
        pirl: PiRLConfig,
        placement: Placement,
        language: Language,
        timers: StageTimers,
        stochastic: bool = True,
    ) -> None:
        self._policy = policy
        self._noise_head = noise_head
        self._env = env
        self._pirl = pirl
        self._placement = placement
        self._language = language
        self._timers = timers
        self._stochastic = stochastic
        self._version = -1
        self._started: dict[int, int] = {}

    def collect(self, *, version: int, min_decisions: int) -> Iterator[FinishedEpisode]:
        """Yield complete episodes until at least `min_decisions` decisions were executed.

        All slots advance together and a slot starts another episode only while too few decisions have
        been executed, so the set of episodes does not depend on timing. With GRPO all slots start
        together, which keeps groups complete. A second call with the same version goes on to the
        version's next episodes.

        Raises:
            EnvError: the simulator failed; carries task and seed.
        """
        if version != self._version:
            self._version = version
            self._started = dict.fromkeys(range(self._env.num_envs), 0)
        in_rounds = self._pirl.adv_type == "grpo"
        executed = 0
        slots: dict[int, _Slot] = {}
        while True:
            if executed < min_decisions and not (in_rounds and slots):
                idle = [i for i in range(self._env.num_envs) if i not in slots]
                slots |= self._start({index: self._plan(index) for index in idle})
            if not slots:
                return
            results = self._step(slots, version)
            executed += len(results)
            for index, result in results.items():
                if result.terminated or result.truncated:
                    yield self._finish(slots.pop(index), result, version)

    def _plan(self, index: int) -> EpisodePlan:
        """The next episode of a slot."""
        where = self._placement
        plan = plan_episode(
            seed=where.seed,
            policy_version=self._version,
            rank=where.rank,
            env_index=index,
            episode_index=self._started[index],
            task_names=self._env.task_names,
            split=where.split,
            num_envs=self._env.num_envs,
            num_actors=where.num_actors,
            group_size=self._pirl.group_size,
            adv_type=self._pirl.adv_type,
        )
        self._started[index] += 1
        return plan

    def _start(self, plans: Mapping[int, EpisodePlan]) -> dict[int, _Slot]:
        if not plans:
            return {}
        with self._timers.stage("reset"):
            observations = self._env.reset(plans)
        return {
            index: _Slot(plan, self._observe(observations[index], plan.task_id))
            for index, plan in plans.items()
        }

    def _observe(self, raw: EnvObservation, task_id: int) -> Observation:
        return Observation(
            images={k: torch.from_numpy(v).unsqueeze(0) for k, v in raw.images.items()},
            state=torch.from_numpy(raw.state).unsqueeze(0),
            input_ids=self._language.input_ids[task_id],
            domain_id=torch.tensor([self._language.domain_id]),
        )

    def _step(self, slots: dict[int, _Slot], version: int) -> dict[int, ChunkResult]:
        """One decision in every active slot."""
        order = sorted(slots)
        rngs = [
            torch.Generator().manual_seed(
                stream_seed(
                    self._placement.seed,
                    "policy",
                    version,
                    self._placement.rank,
                    slots[i].plan.episode_id,
                    len(slots[i].transitions),
                )
            )
            for i in order
        ]
        with self._timers.stage("infer"):
            context = self._policy.encode(Observation.cat([slots[i].observation for i in order]))
            sampled = sample_chunk(
                self._policy,
                context,
                pirl=self._pirl,
                noise_head=self._noise_head,
                rngs=rngs,
                stochastic=self._stochastic,
            )
            rows = self._policy.spec.executed_steps
            env_chunk = self._policy.postprocess(sampled.chunk)[:, :rows].cpu()
        actions = self._env.to_env_actions(env_chunk.numpy())
        results = self._env.step_chunk({i: actions[row] for row, i in enumerate(order)})
        for row, index in enumerate(order):
            info = {name: value[row : row + 1].cpu() for name, value in sampled.fields.items()}
            action = sampled.chunk[row : row + 1, :rows].cpu()
            self._append(slots[index], results[index], action=action, info=info, version=version)
        return results

    def _append(
        self,
        slot: _Slot,
        result: ChunkResult,
        *,
        action: Tensor,
        info: dict[str, Tensor],
        version: int,
    ) -> None:
        """Turn one executed chunk into a transition and move the slot on."""
        self._timers.add("env_step", result.timings["step_s"])
        self._timers.add("render", result.timings["render_s"])
        following = self._observe(result.observation, slot.plan.task_id)
        identifiers = {
            "pirl_version": torch.tensor([version]),
            "pirl_episode_id": torch.tensor([slot.plan.episode_id]),
            "pirl_chunk_idx": torch.tensor([len(slot.transitions)]),
            "pirl_group_id": torch.tensor([slot.plan.group_id]),
            INPUT_IDS: slot.observation.input_ids,
            DOMAIN_ID: slot.observation.domain_id,
        }
        slot.transitions.append(
            build_transition(
                state=state_of(slot.observation),
                next_state=state_of(following),
                action=action,
                step_rewards=result.step_rewards,
                valid_steps=result.valid_steps,
                terminated=result.terminated,
                truncated=result.truncated,
                info=identifiers | info,
                spec=self._policy.spec,
            )
        )
        slot.frames.extend(result.frames)
        slot.env_steps += result.sim_steps
        slot.observation = following

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
