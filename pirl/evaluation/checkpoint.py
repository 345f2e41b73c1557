"""Evaluate a saved policy: its own weights, its own sampler settings, the environment of a train config.

Owns how a checkpoint folder and a train config become policy, environment and schedule. Refuses random
weights: a policy without weights is an error. Read `pirl.evaluation.report` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import draccus
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.xvla.configuration_xvla import XVLAConfig

from pirl.config.policy_path import resolve_policy_path
from pirl.config.train import PiRLTrainConfig, env_of
from pirl.contract.xvla import XVLAFlowPolicy, build_policy
from pirl.contract.xvla_inputs import real_cameras
from pirl.envs import make_vector_env
from pirl.envs.schedule import evaluation_plans
from pirl.envs.split import load_split
from pirl.evaluation.episodes import OnEpisode, evaluate
from pirl.records import EpisodePlan, EpisodeRecord
from pirl.runtime.lockstep import language_of
from pirl.runtime.timers import StageTimers


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to evaluate; the same protocol on the same environment gives the same schedule."""

    episodes_per_task: int
    seed: int
    split: str = "heldout"
    """`heldout`, `train` or `all`."""
    num_envs: int = 1
    num_workers: int = 1
    """Changes speed, never results."""
    record_frames: bool = False


def evaluate_checkpoint(
    policy_path: str | Path,
    cfg: PiRLTrainConfig,
    *,
    protocol: Protocol,
    device: str = "cpu",
    timers: StageTimers | None = None,
    on_episode: OnEpisode | None = None,
) -> list[EpisodeRecord]:
    """The records of a saved policy in the environment of `cfg`.

    Args:
        policy_path: a `pretrained_model/` folder or a hub id; loaded by stock LeRobot with strict keys.
        cfg: environment and split; its policy section is not read, the checkpoint's own config is.

    Raises:
        ConfigError: no policy there, or policy, environment, split and protocol do not fit.
        CheckpointError: the weights are damaged or do not fit their config.
        EnvironmentNotReadyError: hub, packages, assets or GL are missing.
        EnvError: the simulator failed.
    """
    policy = load_checkpoint(policy_path, executed_dims=cfg.pirl.executed_dims, device=device)
    config = policy.module.model.config
    torch.set_num_threads(cfg.runtime.torch_threads)
    split = load_split(env_of(cfg).type, mode=protocol.split, split_file=cfg.runtime.split_file)
    with make_vector_env(
        env_of(cfg),
        num_envs=protocol.num_envs,
        num_workers=protocol.num_workers,
        image_keys=real_cameras(config),
        split=split,
        record_frames=protocol.record_frames,
    ) as env:
        plans: Sequence[EpisodePlan] = evaluation_plans(
            seed=protocol.seed,
            task_names=env.task_names,
            split=split,
            episodes_per_task=protocol.episodes_per_task,
        )
        return evaluate(
            policy,
            env=env,
            plans=plans,
            language=language_of(config, env),
            seed=protocol.seed,
            timers=timers,
            on_episode=on_episode,
        )


def load_checkpoint(
    policy_path: str | Path, *, executed_dims: Sequence[int] | None, device: str
) -> XVLAFlowPolicy:
    """The policy of a `pretrained_model/` folder or hub id, in eval mode, never with random weights.

    K and the executed steps are those of the checkpoint's config.

    Raises:
        ConfigError, CheckpointError, EnvironmentNotReadyError: as for `evaluate_checkpoint`.
    """
    tree = resolve_policy_path({"path": str(policy_path)})
    config = cast(Any, draccus.decode(PreTrainedConfig, tree))
    return build_policy(
        cast(XVLAConfig, config), executed_dims=executed_dims, device=device, seed=0
    )
