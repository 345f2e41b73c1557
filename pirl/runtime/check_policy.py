"""`pirl check-policy --config_path F`: the contract, on the policy of a config, and its stock sampler.

Owns the artificial observation that the clauses are asked with and the table of answers. Starts no simulator and
trains nothing. Read `pirl.contract.check` for the clauses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from pirl.algorithm.chain import sample_chunk
from pirl.config.arguments import check_policy_parser
from pirl.config.command_line import parse
from pirl.config.load import load_config
from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.config.train import env_of, policy_of
from pirl.contract.check import ClauseResult, ClauseStatus, check_flow_policy
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.precision import precision_of, tolerances
from pirl.contract.registry import PolicyKind, build_flow_policy, policy_kind
from pirl.envs import EnvInfo, EnvObservation, describe_env
from pirl.errors import ConfigError, ExitCode, FieldError
from pirl.records import Observation

_ROWS = 3


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl check-policy`.

    Raises:
        ConfigError, EnvironmentNotReadyError, CheckpointError: there is no such policy to check.
    """
    args, overrides = parse(check_policy_parser(), argv)
    cfg = load_config(args.config_path, overrides).cfg
    if cfg.recipe is None:
        wrong = FieldError(
            field="recipe", value=None, expected="pi-rl", fix="give a config of the recipe"
        )
        raise ConfigError([wrong])
    config = policy_of(cfg)
    policy = build_flow_policy(
        config,
        executed_dims=cfg.pirl.executed_dims,
        device=cfg.runtime.learner_device,
        seed=cfg.seed or 0,
        train_scope=cfg.pirl.train_scope,
        precision=cfg.pirl.precision,
    )
    observation = artificial(policy, describe_env(env_of(cfg)))
    results = [
        *check_flow_policy(policy, observation).results,
        stock_sampler(policy, policy_kind(config.type), observation),
    ]
    if args.json:
        rows = [asdict(result) for result in results]
        sys.stdout.write(json.dumps({"policy": config.type, "clauses": rows}, indent=2) + "\n")
    else:
        width = max(len(result.name) for result in results)
        for result in results:
            said = f"{result.name:<{width}}  {result.status:<7}  {result.detail or result.says}"
            sys.stdout.write(said + "\n")
    is_kept = all(result.status is ClauseStatus.KEPT for result in results)
    return int(ExitCode.OK if is_kept else ExitCode.CHECK_FAILED)


def artificial(policy: FlowPolicy, env: EnvInfo) -> Observation:
    """Reproducible pixels and states of the environment's shapes, told its first instructions."""
    rng = np.random.default_rng(0)
    rows = [
        EnvObservation(
            images={
                name: rng.integers(0, 256, env.image_shapes[name], dtype=np.uint8)
                for name in policy.cameras
            },
            state=rng.random(env.state_width, dtype=np.float32),
        )
        for _ in range(_ROWS)
    ]
    told = env.instructions
    return Observation.cat([policy.prepare(row, told[i % len(told)]) for i, row in enumerate(rows)])


def stock_sampler(policy: FlowPolicy, kind: PolicyKind, observation: Observation) -> ClauseResult:
    """Whether the chain without noise is what LeRobot's own sampler makes of the same start noise."""
    pirl = PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig(), base_sampler=policy.sampler)
    rngs, again = (
        [torch.Generator().manual_seed(row) for row in range(len(observation))] for _ in range(2)
    )
    sampled = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=pirl,
        noise_head=None,
        rngs=rngs,
        stochastic=False,
    )
    shape = policy.spec.chunk_size, policy.spec.model_dim
    noise = torch.stack([torch.randn(shape, generator=rng) for rng in again]).to(policy.device)
    stock = kind.stock_generate(policy.module, observation, noise)
    gap = float((policy.postprocess(sampled.chunk) - stock.to(policy.device)).abs().max())
    limit = tolerances(precision_of(policy), device=policy.device.type).stock
    holds = gap <= limit
    return ClauseResult(
        name="stock-sampler",
        says="without noise after the start, the chunk is that of LeRobot's own sampler",
        status=ClauseStatus.KEPT if holds else ClauseStatus.BROKEN,
        detail="" if holds else f"differs by up to {gap:.3g} (tolerance {limit:g})",
    )
