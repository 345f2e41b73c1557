"""What learner and actor build alike from one config: policy, algorithm, identity, seeds, threads.

Owns the construction order, so that both roles build the same objects from the same bytes. Refuses to know
sockets and simulators.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from lerobot.utils.random_utils import set_seed

from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.record import read_record
from pirl.config.identity import canonical_json
from pirl.config.load import LoadedConfig
from pirl.config.train import PiRLTrainConfig, env_of, policy_of
from pirl.contract.digests import weights_digest
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.precision import TF32, switch_tf32
from pirl.contract.registry import build_flow_policy
from pirl.envs import describe_env, load_split
from pirl.files import write_text
from pirl.runtime.door import RolloutBounds, bounds_of
from pirl.runtime.identity import identity_of
from pirl.runtime.rewards import bound_of
from pirl.transport.identity import Identity
from pirl.transport.schema import TransitionSchema, transition_schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The objects of one role."""

    loaded: LoadedConfig
    policy: FlowPolicy
    algorithm: PiRLAlgorithm
    identity: Identity
    image_keys: tuple[str, ...]
    """The policy's cameras in its order."""
    schema: TransitionSchema
    """What a transition of this recipe must look like."""
    bounds: RolloutBounds
    """What a rollout of it can mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that a process belongs to, as its first start named it."""

    run_id: str
    """"" when this process starts a new run."""
    config_path: str


def read_origin(loaded: LoadedConfig) -> Origin:
    """Who a process says that it is: a resumed run keeps the run id and config path of its start.

    A checkpoint is the same run at another file name, so an actor that outlived its learner, or one that is
    started from the run's own config, must find the identity that it knows.

    Raises:
        CheckpointError: the run resumes and its checkpoint has no readable record.
    """
    if not loaded.cfg.resume:
        return Origin(run_id="", config_path=loaded.identity.path)
    record = read_record(resolve_checkpoint(loaded.source_path))
    return Origin(
        run_id=str(record["run_id"]), config_path=str(record["identity"].get("config_path"))
    )


def build_session(loaded: LoadedConfig, *, device: str, run_id: str) -> Session:
    """Policy and algorithm from a validated config, deterministic in `cfg.seed`; demonstrations are the learner's.

    Args:
        device: the role's own device (`runtime.learner_device` or `runtime.actor_device`).
        run_id: the learner's run id; an actor passes "" and adopts the learner's at first contact, unless
            its config is a checkpoint's: then it waits for that run only.

    Raises:
        EnvironmentNotReadyError: the policy's weights cannot be had.
    """
    cfg = loaded.cfg
    origin = read_origin(loaded)
    torch.set_num_threads(cfg.runtime.torch_threads)
    switch_tf32(cfg.pirl.precision)
    if cfg.pirl.precision == TF32 and torch.device(device).type == "cpu":
        logger.warning("pirl.precision=tf32 has no effect on a CPU: this process computes in fp32")
    seed = cfg.seed or 0
    # Nothing in pirl draws from the global generators; they are seeded so that their state, which a
    # checkpoint carries, is a function of the config as well.
    set_seed(seed)
    policy = build_flow_policy(
        policy_of(cfg),
        executed_dims=cfg.pirl.executed_dims,
        device=device,
        seed=seed,
        train_scope=cfg.pirl.train_scope,
        precision=cfg.pirl.precision,
    )
    algorithm = PiRLAlgorithm(
        policy,
        PiRLAlgorithmConfig(
            pirl=cfg.pirl,
            policy_config=policy_of(cfg),
            total_updates=cfg.runtime.total_updates,
            seed=seed,
        ),
        parity_tol=cfg.runtime.parity_tol,
        ratio_tol=cfg.runtime.ratio_tol,
    )
    identity = identity_of(
        loaded, policy, config_path=origin.config_path, run_id=run_id or origin.run_id
    )
    env = describe_env(env_of(cfg))
    image_keys = policy.cameras
    schema = transition_schema(
        policy.spec,
        cfg.pirl,
        image_shapes={name: env.image_shapes[name] for name in image_keys},
        state_dim=env.state_width,
        inputs=policy.inputs,
        max_step_reward=bound_of(cfg, env),
    )
    split = load_split(env_of(cfg).type, mode=cfg.runtime.split, split_file=cfg.runtime.split_file)
    return Session(
        loaded=loaded,
        policy=policy,
        algorithm=algorithm,
        identity=identity,
        image_keys=image_keys,
        schema=schema,
        bounds=bounds_of(cfg, spec=policy.spec, env=env, split=split, inputs=policy.inputs),
    )


def write_effective_config(path: Path, cfg: PiRLTrainConfig) -> None:
    """Write the exact text whose SHA-256 is the config hash of this process."""
    write_text(path, canonical_json(cfg), encoding="ascii")


def tensor_digests(policy: FlowPolicy) -> dict[str, dict[str, str]]:
    """SHA-256 of every trained and every frozen parameter, by name."""
    groups = {"trained": policy.trained_parameters(), "frozen": policy.frozen_parameters()}
    return {
        group: {name: weights_digest({name: p.detach()}) for name, p in parameters.items()}
        for group, parameters in groups.items()
    }
