"""Step 1, validate-config: the config, the policy contract, the closed forms and the simulator.

Owns what is recorded of validate-config. Starts no learner and no actor. Read `pirl.gate.smoke_step` next.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from pirl.algorithm.advantage import episode_layout, gae
from pirl.algorithm.gaussian import GaussianStep, log_density
from pirl.algorithm.schedule import step_noise
from pirl.audit.bundle import StepWriter
from pirl.audit.criteria.validate import GAUSSIAN_ELEMENTS, STD_STEPS, VERSIONS
from pirl.audit.outcomes import STOPPING_RULE, SUCCESS_DEFINITION
from pirl.audit.records import files, validate
from pirl.config.identity import canonical_json
from pirl.config.load import load_config
from pirl.config.rules import rule_outcomes
from pirl.config.train import encode_config, env_of, policy_of
from pirl.contract.check import check_flow_policy
from pirl.contract.digests import weights_digest
from pirl.envs import describe_env, load_split
from pirl.envs.split import StateRule
from pirl.errors import ConfigError
from pirl.files import write_text
from pirl.gate.facts import environment_facts
from pirl.gate.profiles import first_look, frame_spread
from pirl.gate.session import GateSession
from pirl.hooks import hooks_active
from pirl.records import Observation
from pirl.runtime.session import Session, build_session

type _Rows = Float32[np.ndarray[Any, Any], "*shape"]


def run(gate: GateSession, step: StepWriter) -> None:
    """Write every record of validate-config.

    Raises:
        PirlError: the policy or the simulator cannot be built; what was recorded so far stays.
    """
    cfg, identity = gate.loaded.cfg, gate.loaded.identity
    gate.bundle.config(canonical_json(cfg), encode_config(cfg))
    step.command(["pirl", "validate", "--config_path", gate.config_path], about="the config")
    config = validate.Config(
        path=identity.path,
        hash=identity.hash,
        variant=str(cfg.pirl.variant),
        recipe=str(cfg.recipe),
        hooks=hooks_active(),
    )
    step.write(files.CONFIG, config)
    profile = validate.Profile(
        profile=gate.profile.name,
        reason=gate.profile.reason,
        suite=env_of(cfg).task,
        env_type=env_of(cfg).type,
    )
    step.write(files.PROFILE, profile)
    outcomes = rule_outcomes(encode_config(cfg))
    rules = [validate.Rule(rule=o.rule, errors=tuple(map(str, o.errors))) for o in outcomes]
    step.write_all(files.RULES, rules)
    step.write_all(files.INVALID, _invalid_configs(gate))
    step.write_all(files.GAUSSIAN, [gaussian_case()])
    step.write_all(files.GAE, [gae_case(cfg.pirl.gamma, cfg.pirl.gae_lambda)])
    step.write_all(files.STD, [std_case(steps) for steps in STD_STEPS])
    session = build_session(gate.loaded, device=cfg.runtime.learner_device, run_id="validate")
    step.write(files.SETTINGS, _settings(gate, session))
    step.write(files.INPUTS, _inputs(gate, session))
    step.write(files.SPLIT, _split(gate))
    observation, look = _look_at_environment(gate, session)
    step.write(files.FIRST_LOOK, look)
    report = check_flow_policy(session.policy, observation)
    step.write_all(
        files.CONTRACT,
        [
            validate.Clause(clause=r.name, status=str(r.status), asks=r.says, detail=r.detail)
            for r in report.results
        ],
    )
    step.write_all(files.PACKAGES, packages())


def packages() -> list[validate.Package]:
    """Versions as they are installed here; which ones were tried is the criterion's to know."""
    found = {
        name: platform.python_version() if name == "python" else version(name) for name in VERSIONS
    }
    return [validate.Package(package=name, version=found[name]) for name in VERSIONS]


