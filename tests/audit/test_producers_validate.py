"""Every criterion of validate-config fails when a real producer meets what the criterion guards against."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion
from pirl.audit.policy import CRITERIA
from pirl.audit.records import files
from pirl.config import rules
from pirl.config.load import load_config
from pirl.config.train import encode_config
from pirl.contract.check import ClauseResult, ClauseStatus
from pirl.gate import validate_step
from pirl.gate.profiles import Profile
from pirl.hooks import VARIABLE

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}
REPO = Path(__file__).parents[2]
EMBEDDED = "configs/train_config_pirl_embedded.json"


class World:
    """The gate's config and what policy, simulator and machine answer; a test changes any of it."""

    def __init__(self) -> None:
        self.loaded = load_config(REPO / EMBEDDED)
        self.profile = Profile(name="embedded", reason="asked for")
        self.hash = self.loaded.identity.hash
        self.seed: int | None = 1000
        self.tree = encode_config(self.loaded.cfg)
        self.is_refused = True
        self.few_rules = False
        self.clauses = [
            ClauseResult(name=f"c{i}", says="it", status=ClauseStatus.KEPT, detail="")
            for i in range(8)
        ]
        self.versions = {"lerobot": "0.6.1", "mujoco": "3.8.1"}
        self.frame_std = 40.0
        self.source: str | None = None
        self.licence_file = "state"
        self.heldout = (5, 6)
        self.density = 1.0


@pytest.fixture
def step(monkeypatch, tmp_path, writer_of, bundle):
    """Runs the real step after `spoil` changed what it meets."""
    monkeypatch.chdir(REPO)
    world = World()
    spec = SimpleNamespace(chunk_size=4, executed_steps=4, denoising_steps=2, action_mode="auto")
    weights = {"w": torch.zeros(3)}
    session = SimpleNamespace(
        policy=SimpleNamespace(
            spec=spec, trained_parameters=lambda: weights, frozen_parameters=lambda: weights,
            module=SimpleNamespace(state_dict=lambda: weights),
        ),
        algorithm=SimpleNamespace(get_weights=lambda: weights),
        identity=SimpleNamespace(control_mode="relative"),
    )  # fmt: skip
    load, density = validate_step.load_config, validate_step.log_density

    def load_or_accept(path):
        return load(path) if world.is_refused else None

    fakes = {
        "build_session": lambda *_, **__: session,
        "load_config": load_or_accept,
        "log_density": lambda *a, **k: density(*a, **k) * world.density,
        "check_flow_policy": lambda *_: SimpleNamespace(results=world.clauses),
        "version": lambda name: world.versions[name],
        "weights_digest": lambda _: world.licence_file,
        "load_split": lambda *_, **__: SimpleNamespace(
            rule=lambda _: SimpleNamespace(train=(1, 2), heldout=world.heldout)
        ),
        "_look_at_environment": lambda gate, _: (None, look(world)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(validate_step, name, fake)
    writer = writer_of(files.VALIDATE)

    def execute(spoil=lambda world, patch: None):
        spoil(world, monkeypatch)
        if world.few_rules:
            whole = rules.rules_of
            monkeypatch.setattr(rules, "rules_of", lambda view: whole(view)[:3])
        identity = SimpleNamespace(path="c.json", hash=world.hash)
        cfg = world.loaded.cfg
        cfg.seed = world.seed
        loaded = SimpleNamespace(cfg=cfg, identity=identity)
        monkeypatch.setattr(validate_step, "encode_config", lambda _: world.tree)
        gate = SimpleNamespace(
            loaded=loaded, bundle=writer.bundle, profile=world.profile, config_path="c.json",
            variant=str(cfg.pirl.variant), rewarded=None,
        )  # fmt: skip
        validate_step.run(gate, writer)

    return execute


def look(world):
    """What the real function makes of a frame, without its policy."""
    rng = np.random.default_rng(0)
    frame = rng.normal(100.0, world.frame_std, (3, 8, 8))
    observation = SimpleNamespace(images={"image": frame})
    return validate_step.validate.FirstLook(
        task="t", init_state_id=0, env_steps=20, frame_std=validate_step.frame_spread(observation)
    )


def set_to(**changes):
    return lambda world, _: [setattr(world, name, value) for name, value in changes.items()]


def break_a_rule(world, _):
    world.tree["pirl"]["gamma"] = 1.5


def break_a_clause(world, _):
    world.clauses[0] = ClauseResult(name="c0", says="it", status=ClauseStatus.BROKEN, detail="no")


SPOILS = {
    "validate/config_hash_differs": set_to(hash="0" * 64),
    "validate/rules_failed": break_a_rule,
    "validate/rules_checked": set_to(few_rules=True),
    "validate/bad_configs_accepted": set_to(is_refused=False),
    "validate/contract_failed": break_a_clause,
    "validate/contract_checked": lambda world, _: world.clauses.__delitem__(slice(1, None)),
    "validate/analytic_max_error": set_to(density=1.01),
    "validate/untried_versions": set_to(versions={"lerobot": "0.7.0", "mujoco": "3.8.1"}),
    "validate/env_ready": set_to(frame_std=0.0),
    "validate/profile_inconsistent": set_to(profile=Profile(name="libero", reason="")),
    "validate/settings_missing": set_to(seed=None),
    "validate/inputs_missing": lambda world, patch: patch.setattr(
        validate_step, "environment_facts", lambda _: no_tasks(world)
    ),
    "validate/split_overlap": set_to(heldout=(2, 3)),
    "validate/checks_disabled": lambda _, patch: patch.setenv(VARIABLE, "handshake"),
}


def no_tasks(_):
    return validate_step.validate.Simulator(
        name="MetaWorld", version="3", mujoco="3.8.1", tasks=(), assets={"a": "b"},
        initial_states={"a": "b"}, reset_mode="x",
    )  # fmt: skip


def test_the_real_step_on_a_good_config_passes_everything(step, raw):
    step()
    for name in SPOILS:
        result = judge_criterion(BY_NAME[name], raw)
        assert result.verdict is Verdict.PASSED, result


@pytest.mark.parametrize("name", SPOILS)
def test_criterion_fails_when_a_producer_meets_what_it_guards_against(step, raw, name):
    step(SPOILS[name])
    assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED


def test_the_readable_config_names_the_settings_that_are_hashed(step, raw):
    step()
    tree = json.loads((raw.root / "config" / "train_config.json").read_text())
    assert tree["seed"] is not None
