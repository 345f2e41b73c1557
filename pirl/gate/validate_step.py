"""Step 1, validate-config: the config, the policy contract, the closed forms and the simulator.

Owns what is recorded in `raw/validate-config/*`. Starts no learner and no actor. Read `pirl.gate.smoke_step`
next.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
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
from pirl.config.identity import canonical_json
from pirl.config.load import load_config
from pirl.config.rules import RULES
from pirl.config.train import encode_config, env_of, policy_of
from pirl.config.view import View
from pirl.contract.check import ClauseStatus, check_flow_policy
from pirl.contract.xvla import domain_id_of, tokenize_instruction, weights_digest
from pirl.envs import describe_env, load_split
from pirl.errors import ConfigError
from pirl.evidence.bundle import StepWriter
from pirl.evidence.outcomes import SUCCESS_DEFINITION
from pirl.files import write_text
from pirl.gate.facts import environment_facts
from pirl.gate.profiles import BLANK_STD, first_look, frame_spread
from pirl.gate.session import GateSession
from pirl.hooks import hooks_active
from pirl.records import Observation
from pirl.runtime.session import Session, build_session

type _Rows = Float32[np.ndarray[Any, Any], "*shape"]

_STOPPING_RULE = "after runtime.total_updates updates, fixed before the run"


def run(gate: GateSession, step: StepWriter) -> None:
    """Write every record of validate-config.

    Raises:
        PirlError: the policy or the simulator cannot be built; what was recorded so far stays.
    """
    cfg = gate.loaded.cfg
    gate.bundle.config(canonical_json(cfg), encode_config(cfg))
    gate.bundle.command(
        ["pirl", "validate", "--config_path", gate.config_path], comment="step validate-config"
    )
    step.record(
        "config.json",
        {
            "path": gate.loaded.identity.path,
            "hash": gate.loaded.identity.hash,
            "variant": str(cfg.pirl.variant),
            "recipe": str(cfg.recipe),
            "hooks": list(hooks_active()),
        },
    )
    step.record(
        "profile.json",
        {
            "profile": gate.profile.name,
            "reason": gate.profile.reason or "none",
            "suite": env_of(cfg).task,
            "env_type": env_of(cfg).type,
        },
    )
    step.lines("rules.jsonl", _rules(encode_config(cfg)))
    step.lines("refused.jsonl", _refused(gate))
    step.lines("analytic.jsonl", _analytic(gate))
    session = build_session(gate.loaded, device=cfg.runtime.learner_device, run_id="validate")
    step.record("settings.json", _settings(gate, session))
    step.record("inputs.json", _inputs(gate, session))
    step.record("split.json", _split(gate))
    observation, env_record = _look_at_environment(gate, session)
    step.record("env.json", env_record)
    report = check_flow_policy(session.policy, observation)
    step.lines(
        "contract.jsonl",
        [
            {
                "clause": r.name,
                "outcome": "passed" if r.status is ClauseStatus.KEPT else str(r.status),
                "says": r.says,
                "detail": r.detail,
            }
            for r in report.results
        ],
    )
    step.lines("preflight.jsonl", _preflight(env_record))


def _rules(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rule of the config, by name, with its outcome."""
    view = View(tree)
    records: list[dict[str, Any]] = []
    for rule in RULES:
        errors = list(rule(view))
        records.append(
            {
                "rule": rule.__name__,
                "outcome": "failed" if errors else "passed",
                "errors": [str(error) for error in errors],
            }
        )
    return records