def _edit(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """An edit that sets one dotted field."""

    def apply(tree: dict[str, Any]) -> None:
        node = tree
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value

    return apply


def _bad_configs(variant: str, *, global_batch: int) -> dict[str, Callable[[dict[str, Any]], None]]:
    """The invalid configs that validation must refuse, as edits of the gate's own config."""
    other = "flow_noise" if variant == "flow-sde" else "flow_sde"
    return {
        "unknown-key": _edit("pirl", "gama", value=0.99),
        "wrong-type": _edit("pirl", "gamma", value="high"),
        "out-of-range": _edit("pirl", "gamma", value=1.5),
        "missing-variant": _edit("pirl", "variant", value=None),
        "recipe-near-miss": _edit("recipe", value="pi_rl"),
        "other-variant-knob": _edit("pirl", other, value={}),
        "batch-not-divisible": _edit("pirl", "micro_batch", value=global_batch + 1),
        "unqualified-policy": _edit("policy", value={"type": "act"}),
    }


def _invalid_configs(gate: GateSession) -> list[validate.InvalidConfig]:
    """Feed each invalid config to the loader that every process uses."""
    base = encode_config(gate.loaded.cfg)
    records: list[validate.InvalidConfig] = []
    with tempfile.TemporaryDirectory() as folder:
        cases = _bad_configs(gate.variant, global_batch=gate.loaded.cfg.pirl.global_batch)
        for case, edit in cases.items():
            tree = deepcopy(base)
            edit(tree)
            path = Path(folder) / f"{case}.json"
            write_text(path, json.dumps(tree))
            records.append(load_invalid(case, path))
    return records


def load_invalid(case: str, path: Path) -> validate.InvalidConfig:
    """What becomes of a config that must be refused."""
    try:
        load_config(path)
    except ConfigError as error:
        objections = tuple(
            validate.Objection(
                field_name=e.field, value=repr(e.value)[:120], expected=e.expected, fix=e.fix
            )
            for e in error.errors
        )
        return validate.InvalidConfig(
            case=case, exit_code=int(error.exit_code), objections=objections
        )
    return validate.InvalidConfig(case=case, exit_code=None, objections=())


def gaussian_case() -> validate.GaussianCase:
    """pirl's own density of a fixed sample."""
    rng = torch.Generator().manual_seed(1)
    x, mean = torch.randn(2, GAUSSIAN_ELEMENTS, generator=rng, dtype=torch.float64)
    std = torch.rand(GAUSSIAN_ELEMENTS, generator=rng, dtype=torch.float64) + 0.1
    law = GaussianStep(mean=mean, std=std)
    log_prob = log_density(x, law, mask=torch.ones(GAUSSIAN_ELEMENTS, dtype=torch.bool)).sum()
    return validate.GaussianCase(
        x=tuple(x.tolist()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        log_prob=float(log_prob),
    )


def std_case(steps: int) -> validate.StdCase:
    """pirl's own transition stds of Flow-SDE."""
    stds = [step_noise(k, steps, method="flow_sde", noise_level=0.5).std for k in range(steps)]
    return validate.StdCase(denoising_steps=steps, noise_level=0.5, std=tuple(map(float, stds)))


def gae_case(gamma: float, gae_lambda: float) -> validate.GaeCase:
    """The hand case of `algorithm.md` I31: one terminal and one truncated episode."""
    rewards = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    values = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    next_values = (0.2, 0.3, 0.0, 0.5, 0.6, 0.7)
    done = (False, False, True, False, False, False)
    truncated = (False, False, False, False, False, True)
    layout = episode_layout(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2]))
    advantage = gae(
        layout,
        reward=torch.tensor(rewards),
        value=torch.tensor(values),
        next_value=torch.tensor(next_values),
        terminated=torch.tensor(done),
        truncated=torch.tensor(truncated),
        gamma=gamma,
        gae_lambda=gae_lambda,
        bootstrap_on_truncation=True,
    )
    return validate.GaeCase(
        gamma=gamma,
        gae_lambda=gae_lambda,
        rewards=rewards,
        values=values,
        next_values=next_values,
        done=done,
        truncated=truncated,
        advantages=tuple(advantage.tolist()),
    )


