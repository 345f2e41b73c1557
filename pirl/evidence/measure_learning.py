"""What the records of smoke-run say about updates, tensors and episodes.

Owns metric rows, tensor digests, episodes and the video in `raw/smoke-run/*` (`docs/evidence.md`);
one pure function per criterion. Refuses to know thresholds. Read `measure_resume` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pirl.errors import EvidenceError
from pirl.evidence import media, outcomes
from pirl.evidence.criteria import Measured
from pirl.evidence.measure_validate import ENV_TYPES
from pirl.evidence.metric_log import MetricRow
from pirl.evidence.raw import (
    MissingRecordError,
    RawRecords,
    boolean,
    file_sha256,
    integer,
    mapping,
    sequence,
    some,
    text,
)

STEP = "smoke-run"

MUST_BE_FINITE = (
    "update/policy_loss", "update/value_loss", "update/approx_kl", "update/grad_norm_actor",
    "update/parity_max_abs", "update/parity_mean_abs", "update/ratio_first_max_abs",
    "update/clip_first_fraction", "update/kl_first", "update/optimiser_steps",
)  # fmt: skip
"""Metrics that every learner row carries and that must be finite."""

STAGES = {"learner": ("time/update_s",), "actor": ("time/env_step_s", "time/infer_s")}
"""Stage times that some row of each side carries."""


def _learner_rows(raw: RawRecords) -> list[MetricRow]:
    return raw.metrics(STEP, "metrics-learner.jsonl")


def _value(row: MetricRow, name: str) -> float:
    if name not in row.metrics:
        raise MissingRecordError(f"metric {name} is missing in update {row.step}")
    return row.metrics[name]


def updates(raw: RawRecords) -> Measured:
    """Updates that took an optimiser step; update numbers must rise by one."""
    rows = _learner_rows(raw)
    if [row.step for row in rows] != list(range(rows[0].step, rows[0].step + len(rows))):
        raise EvidenceError("update numbers of the learner do not rise by one")
    return Measured(value=sum(_value(row, "update/optimiser_steps") >= 1 for row in rows))


def metrics_missing(raw: RawRecords) -> Measured:
    """Required metrics that a learner row lacks."""
    lacking = {n for row in _learner_rows(raw) for n in MUST_BE_FINITE if n not in row.metrics}
    return Measured(value=len(lacking), detail=", ".join(sorted(lacking)))


def non_finite(raw: RawRecords) -> Measured:
    """Required metric values that are not finite."""
    values = [v for r in _learner_rows(raw) for n, v in r.metrics.items() if n in MUST_BE_FINITE]
    bad = sum(not math.isfinite(value) for value in some(values, "required metric"))
    return Measured(value=bad, detail=f"{len(values)} values")


def _largest(raw: RawRecords, name: str) -> Measured:
    values = [abs(_value(row, name)) for row in _learner_rows(raw)]
    worst = math.nan if any(math.isnan(v) for v in values) else max(values)
    return Measured(value=worst, detail=f"largest of {len(values)} updates")


def parity_max_abs(raw: RawRecords) -> Measured:
    """Largest |replayed - recorded| decision log-prob before an optimiser step, nats."""
    return _largest(raw, "update/parity_max_abs")


def parity_mean_abs(raw: RawRecords) -> Measured:
    """Largest per-update mean of the same."""
    return _largest(raw, "update/parity_mean_abs")


def ratio_first_max_abs(raw: RawRecords) -> Measured:
    """Largest |ratio - 1| of a first minibatch."""
    return _largest(raw, "update/ratio_first_max_abs")


def clip_first_fraction(raw: RawRecords) -> Measured:
    """Largest share of clipped decisions of a first minibatch."""
    return _largest(raw, "update/clip_first_fraction")


def kl_first(raw: RawRecords) -> Measured:
    """Largest KL estimate of a first minibatch, nats."""
    return _largest(raw, "update/kl_first")


def _tensors(raw: RawRecords, group: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    record = raw.json(STEP, "digests.json")
    before = mapping(mapping(record, "before"), group)
    after = mapping(mapping(record, "after"), group)
    if set(before) != set(after):
        raise EvidenceError(f"{group} tensors before and after have different names")
    some(before, f"{group} tensor")
    return before, after


def trained_unchanged(raw: RawRecords) -> Measured:
    """Trained tensors whose digest is the same before and after the run."""
    before, after = _tensors(raw, "trained")
    same = [name for name in before if before[name] == after[name]]
    return Measured(value=len(same), detail=", ".join(same[:3]) or f"{len(before)} tensors")


def frozen_changed(raw: RawRecords) -> Measured:
    """Frozen tensors whose digest is not the same before and after the run."""
    before, after = _tensors(raw, "frozen")
    moved = [name for name in before if before[name] != after[name]]
    return Measured(value=len(moved), detail=", ".join(moved[:3]) or f"{len(before)} tensors")


def episodes(raw: RawRecords) -> Measured:
    """Episodes with at least one env step and one decision."""
    records = outcomes.train_episodes(raw)
    ran = sum(integer(r, "env_steps") >= 1 and integer(r, "decisions") >= 1 for r in records)
    tasks = {text(r, "task") for r in records}
    return Measured(value=ran, detail=f"{len(tasks)} tasks")


def wrong_env(raw: RawRecords) -> Measured:
    """Episodes of another environment, suite or task than profile and config say."""
    profile = raw.json("validate-config", "profile.json")
    allowed = ENV_TYPES.get(text(profile, "profile"), ())
    environment = mapping(raw.json("validate-config", "inputs.json"), "environment")
    tasks = set(sequence(environment, "tasks"))
    wrong = [
        r
        for r in outcomes.all_episodes(raw)
        if text(r, "env_type") not in allowed
        or text(r, "suite") != text(profile, "suite")
        or text(r, "task") not in tasks
    ]
    return Measured(value=len(wrong), detail=f"profile {text(profile, 'profile')}")


def heldout_states_used(raw: RawRecords) -> Measured:
    """Training episodes on an initial state that is not in the training set of its task."""
    tasks = mapping(raw.json("validate-config", "split.json"), "tasks")
    used = [
        r
        for r in outcomes.train_episodes(raw)
        if integer(r, "init_state_id") not in sequence(mapping(tasks, text(r, "task")), "train")
    ]
    return Measured(value=len(used), detail=f"{len(outcomes.train_episodes(raw))} episodes")


def success_count_gap(raw: RawRecords) -> Measured:
    """|successes in metrics - successes in episode records| + the same for episodes."""
    records = outcomes.train_episodes(raw)
    rows = _learner_rows(raw)
    gap = 0.0
    for name, count in (
        ("rollout/episodes", len(records)),
        ("rollout/successes", sum(boolean(r, "success") for r in records)),
    ):
        gap += abs(sum(_value(row, name) for row in rows) - count)
    return Measured(value=gap, detail=f"{len(records)} episode records")


def video_shown(raw: RawRecords) -> Measured:
    """Whether the video is the one recorded, has frames, and its first frame is not blank."""
    record = raw.json(STEP, "video.json")
    path = raw.root / media.inside(text(record, "file"))
    if not path.is_file():
        raise MissingRecordError(f"{text(record, 'file')} is missing")
    same = file_sha256(path) == text(record, "sha256")
    clip = media.inspect_video(path)
    shown = same and clip.frames >= 2 and clip.width >= media.MIN_WIDTH and clip.spread > 1.0
    detail = f"{clip.width}x{clip.height}, {clip.frames} frames, std {clip.spread:.1f} of 255"
    return Measured(value=shown, detail=detail)


def stage_times_missing(raw: RawRecords) -> Measured:
    """Stages without a time on the side that spends it."""
    seen = {"learner": {name for row in _learner_rows(raw) for name in row.metrics}, "actor": set()}
    for name in raw.matching(STEP, "metrics-actor-*.jsonl"):
        seen["actor"] |= {metric for row in raw.metrics(STEP, name) for metric in row.metrics}
    missing = [name for side, names in STAGES.items() for name in names if name not in seen[side]]
    return Measured(value=len(missing), detail=", ".join(missing))
