"""Collect the rollout of one policy version: which episodes run where, and with which random streams.

Owns episode order and the random streams of the policy. Refuses to know where weights come from or decisions
go. Read `pirl.runtime.lockstep` for the running and `pirl.runtime.actor` next.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.envs.base import VectorEnv
from pirl.envs.schedule import plan_episode, stream_seed
from pirl.envs.split import StateSplit
from pirl.episodes import BrokenOffEpisode
from pirl.records import EpisodePlan
from pirl.runtime.lockstep import FinishedEpisode, Lockstep
from pirl.runtime.rewards import BoundedReward
from pirl.runtime.timers import StageTimers


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which of all streams of episodes this collector runs."""

    seed: int
    rank: int
    num_actors: int
    split: StateSplit


class RolloutCollector:
    """Runs a vector environment under a policy, one version at a time.

    Every random draw of the policy is a function of (seed, policy version, rank, episode, chunk), so the
    result depends neither on what ran before nor on how slots were batched in time. With `pipeline=2` half of
    the slots simulate while the other half decide; the episodes and their order are the same.
    """

    def __init__(
        self,
        *,
        policy: FlowPolicy,
        noise_head: NoiseHead | None,
        env: VectorEnv,
        pirl: PiRLConfig,
        placement: Placement,
        timers: StageTimers | None = None,
        pipeline: int = 1,
        reward: BoundedReward | None = None,
        on_broken_off: Callable[[BrokenOffEpisode], None] = lambda _: None,
    ) -> None:
        self._lockstep = Lockstep(
            policy=policy,
            noise_head=noise_head,
            env=env,
            pirl=pirl,
            timers=timers or StageTimers(),
            stochastic=True,
            groups=pipeline,
            reward=reward,
            on_broken_off=on_broken_off,
        )
        self._env = env
        self._pirl = pirl
        self._placement = placement
        self._version = -1
        self._started: dict[int, int] = {}

    def collect(
        self,
        *,
        version: int,
        min_decisions: int,
        anew: bool = False,
        give_up: Callable[[], bool] = lambda: False,
    ) -> Generator[FinishedEpisode]:
        """Yield complete episodes until at least `min_decisions` decisions were executed.

        All slots advance by one decision in a round and a slot starts another episode only while too few
        decisions have been executed, so the set of episodes does not depend on timing. With GRPO all slots start
        together, which keeps groups complete. A second call with the same version goes on to the
        version's next episodes; with `anew` it repeats them from the first. `give_up` is asked before every
        chunk; episodes under way are then left unfinished.

        Raises:
            EnvError: the simulator failed; carries task and seed.
        """
        if anew or version != self._version:
            self._version = version
            self._started = dict.fromkeys(range(self._env.num_envs), 0)
        in_rounds = self._pirl.adv_type == "grpo"

        def next_plans(idle: Sequence[int], executed: int) -> Mapping[int, EpisodePlan]:
            if executed >= min_decisions or (in_rounds and len(idle) < self._env.num_envs):
                return {}
            return {index: self._plan(index) for index in idle}

        def seed_of(plan: EpisodePlan, chunk: int) -> int:
            where = self._placement
            return stream_seed(where.seed, "policy", version, where.rank, plan.episode_id, chunk)

        return self._lockstep.run(next_plans, seed_of=seed_of, version=version, give_up=give_up)

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