def _settings(gate: GateSession, session: Session) -> validate.Settings:
    """What a reader needs to repeat the run."""
    cfg, spec = gate.loaded.cfg, session.policy.spec
    trained = session.policy.trained_parameters()
    frozen = session.policy.frozen_parameters()
    sent = session.algorithm.get_weights()
    noise = cfg.pirl.flow_noise if cfg.pirl.is_flow_noise else cfg.pirl.flow_sde
    knobs = {} if noise is None else asdict(noise)
    device = "cuda" if cfg.runtime.learner_device.startswith("cuda") else "cpu"
    return validate.Settings(
        seed=cfg.seed,
        total_updates=cfg.runtime.total_updates,
        rollout_chunks=cfg.runtime.rollout_chunks,
        actors=cfg.runtime.actors,
        mode=cfg.runtime.mode,
        split=cfg.runtime.split,
        chunk_size=spec.chunk_size,
        executed_steps=spec.executed_steps,
        denoising_steps=spec.denoising_steps,
        noise={k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in knobs.items()},
        action_mode=spec.action_mode,
        control_mode=session.identity.control_mode,
        episode_length=env_of(cfg).episode_length,
        numerics=f"{device}/float32",
        torch_threads=cfg.runtime.torch_threads,
        success_definition=SUCCESS_DEFINITION,
        stopping_rule=STOPPING_RULE,
        parameters=validate.Parameters(
            total=sum(p.numel() for p in (*trained.values(), *frozen.values())),
            trained=sum(p.numel() for p in trained.values()),
            sent=sum(int(t.numel()) for t in sent.values()),
        ),
    )


def _inputs(gate: GateSession, session: Session) -> validate.Inputs:
    """The starting checkpoint and the environment, by digest."""
    cfg = gate.loaded.cfg
    source = policy_of(cfg).pretrained_path
    state = session.policy.module.state_dict()
    start = validate.StartingPoint(
        source="random weights from the seed" if source is None else str(source),
        revision="none" if source is None else str(policy_of(cfg).pretrained_revision or "main"),
        licence="none: made here" if source is None else "see the checkpoint's model card",
        files={"state_dict": weights_digest(state)},
    )
    return validate.Inputs(checkpoint=start, environment=environment_facts(env_of(cfg)))


def _split(gate: GateSession) -> validate.Split:
    """Training and held-out initial states of every task that a smoke run plays."""
    cfg = gate.loaded.cfg
    rules: dict[str, StateRule] = {}
    for played in (cfg, gate.rewarded and gate.rewarded.cfg):
        if played is not None:
            split = load_split(env_of(played).type, split_file=played.runtime.split_file)
            rules |= {name: split.rule(name) for name in describe_env(env_of(played)).task_names}
    return validate.Split(
        mode=cfg.runtime.split,
        tasks={
            name: validate.Sides(train=tuple(rule.train), heldout=tuple(rule.heldout))
            for name, rule in rules.items()
        },
    )


def _look_at_environment(
    gate: GateSession, session: Session
) -> tuple[Observation, validate.FirstLook]:
    """Run one chunk of the episode that the gate began; the first real observation goes to the contract check."""
    look = gate.look or first_look(gate.loaded)
    env, plan, raw = look.env, look.plan, look.observation
    try:
        observation = session.policy.prepare(raw, env.instruction(plan.task_id))
        width = session.policy.spec.model_dim
        rows = session.policy.spec.executed_steps
        still = session.policy.postprocess(torch.zeros(1, rows, width))[0].numpy()
        if session.identity.control_mode == "absolute":
            still = _hold(still, raw.state)
        result = env.step_chunk({0: env.to_env_actions(still)})[0]
        record = validate.FirstLook(
            task=env.task_names[plan.task_id],
            init_state_id=plan.init_state_id,
            env_steps=result.sim_steps,
            frame_std=frame_spread(result.observation),
        )
    finally:
        env.close()
    return observation, record


def _hold(rows: _Rows, state: _Rows) -> _Rows:
    """Absolute control must be told the present pose; for other modes zero is already "stay"."""
    held = rows.copy()
    if held.shape[-1] == state.shape[-1]:
        held[..., :9] = state[:9]
    return held
