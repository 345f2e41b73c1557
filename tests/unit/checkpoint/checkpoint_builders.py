"""A tiny run that can be trained, saved and loaded in milliseconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pirl.algorithm.critic import ValueTargets
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.checkpoint import RunState, SavedCheckpoint, load_checkpoint, save_checkpoint
from pirl.checkpoint.manifest import write_manifest
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig, RuntimeConfig
from pirl.config.train import PiRLMetaWorldEnvConfig, PiRLTrainConfig
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.tiny import tiny_metaworld_config

TOKEN = "not-for-publication"


@dataclass(frozen=True)
class Run:
    """What a learner holds."""

    cfg: PiRLTrainConfig
    policy: XVLAFlowPolicy
    algorithm: PiRLAlgorithm

    def with_cfg(self, cfg: PiRLTrainConfig) -> Run:
        return replace(self, cfg=cfg)


def a_config(variant: str = "flow-noise", *, denoising_steps: int = 2) -> PiRLTrainConfig:
    noise = variant == "flow-noise"
    pirl = PiRLConfig(
        variant=variant,
        flow_noise=FlowNoiseConfig(noise_head_hidden=(8,)) if noise else None,
        flow_sde=None if noise else FlowSDEConfig(),
        value_hidden=(16,),
        value_buffer_updates=2,
    )
    return PiRLTrainConfig(
        policy=tiny_metaworld_config(num_denoising_steps=denoising_steps),
        env=PiRLMetaWorldEnvConfig(),
        recipe="pi-rl",
        pirl=pirl,
        runtime=RuntimeConfig(total_updates=8, token=TOKEN),
        seed=3,
    )


def a_run(variant: str = "flow-noise", *, seed: int = 3, denoising_steps: int = 2) -> Run:
    """A run before its first update; another `seed` gives other weights under the same config."""
    cfg = a_config(variant, denoising_steps=denoising_steps)
    policy = build_policy(cfg.policy, executed_dims=None, device="cpu", seed=seed)
    settings = PiRLAlgorithmConfig(
        pirl=cfg.pirl, policy_config=cfg.policy, total_updates=8, seed=seed
    )
    algorithm = PiRLAlgorithm(policy, settings)
    algorithm.make_optimizers_and_scheduler()
    return Run(cfg=cfg, policy=policy, algorithm=algorithm)


def train(run: Run, step: int) -> None:
    """One update that touches every part of the state; a function of `step` and the state alone."""
    rng = torch.Generator().manual_seed(step)
    optimizer = run.algorithm.get_optimizers()["pi_rl"]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        group["lr"] *= 0.9
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    targets = {name: torch.randn(5, generator=rng) for name in ("target", "weight")}
    inputs = torch.randn(5, run.policy.critic_width, generator=rng)
    run.algorithm._buffer.add(ValueTargets(inputs=inputs, **targets))
    run.algorithm._schedule.scale *= 0.9
    run.algorithm._updates = step
    run.algorithm.optimization_step += 2


def a_state(step: int) -> RunState:
    return RunState(
        run_id="run-1",
        step=step,
        policy_version=step,
        config_path="configs/tiny.json",
        counters={"decisions": 24 * step, "books": {"episodes": 3 * step}},
        env_cursor={"policy_version": step},
        generators={"demo": torch.Generator().manual_seed(step).get_state()},
    )


def save(run: Run, folder: Path, step: int) -> SavedCheckpoint:
    return save_checkpoint(
        folder,
        state=a_state(step),
        total_steps=8,
        cfg=run.cfg,
        flow_policy=run.policy,
        algorithm=run.algorithm,
    )


def load(run: Run, step_dir: Path, *, run_dir: Path | None = None) -> RunState:
    return load_checkpoint(
        step_dir,
        cfg=run.cfg,
        flow_policy=run.policy,
        algorithm=run.algorithm,
        run_dir=run_dir,
    )


def edit_json(path: Path, edit: Any) -> None:
    """Change a JSON file in place by a function."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def resign(step_dir: Path) -> None:
    """Write a manifest that fits the folder as it is now, as a careful forger would."""
    (step_dir / "manifest.json").unlink()
    write_manifest(step_dir)


def canonical_hash(config: dict[str, Any]) -> str:
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