def _edit(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """An edit that sets one dotted field."""

    def apply(tree: dict[str, Any]) -> None:
        node = tree
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value

    return apply


def _bad_configs(variant: str) -> dict[str, Callable[[dict[str, Any]], None]]:
    """The invalid configs that validation must refuse, as edits of the gate's own config."""
    other = "flow_noise" if variant == "flow-sde" else "flow_sde"
    return {
        "unknown-key": _edit("pirl", "gama", value=0.99),
        "wrong-type": _edit("pirl", "gamma", value="high"),
        "out-of-range": _edit("pirl", "gamma", value=1.5),
        "missing-variant": _edit("pirl", "variant", value=None),
        "recipe-near-miss": _edit("recipe", value="pi_rl"),
        "other-variant-knob": _edit("pirl", other, value={}),
        "batch-not-divisible": _edit("pirl", "micro_batch", value=3),
        "unqualified-policy": _edit("policy", value={"type": "act"}),
    }


def _refused(gate: GateSession) -> list[dict[str, Any]]:
    """Feed each invalid config to the loader that every process uses."""
    base = encode_config(gate.loaded.cfg)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case, edit in _bad_configs(gate.variant).items():
            tree = deepcopy(base)
            edit(tree)
            path = Path(folder) / f"{case}.json"
            write_text(path, json.dumps(tree))
            exit_code, fields = 0, list[dict[str, Any]]()
            try:
                load_config(path)
            except ConfigError as error:
                exit_code = int(error.exit_code)
                fields = [asdict(e) | {"value": repr(e.value)[:120]} for e in error.errors]
            records.append({"case": case, "exit_code": exit_code, "fields": fields})
    return records


def _analytic(gate: GateSession) -> list[dict[str, Any]]:
    """pirl's own numbers for cases whose closed forms the verifier knows."""
    rng = torch.Generator().manual_seed(1)
    x, mean = torch.randn(2, 12, generator=rng, dtype=torch.float64)
    std = torch.rand(12, generator=rng, dtype=torch.float64) + 0.1
    law = GaussianStep(mean=mean, std=std)
    log_prob = log_density(x, law, mask=torch.ones(12, dtype=torch.bool)).sum()
    records: list[dict[str, Any]] = [
        {
            "kind": "gaussian",
            "x": x.tolist(),
            "mean": mean.tolist(),
            "std": std.tolist(),
            "log_prob": float(log_prob),
        },
        _gae_case(gate),
    ]
    for steps in (2, 5, 10):
        stds = [step_noise(k, steps, method="flow_sde", noise_level=0.5).std for k in range(steps)]
        records.append(
            {"kind": "flow-sde-std", "denoising_steps": steps, "noise_level": 0.5, "std": stds}
        )
    return records


def _gae_case(gate: GateSession) -> dict[str, Any]:
    """The hand case of `algorithm.md` I31: one terminal and one truncated episode."""
    rewards = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    next_values = [0.2, 0.3, 0.0, 0.5, 0.6, 0.7]
    done = [False, False, True, False, False, False]
    truncated = [False, False, False, False, False, True]
    gamma, lam = gate.loaded.cfg.pirl.gamma, gate.loaded.cfg.pirl.gae_lambda
    layout = episode_layout(torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2]))
    advantage = gae(
        layout,
        reward=torch.tensor(rewards),
        value=torch.tensor(values),
        next_value=torch.tensor(next_values),
        terminated=torch.tensor(done),
        truncated=torch.tensor(truncated),
        gamma=gamma,
        gae_lambda=lam,
        bootstrap_on_truncation=True,
    )
    return {
        "kind": "gae",
        "gamma": gamma,
        "lambda": lam,
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "done": done,
        "truncated": truncated,
        "advantages": advantage.tolist(),
    }


