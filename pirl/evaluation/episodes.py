"""Run a fixed schedule of episodes with the policy's own sampler, and return one record per episode.

Owns the start noise of an evaluation. Refuses to know files and statistics: `pirl.evaluation.report` turns
records into counts. Read `pirl.evaluation.checkpoint` next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from tqdm import tqdm

from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.envs.base import VectorEnv
from pirl.envs.schedule import stream_seed
from pirl.errors import EnvError
from pirl.records import EpisodePlan, EpisodeRecord
from pirl.runtime.lockstep import FinishedEpisode, Lockstep
from pirl.runtime.timers import StageTimers

STOCK_SAMPLER = PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig())
"""No noise after the start: with the base that the policy names, LeRobot's own sampler (`algorithm.md` I1),
whatever recipe trained the policy. Its noise settings are never read."""


class SimulatorCrashError(EnvError):
    """A simulator failed in the middle of `plans`, which shared its process: one of them is to blame."""

    def __init__(self, error: EnvError, plans: Sequence[EpisodePlan]) -> None:
        self.plans = tuple(plans)
        super().__init__(str(error), slots=error.slots)


type OnEpisode = Callable[[FinishedEpisode], None]


def evaluate(
    policy: FlowPolicy,
    *,
    env: VectorEnv,
    plans: Sequence[EpisodePlan],
    seed: int,
    version: int = 0,
    timers: StageTimers | None = None,
    on_episode: OnEpisode | None = None,
) -> list[EpisodeRecord]:
    """Run every plan once; progress goes to stderr.

    A free slot takes the next plan. The start noise of a decision is a function of `seed`, the plan's task,
    initial state and seed, and the decision's number in the episode, so two policies meet the same noise.

    Args:
        plans: as `pirl.envs.schedule.evaluation_plans` makes them; the environment's split must allow them.
        version: the policy version that the records carry; it changes nothing else.
        on_episode: called with each episode as it ends, frames included.

    Returns:
        The records in the order of `plans`.

    Raises:
        ConfigError: a plan names a state outside the split of `env`.
        SimulatorCrashError: a simulator failed in the middle of an episode; `env` is closed.

    Invariant: on one machine the records depend neither on `env.num_envs` nor on its workers.
    """
    lockstep = Lockstep(
        policy=policy,
        noise_head=None,
        env=env,
        pirl=replace(STOCK_SAMPLER, base_sampler=policy.sampler),
        timers=timers or StageTimers(),
        stochastic=False,
    )
    waiting = iter(plans)
    running: dict[int, EpisodePlan] = {}

    def next_plans(idle: Sequence[int], _executed: int) -> Mapping[int, EpisodePlan]:
        started = dict(zip(idle, waiting, strict=False))
        running.update(started)
        return started

    def seed_of(plan: EpisodePlan, chunk: int) -> int:
        task = env.task_names[plan.task_id]
        return stream_seed(seed, "evaluation", task, plan.init_state_id, plan.seed, chunk)

    records: dict[int, EpisodeRecord] = {}
    try:
        with _progress(len(plans)) as bar:
            for episode in lockstep.run(next_plans, seed_of=seed_of, version=version):
                records[episode.record.episode_id] = episode.record
                if on_episode is not None:
                    on_episode(episode)
                successes = sum(record.success for record in records.values())
                bar.set_postfix_str(f"{successes} succeeded", refresh=False)
                bar.update()
    except EnvError as error:
        if not error.slots:
            raise
        raise SimulatorCrashError(error, [running[slot] for slot in error.slots]) from error
    return [records[plan.episode_id] for plan in plans]


def _progress(total: int) -> tqdm[NoReturn]:
    # A log file gets a line every half minute, a terminal a bar.
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc="evaluate", unit="episode", file=sys.stderr, mininterval=interval)
