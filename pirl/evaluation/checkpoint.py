"""Evaluate a saved policy: its own weights, its own sampler settings, the environment of a train config.

Owns how a checkpoint folder and a train config become policy, split and schedule, and what is checked before
a simulator starts. Refuses random weights: a policy without weights is an error. Read
`pirl.evaluation.results` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from lerobot.configs.policies import PreTrainedConfig

from pirl import doors
from pirl.config.policy_path import resolve_policy_path
from pirl.config.train import PiRLTrainConfig, env_of
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.registry import build_flow_policy, policy_kind
from pirl.envs import EnvInfo, StateSplit, describe_env, load_split, make_vector_env
from pirl.envs.kinds import env_kind
from pirl.envs.schedule import evaluation_plans
from pirl.errors import ConfigError, FieldError
from pirl.evaluation.crashes import OnCrash, check_limit, crashed_record, reason_of
from pirl.evaluation.episodes import OnEpisode, SimulatorCrashError, evaluate
from pirl.records import EpisodePlan, EpisodeRecord
from pirl.runtime.lockstep import FinishedEpisode
from pirl.runtime.timers import StageTimers


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to evaluate; the same protocol on the same environment gives the same schedule."""

    episodes_per_task: int
    seed: int
    split: str = "heldout"
    """`heldout`, `train` or `all` (peer-comparable: overlaps training)."""
    num_envs: int = 1
    num_workers: int = 1
    """Slots and workers change speed, never results."""
    record_frames: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything an evaluation needs, checked; no simulator has started."""

    policy: FlowPolicy
    cfg: PiRLTrainConfig
    protocol: Protocol
    split: StateSplit
    env: EnvInfo
    plans: tuple[EpisodePlan, ...]


def evaluate_checkpoint(
    policy_path: str | Path,
    cfg: PiRLTrainConfig,
    *,
    protocol: Protocol,
    device: str = "cpu",
    timers: StageTimers | None = None,
    on_episode: OnEpisode | None = None,
) -> list[EpisodeRecord]:
    """The records of a saved policy in the environment of `cfg`: `prepare`, then `run`."""
    evaluation = prepare(policy_path, cfg, protocol=protocol, device=device)
    return run(evaluation, timers=timers, on_episode=on_episode)


def prepare(
    policy_path: str | Path, cfg: PiRLTrainConfig, *, protocol: Protocol, device: str
) -> Evaluation:
    """Load the policy with strict keys by stock LeRobot, check it against `cfg`, fix the schedule.

    Args:
        policy_path: a `pretrained_model/` folder or a hub id; K and the executed steps are its own.
        cfg: environment and split; its policy section is not read.

    Raises:
        ConfigError: no policy there, or policy, environment, split and protocol do not fit.
        CheckpointError: the weights are damaged or do not fit their config.
        EnvironmentNotReadyError: hub, packages or assets are missing.
    """
    tree = resolve_policy_path({"path": str(policy_path)})
    if doors.is_installed(doors.POLICIES, tree["type"]):
        # LeRobot knows a config class once it is imported.
        policy_kind(tree["type"]).config_class()
    policy_config: Any = draccus.decode(PreTrainedConfig, tree)
    _check_fit(cfg, policy_config)
    split = load_split(env_of(cfg).type, mode=protocol.split, split_file=cfg.runtime.split_file)
    env = describe_env(env_of(cfg))
    plans = _schedule(protocol, env=env, split=split)
    errors = policy_kind(policy_config.type).start_errors(policy_config)
    if errors:
        raise ConfigError(errors, source="evaluation")
    torch.set_num_threads(cfg.runtime.torch_threads)
    policy = build_flow_policy(
        policy_config,
        executed_dims=cfg.pirl.executed_dims,
        device=device,
        seed=protocol.seed,
        precision=cfg.pirl.precision,
    )
    return Evaluation(
        policy=policy,
        cfg=cfg,
        protocol=protocol,
        split=split,
        env=env,
        plans=tuple(plans),
    )


def run(
    evaluation: Evaluation,
    *,
    timers: StageTimers | None = None,
    on_episode: OnEpisode | None = None,
    on_crash: OnCrash | None = None,
) -> list[EpisodeRecord]:
    """Start the simulators, run the schedule, end them.

    An episode whose simulator crashes has a record without a decision, and the others go on with new
    simulators: each is a function of its plan, so what was under way is run again from its start. Of several
    that shared the process, each is run again alone to find the one to blame.

    Args:
        on_crash: called with the record of an episode that crashed and the reason; without it the first
            crash ends the evaluation.

    Raises:
        EnvironmentNotReadyError: assets or GL are missing.
        EnvError: no simulator can be built, or `crashes.LIMIT` episodes in a row of the schedule crashed.
    """
    done: dict[int, EpisodeRecord] = {}
    crashed: set[int] = set()
    alone: list[EpisodePlan] = []

    def note(episode: FinishedEpisode) -> None:
        done[episode.record.episode_id] = episode.record
        if on_episode is not None:
            on_episode(episode)

    while left := [plan for plan in evaluation.plans if plan.episode_id not in done]:
        alone = [plan for plan in alone if plan.episode_id not in done]
        try:
            _run_some(evaluation, alone[:1] or left, timers=timers, on_episode=note)
        except SimulatorCrashError as crash:
            if on_crash is None:
                raise
            plan, *others = crash.plans
            if others:
                alone = [plan, *others]
                continue
            why = reason_of(crash)
            done[plan.episode_id] = crashed_record(plan, evaluation.env.task_names[plan.task_id])
            crashed.add(plan.episode_id)
            on_crash(done[plan.episode_id], why)
            check_limit(evaluation.plans, crashed, why)
    return [done[plan.episode_id] for plan in evaluation.plans]


def _run_some(
    evaluation: Evaluation,
    plans: Sequence[EpisodePlan],
    *,
    timers: StageTimers | None,
    on_episode: OnEpisode,
) -> None:
    protocol = evaluation.protocol
    with make_vector_env(
        env_of(evaluation.cfg),
        num_envs=min(protocol.num_envs, len(plans)),
        num_workers=min(protocol.num_workers, len(plans)),
        image_keys=evaluation.policy.cameras,
        split=evaluation.split,
        record_frames=protocol.record_frames,
        stock_simulator=evaluation.cfg.runtime.stock_simulator,
    ) as env:
        evaluate(
            evaluation.policy,
            env=env,
            plans=plans,
            seed=protocol.seed,
            timers=timers,
            on_episode=on_episode,
        )


def _schedule(protocol: Protocol, *, env: EnvInfo, split: StateSplit) -> list[EpisodePlan]:
    if protocol.episodes_per_task < 1:
        raise _wrong("--episodes-per-task", protocol.episodes_per_task, ">= 1", "run at least one")
    return evaluation_plans(
        seed=protocol.seed,
        task_names=env.task_names,
        split=split,
        episodes_per_task=protocol.episodes_per_task,
    )


def _check_fit(cfg: PiRLTrainConfig, policy_config: Any) -> None:
    """Every rule of a training config, with the checkpoint's own policy section in it.

    `env.task` may list several suites; training knows one, so each is judged alone.
    """
    if cfg.recipe is None:
        raise _wrong("recipe", None, "pi-rl", "give a pi-rl config with --config_path")
    joined = deepcopy(cfg)
    joined.policy = policy_config
    env = env_of(cfg)
    kind = env_kind(env.type)
    for task in kind.suites(env.task):
        env_of(joined).task = task
        joined.validate()
    errors = kind.evaluation_errors(env)
    if errors:
        raise ConfigError(errors, source="evaluation")


def _wrong(field: str, value: object, expected: str, fix: str) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="evaluation")
