"""What the records of validate-config measure. One pure function per criterion `validate/<name>`.

Owns the fields of `raw/validate-config/*` (`docs/evidence.md`) and an independent oracle in plain
Python for densities and advantages. Refuses to know thresholds. Read `measure_link` next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pirl.errors import EvidenceError
from pirl.evidence.criteria import Measured
from pirl.evidence.raw import (
    RawRecords,
    Record,
    boolean,
    file_sha256,
    integer,
    mapping,
    number,
    numbers,
    objects,
    read_object,
    sequence,
    some,
    text,
)

STEP = "validate-config"

ENV_TYPES = {"libero": ("libero",), "embedded": ("pirl_metaworld",)}
"""Profile and the environment types that belong to it."""

REFUSED_CASES = (
    "unknown-key", "wrong-type", "out-of-range", "missing-variant", "recipe-near-miss",
    "other-variant-knob", "batch-not-divisible", "unqualified-policy",
)  # fmt: skip
"""Invalid configs that validation must refuse, each with exit code 2 and a named field."""

SETTINGS = (
    "seed", "total_updates", "rollout_chunks", "actors", "mode", "split", "chunk_size",
    "executed_steps", "denoising_steps", "noise", "action_mode", "control_mode", "episode_length",
    "numerics", "torch_threads", "success_definition", "stopping_rule", "parameters",
)  # fmt: skip
"""Settings that a reader needs to repeat the run; `parameters` counts total, trained and sent."""

ANALYTIC_KINDS = ("gaussian", "gae", "flow-sde-std")


def _outcomes(raw: RawRecords, name: str, key: str) -> Measured:
    records = raw.lines(STEP, name)
    failed = [text(r, key) for r in records if text(r, "outcome") != "passed"]
    detail = f"{len(records)} checked" + (f"; failed: {', '.join(failed)}" if failed else "")
    return Measured(value=len(failed), detail=detail)


def config_hash_differs(raw: RawRecords) -> Measured:
    """Whether the hash that every later step uses is not the SHA-256 of the canonical config."""
    path = raw.root / "config" / "canonical.json"
    if not path.is_file():
        raise EvidenceError("config/canonical.json is missing")
    recorded = text(raw.json(STEP, "config.json"), "hash")
    actual = file_sha256(path)
    return Measured(value=int(recorded != actual), detail=f"sha256 {actual[:12]}")


def rules_failed(raw: RawRecords) -> Measured:
    """Rules of the config that do not hold."""
    return _outcomes(raw, "rules.jsonl", "rule")


def rules_checked(raw: RawRecords) -> Measured:
    """Distinct rules that were looked at."""
    return Measured(value=len({text(r, "rule") for r in raw.lines(STEP, "rules.jsonl")}))


def bad_configs_accepted(raw: RawRecords) -> Measured:
    """Required invalid configs that were not refused with exit code 2 and a named field."""
    named: set[str] = set()
    for record in raw.lines(STEP, "refused.jsonl"):
        fields = objects(record, "fields")
        says_all = all(text(f, "expected") and text(f, "fix") for f in fields)
        if integer(record, "exit_code") == 2 and fields and says_all:
            named.add(text(record, "case"))
    accepted = [case for case in REFUSED_CASES if case not in named]
    return Measured(value=len(accepted), detail=", ".join(accepted) or f"{len(named)} refused")


def contract_failed(raw: RawRecords) -> Measured:
    """Clauses of the flow-policy contract that the policy breaks."""
    return _outcomes(raw, "contract.jsonl", "clause")


def contract_checked(raw: RawRecords) -> Measured:
    """Distinct clauses that were looked at."""
    return Measured(value=len({text(r, "clause") for r in raw.lines(STEP, "contract.jsonl")}))


def preflight_failed(raw: RawRecords) -> Measured:
    """Checks of the machine and the environment that failed."""
    return _outcomes(raw, "preflight.jsonl", "check")


def settings_missing(raw: RawRecords) -> Measured:
    """Settings that a reader needs and that are not recorded."""
    settings = raw.json(STEP, "settings.json")
    missing = [name for name in SETTINGS if settings.get(name) is None]
    return Measured(value=len(missing), detail=", ".join(missing))


def inputs_missing(raw: RawRecords) -> Measured:
    """Facts about the starting checkpoint and the environment that are not recorded."""
    inputs = raw.json(STEP, "inputs.json")
    checkpoint, environment = mapping(inputs, "checkpoint"), mapping(inputs, "environment")
    missing = [k for k in ("source", "revision", "licence", "files") if not checkpoint.get(k)]
    wanted = ("name", "version", "tasks", "assets", "initial_states")
    missing += [k for k in wanted if not environment.get(k)]
    return Measured(value=len(missing), detail=", ".join(missing))


def profile_inconsistent(raw: RawRecords) -> Measured:
    """Whether the resolved config runs another environment than its profile says."""
    env_type = text(mapping(read_object(raw.root / "config" / "canonical.json"), "env"), "type")
    profile = text(raw.json(STEP, "profile.json"), "profile")
    wrong = env_type not in ENV_TYPES.get(profile, ())
    return Measured(value=int(wrong), detail=f"profile {profile}, env.type {env_type}")


def split_overlap(raw: RawRecords) -> Measured:
    """Initial states that are both in the training and in the held-out set of a task."""
    tasks = mapping(raw.json(STEP, "split.json"), "tasks")
    shared = 0
    for task in some(tasks, "task in the split"):
        sides = mapping(tasks, task)
        train = set(some(sequence(sides, "train"), "training state"))
        heldout = set(some(sequence(sides, "heldout"), "held-out state"))
        shared += len(train & heldout)
    return Measured(value=shared, detail=f"{len(tasks)} tasks")


def analytic_kinds_missing(raw: RawRecords) -> Measured:
    """Kinds of analytic case that were not tried."""
    tried = {text(r, "kind") for r in raw.lines(STEP, "analytic.jsonl")}
    missing = [kind for kind in ANALYTIC_KINDS if kind not in tried]
    return Measured(value=len(missing), detail=", ".join(missing) or f"{len(tried)} kinds")


def analytic_max_error(raw: RawRecords) -> Measured:
    """Largest relative difference between pirl's numbers and this module's closed forms."""
    errors = [_analytic_error(record) for record in raw.lines(STEP, "analytic.jsonl")]
    return Measured(value=max(errors), detail=f"{len(errors)} cases")


def _analytic_error(record: Record) -> float:
    kind = text(record, "kind")
    if kind == "gaussian":
        return _relative([number(record, "log_prob")], [gaussian_log_prob(record)])
    if kind == "gae":
        return _relative(numbers(record, "advantages"), advantages(record))
    if kind == "flow-sde-std":
        return _relative(numbers(record, "std"), flow_sde_std(record))
    raise EvidenceError(f"analytic case of unknown kind {kind!r}")


def _relative(found: Sequence[float], expected: Sequence[float]) -> float:
    if len(found) != len(expected) or not expected:
        raise EvidenceError(f"{len(found)} values where {len(expected)} are expected")
    pairs = zip(found, expected, strict=True)
    return max(abs(f - e) / max(1.0, abs(e)) for f, e in pairs)


def gaussian_log_prob(record: Record) -> float:
    """Sum over elements of log N(x; mean, std), nats."""
    triples = zip(*(numbers(record, key) for key in ("x", "mean", "std")), strict=True)
    return math.fsum(
        -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
        for x, mean, std in triples
    )


def advantages(record: Record) -> list[float]:
    """GAE of `algorithm.md` 9.2, per decision, before normalisation."""
    gamma, lam = number(record, "gamma"), number(record, "lambda")
    rewards, values = numbers(record, "rewards"), numbers(record, "values")
    next_values = numbers(record, "next_values")
    done, truncated = sequence(record, "done"), sequence(record, "truncated")
    result = [0.0] * len(rewards)
    following = 0.0
    for i in reversed(range(len(rewards))):
        alive = 0.0 if done[i] else 1.0
        delta = rewards[i] + gamma * alive * next_values[i] - values[i]
        following = delta + gamma * lam * alive * (0.0 if truncated[i] else 1.0) * following
        result[i] = following
    return result


def flow_sde_std(record: Record) -> list[float]:
    """Transition std of Flow-SDE at every denoising step, closed forms of `algorithm.md` 3.5."""
    steps, level = integer(record, "denoising_steps"), number(record, "noise_level")
    return [level if k == 0 else level * math.sqrt((steps - k) / (k * steps)) for k in range(steps)]


def checks_disabled(raw: RawRecords) -> Measured:
    """Safety checks that a test hook had turned off while the config was validated."""
    hooks = sequence(raw.json(STEP, "config.json"), "hooks")
    return Measured(value=len(hooks), detail=", ".join(str(hook) for hook in hooks))


def env_ready(raw: RawRecords) -> Measured:
    """Whether the environment was built, reset and gave a frame that is not blank."""
    record = raw.json(STEP, "env.json")
    started = boolean(record, "reset") and integer(record, "env_steps") >= 1
    spread = number(record, "frame_std")
    return Measured(value=started and spread > 1.0, detail=f"std of the frame {spread:.1f} of 255")
