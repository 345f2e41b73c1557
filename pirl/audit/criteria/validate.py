"""Criteria of validate-config.

Owns an independent oracle in plain Python for densities and advantages. Read `pirl.audit.criteria.link` next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pirl.audit.criterion import IS_TRUE, Group, Measured, counted
from pirl.audit.raw import MissingRecordError, RawRecords, some
from pirl.audit.records import files
from pirl.audit.records.validate import GaeCase, GaussianCase, Settings, StdCase
from pirl.errors import EvidenceError
from pirl.journal.fields import file_sha256, mapping, read_object, text

criterion = Group("validate", files.VALIDATE)

ENV_TYPES = {"libero": "libero", "embedded": "pirl_metaworld"}
"""Profile and the environment type that belongs to it; `own` has the one that its config names."""

REFUSED_CASES = (
    "unknown-key", "wrong-type", "out-of-range", "missing-variant", "recipe-near-miss",
    "other-variant-knob", "batch-not-divisible", "unqualified-policy",
)  # fmt: skip
"""Invalid configs that validation must refuse, each with exit code 2 and a named field."""

VERSIONS = {"python": "3.12.", "lerobot": "0.6.", "mujoco": "3.8.1"}
"""Package and what its version begins with; elsewhere nothing was tried."""

PACKAGE_OF = {"libero": ("LIBERO", "hf-libero"), "pirl_metaworld": ("MetaWorld", "metaworld")}
"""Built-in environment type, and its simulator by name and by package."""

CLAUSES = (
    "protocol", "spec", "eval-mode", "precision", "parameters", "inputs", "encode", "encode-deterministic",
    "predict", "postprocess", "postprocess-pure", "predict-deterministic", "train-mode-refused",
    "trained-gradient", "frozen", "hidden-gripper", "visible-dims", "critic-features", "padded-views",
    "batching",
)  # fmt: skip
"""Clauses of the flow-policy contract in their order, by name: `pirl.contract.check` costs torch."""

STD_STEPS = (2, 5, 10)
"""Numbers of denoising steps whose stds are compared with the closed form."""
GAUSSIAN_ELEMENTS = 12
"""Of the sample whose density is."""

CANONICAL = "config/canonical.json"
BLANK_STD = 1.0
"""A frame whose pixels vary less than this shows nothing."""


def _canonical(raw: RawRecords) -> Path:
    path = raw.root / CANONICAL
    if not path.is_file():
        raise MissingRecordError(f"{CANONICAL} is missing")
    return path


@criterion("==", 0, row="C1")
def config_hash_differs(raw: RawRecords) -> Measured:
    """The hash that every later step uses is the SHA-256 of the canonical config."""
    actual = file_sha256(_canonical(raw))
    differs = raw.one(files.CONFIG).hash != actual
    return Measured(value=int(differs), detail=f"sha256 {actual[:12]}")


@criterion("==", 0, "rules", row="C2")
def rules_failed(raw: RawRecords) -> Measured:
    """Every rule of the config holds."""
    rules = raw.all(files.RULES)
    return counted([r.rule for r in rules if r.errors], f"{len(rules)} rules")


@criterion(">=", 15, "rules", row="C2")
def rules_checked(raw: RawRecords) -> Measured:
    """Distinct rules that were looked at."""
    return Measured(value=len({r.rule for r in raw.all(files.RULES)}))


@criterion("==", 0, "cases", row="C2")
def bad_configs_accepted(raw: RawRecords) -> Measured:
    """Every invalid config is refused with exit code 2, the field and its fix."""
    refused = {
        case.case
        for case in raw.all(files.INVALID)
        if case.exit_code == 2
        and case.objections
        and all(o.field_name and o.expected and o.fix for o in case.objections)
    }
    return counted([c for c in REFUSED_CASES if c not in refused], f"{len(refused)} refused")


@criterion("==", 0, "clauses", row="E1")
def contract_failed(raw: RawRecords) -> Measured:
    """The policy keeps every clause of the flow-policy contract."""
    clauses = raw.all(files.CONTRACT)
    return counted([c.clause for c in clauses if c.status != "kept"], f"{len(clauses)} clauses")


@criterion(">=", 5, "clauses", row="E1")
def contract_checked(raw: RawRecords) -> Measured:
    """Distinct clauses that were looked at."""
    return Measured(value=len({c.clause for c in raw.all(files.CONTRACT)}))


@criterion("<=", 1e-4, "relative", row="E2")
def analytic_max_error(raw: RawRecords) -> Measured:
    """Densities, stds and advantages equal the closed forms of the verifier."""
    errors = [_relative([g.log_prob], [gaussian_log_prob(g)]) for g in raw.all(files.GAUSSIAN)]
    errors += [_relative(g.advantages, advantages(g)) for g in raw.all(files.GAE)]
    errors += [_relative(s.std, flow_sde_std(s)) for s in raw.all(files.STD)]
    return Measured(value=max(errors), detail=f"{len(errors)} cases")


def _relative(found: Sequence[float], expected: Sequence[float]) -> float:
    if len(found) != len(expected) or not expected:
        raise EvidenceError(f"{len(found)} values where {len(expected)} are expected")
    pairs = zip(found, expected, strict=True)
    return max(abs(f - e) / max(1.0, abs(e)) for f, e in pairs)


def gaussian_log_prob(case: GaussianCase) -> float:
    """Sum over elements of log N(x; mean, std), nats."""
    return math.fsum(
        -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
        for x, mean, std in zip(case.x, case.mean, case.std, strict=True)
    )


def advantages(case: GaeCase) -> list[float]:
    """GAE of `algorithm.md` 9.2, per decision, before normalisation."""
    result = [0.0] * len(case.rewards)
    following = 0.0
    for i in reversed(range(len(case.rewards))):
        alive = 0.0 if case.done[i] else 1.0
        delta = case.rewards[i] + case.gamma * alive * case.next_values[i] - case.values[i]
        goes_on = alive * (0.0 if case.truncated[i] else 1.0)
        following = delta + case.gamma * case.gae_lambda * goes_on * following
        result[i] = following
    return result


def flow_sde_std(case: StdCase) -> list[float]:
    """Transition std of Flow-SDE at every denoising step, closed forms of `algorithm.md` 3.5."""
    steps, level = case.denoising_steps, case.noise_level
    return [level if k == 0 else level * math.sqrt((steps - k) / (k * steps)) for k in range(steps)]


@criterion("==", 0, "packages", row="B5")
def untried_versions(raw: RawRecords) -> Measured:
    """Python, LeRobot and MuJoCo are of the versions that were tried."""
    found = {p.package: p.version for p in raw.all(files.PACKAGES)}
    wrong = [
        f"{name} {found.get(name, 'not recorded')}"
        for name, begins in VERSIONS.items()
        if not found.get(name, "").startswith(begins)
    ]
    return counted(wrong, ", ".join(f"{name} {found[name]}" for name in VERSIONS if name in found))


@criterion(IS_TRUE, True, row="D5")
def env_ready(raw: RawRecords) -> Measured:
    """The environment resets, executes a chunk and renders a visible frame."""
    look = raw.one(files.FIRST_LOOK)
    detail = f"{look.env_steps} steps, std of the frame {look.frame_std:.1f} of 255"
    return Measured(value=look.env_steps >= 1 and look.frame_std > BLANK_STD, detail=detail)


@criterion("==", 0, row="A4")
def profile_inconsistent(raw: RawRecords) -> Measured:
    """The resolved config runs the environment of the profile."""
    env = mapping(read_object(_canonical(raw)), "env")
    profile = raw.one(files.PROFILE)
    said, ran = profile.env_type, text(env, "type")
    suite = text(env, "task")
    belongs = said if profile.profile == files.OWN else ENV_TYPES.get(profile.profile)
    wrong = ran != said or said != belongs or suite != profile.suite
    return Measured(
        value=int(wrong), detail=f"profile {profile.profile}, env.type {ran}, env.task {suite}"
    )


@criterion("==", 0, "settings", row="C3")
def settings_missing(raw: RawRecords) -> Measured:
    """Seed, sampler, horizon, limits and numerics are known."""
    settings = raw.one(files.SETTINGS)
    names = [f.name for f in fields(Settings)]
    missing = [name for name in names if getattr(settings, name) in (None, "", {})]
    return counted(missing, f"{len(names)} settings")


@criterion("==", 0, "facts", row="B2 B3")
def inputs_missing(raw: RawRecords) -> Measured:
    """Checkpoint, licence, assets, initial states and tasks are known."""
    inputs = raw.one(files.INPUTS)
    missing = [
        f.name
        for part in (inputs.checkpoint, inputs.environment)
        for f in fields(part)
        if not getattr(part, f.name)
    ]
    return counted(missing, f"{len(inputs.environment.tasks)} tasks")


@criterion("==", 0, "states", row="B4")
def split_overlap(raw: RawRecords) -> Measured:
    """Initial states for training and held-out ones are disjoint in every task."""
    tasks = raw.one(files.SPLIT).tasks
    shared = 0
    for task in some(tasks, "task in the split"):
        train = set(some(tasks[task].train, "training state"))
        shared += len(train & set(some(tasks[task].heldout, "held-out state")))
    return Measured(value=shared, detail=f"{len(tasks)} tasks")


@criterion("==", 0, "checks", row="G4")
def checks_disabled(raw: RawRecords) -> Measured:
    """No safety check was turned off while the config was validated."""
    hooks = raw.one(files.CONFIG).hooks
    return counted(hooks)