def _settings(gate: GateSession, session: Session) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    cfg, spec = gate.loaded.cfg, session.policy.spec
    trained = session.policy.trained_parameters()
    frozen = session.policy.frozen_parameters()
    sent = session.algorithm.get_weights()
    noise = cfg.pirl.flow_noise if cfg.pirl.is_flow_noise else cfg.pirl.flow_sde
    device = "cuda" if cfg.runtime.learner_device.startswith("cuda") else "cpu"
    return {
        "seed": cfg.seed,
        "total_updates": cfg.runtime.total_updates,
        "rollout_chunks": cfg.runtime.rollout_chunks,
        "actors": cfg.runtime.actors,
        "mode": cfg.runtime.mode,
        "split": cfg.runtime.split,
        "chunk_size": spec.chunk_size,
        "executed_steps": spec.executed_steps,
        "denoising_steps": spec.denoising_steps,
        "noise": asdict(noise) if noise is not None else {},
        "action_mode": spec.action_mode,
        "control_mode": getattr(env_of(cfg), "control_mode", "position delta of MetaWorld"),
        "episode_length": env_of(cfg).episode_length,
        "numerics": f"{device}/float32",
        "torch_threads": cfg.runtime.torch_threads,
        "success_definition": SUCCESS_DEFINITION,
        "stopping_rule": _STOPPING_RULE,
        "parameters": {
            "total": sum(p.numel() for p in (*trained.values(), *frozen.values())),
            "trained": sum(p.numel() for p in trained.values()),
            "sent": sum(int(t.numel()) for t in sent.values()),
        },
    }


def _inputs(gate: GateSession, session: Session) -> dict[str, Any]:
    """The starting checkpoint and the environment, by digest."""
    cfg = gate.loaded.cfg
    source = policy_of(cfg).pretrained_path
    state = session.policy.module.state_dict()
    return {
        "checkpoint": {
            "source": "random weights from the seed" if source is None else str(source),
            "revision": "none"
            if source is None
            else str(policy_of(cfg).pretrained_revision or "main"),
            "licence": "none: made here" if source is None else "see the checkpoint's model card",
            "files": {"state_dict": weights_digest(state)},
        },
        "environment": environment_facts(env_of(cfg)),
    }


def _split(gate: GateSession) -> dict[str, Any]:
    """Training and held-out initial states of every task, as lists."""
    cfg = gate.loaded.cfg
    split = load_split(env_of(cfg).type, split_file=cfg.runtime.split_file)
    names = describe_env(env_of(cfg)).task_names
    rules = {name: split.rule(name) for name in names}
    return {
        "mode": cfg.runtime.split,
        "tasks": {
            name: {"train": list(rule.train), "heldout": list(rule.heldout)}
            for name, rule in rules.items()
        },
    }


def _look_at_environment(gate: GateSession, session: Session) -> tuple[Observation, dict[str, Any]]:
    """Run one chunk of the episode that the gate began; the first real observation goes to the contract check."""
    cfg = gate.loaded.cfg
    look = gate.look or first_look(gate.loaded)
    env, plan, raw = look.env, look.plan, look.observation
    try:
        observation = Observation(
            images={k: torch.from_numpy(v.copy()).unsqueeze(0) for k, v in raw.images.items()},
            state=torch.from_numpy(raw.state).unsqueeze(0),
            input_ids=tokenize_instruction(policy_of(cfg), env.instruction(plan.task_id)),
            domain_id=torch.tensor([domain_id_of(policy_of(cfg))]),
        )
        width = session.policy.spec.model_dim
        rows = session.policy.spec.executed_steps
        still = session.policy.postprocess(torch.zeros(1, rows, width))[0].numpy()
        result = env.step_chunk({0: env.to_env_actions(_hold(still, raw.state))})[0]
        record = {
            "reset": True,
            "env_steps": result.sim_steps,
            "frame_std": frame_spread(result.observation),
            "task": env.task_names[plan.task_id],
            "init_state_id": plan.init_state_id,
        }
    finally:
        env.close()
    return observation, record


def _hold(rows: _Rows, state: _Rows) -> _Rows:
    """Absolute control must be told the present pose; for other modes zero is already "stay"."""
    held = rows.copy()
    if held.shape[-1] == state.shape[-1]:
        held[..., :9] = state[:9]
    return held


def _preflight(env_record: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Checks of the machine that the run depends on."""
    checks = {
        "python": True,
        "lerobot": version("lerobot").startswith("0.6."),
        "mujoco": version("mujoco") == "3.8.1",
        "render": env_record["frame_std"] > BLANK_STD,
        "threads": torch.get_num_threads() >= 1,
    }
    return [{"check": k, "outcome": "passed" if ok else "failed"} for k, ok in checks.items()]
