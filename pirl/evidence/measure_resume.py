"""What the records of resume-roundtrip measure. One pure function per criterion `resume/<name>`.

Owns the fields of `raw/resume-roundtrip/*` (`docs/evidence.md`). Refuses to know thresholds. Read
`measure_mismatch` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pirl.errors import EvidenceError
from pirl.evidence.criteria import Measured
from pirl.evidence.measure_link import disabled_hooks, process_table
from pirl.evidence.metric_log import MetricRow
from pirl.evidence.metrics import lookup
from pirl.evidence.raw import (
    RawRecords,
    boolean,
    integer,
    mapping,
    number,
    numbers,
    sequence,
    some,
    text,
)

STEP = "resume-roundtrip"

PARTS = (
    "policy", "trained", "frozen", "critic", "noise_head", "optimizer", "scheduler", "rng",
    "counters",
)  # fmt: skip
"""Parts of a run's state, each with one digest; `counters` covers step, version and cursor."""

DAMAGE_CASES = (
    "truncated-file", "altered-byte", "missing-file", "missing-optimizer", "missing-manifest",
)  # fmt: skip
"""Damaged checkpoints that a resume must refuse."""


def _digests(raw: RawRecords, key: str) -> Mapping[str, Any]:
    return mapping(raw.json(STEP, "digests.json"), key)


def _differing(raw: RawRecords, one: str, other: str) -> Measured:
    a, b = _digests(raw, one), _digests(raw, other)
    names = sorted({*PARTS, *a, *b})
    wrong = [n for n in names if n not in a or n not in b or a[n] != b[n]]
    return Measured(value=len(wrong), detail=", ".join(wrong) or f"{len(names)} parts equal")


def checks_disabled(raw: RawRecords) -> Measured:
    """Safety checks that a test hook had turned off in a process of the step."""
    return disabled_hooks(raw, STEP)


def not_killed(raw: RawRecords) -> Measured:
    """Whether the learner was not ended by SIGKILL after work that its checkpoint does not hold."""
    kill = raw.json(STEP, "kill.json")
    at, saved = integer(kill, "killed_after_update"), integer(kill, "checkpoint_update")
    total = integer(kill, "total_updates")
    killed = text(kill, "signal") == "SIGKILL" and integer(kill, "exit_code") == -9
    in_later_work = 0 < saved <= at < total and boolean(kill, "during_later_work")
    detail = f"saved at {saved}, killed after {at} of {total}"
    return Measured(value=int(not (killed and in_later_work)), detail=detail)


def same_process(raw: RawRecords) -> Measured:
    """Whether the resumed learner is not a new process."""
    labels = {text(p, "role"): text(p, "label") for p in process_table(raw, STEP)}
    wanted = ("learner-interrupted", "learner-resumed", "learner-uninterrupted")
    missing = [role for role in wanted if role not in labels]
    if missing:
        raise EvidenceError(f"no process with role {', '.join(missing)}")
    distinct = len({labels[role] for role in wanted}) == len(wanted)
    return Measured(value=int(not distinct), detail=", ".join(labels[role] for role in wanted))


def loaded_differs(raw: RawRecords) -> Measured:
    """Parts whose digest after loading is not the one that was saved."""
    return _differing(raw, "saved", "loaded")


def final_differs(raw: RawRecords) -> Measured:
    """Parts in which the resumed run ends differently from the uninterrupted one."""
    return _differing(raw, "uninterrupted", "resumed")


def weights_moved(raw: RawRecords) -> Measured:
    """Whether the trained weights changed after the checkpoint; else equality shows nothing."""
    saved, final = _digests(raw, "saved"), _digests(raw, "resumed")
    return Measured(value=text(saved, "trained") != text(final, "trained"))


def _by_update(rows: list[MetricRow]) -> dict[int, Mapping[str, float]]:
    return {row.step: row.metrics for row in rows}


def _pieced(raw: RawRecords) -> dict[int, Mapping[str, float]]:
    """Rows of the interrupted run up to its checkpoint and of the resumed run after it."""
    saved = integer(raw.json(STEP, "kill.json"), "checkpoint_update")
    before = _by_update(raw.metrics(STEP, "metrics-interrupted.jsonl"))
    after = _by_update(raw.metrics(STEP, "metrics-resumed.jsonl"))
    rows = {step: row for step, row in before.items() if step <= saved}
    return rows | {step: row for step, row in after.items() if step > saved}


def updates_missing(raw: RawRecords) -> Measured:
    """Updates from 1 to the total that one of the two runs lacks."""
    total = integer(raw.json(STEP, "kill.json"), "total_updates")
    uninterrupted = _by_update(raw.metrics(STEP, "metrics-uninterrupted.jsonl"))
    pieced = _pieced(raw)
    wanted = range(1, total + 1)
    missing = [step for step in wanted if step not in uninterrupted or step not in pieced]
    extra = len(({*uninterrupted, *pieced}) - set(wanted))
    return Measured(value=len(missing) + extra, detail=f"{total} updates")


def _compared(raw: RawRecords) -> tuple[int, list[str]]:
    uninterrupted = _by_update(raw.metrics(STEP, "metrics-uninterrupted.jsonl"))
    pieced = _pieced(raw)
    compared, wrong = 0, list[str]()
    for step in sorted({*uninterrupted, *pieced}):
        a, b = uninterrupted.get(step, {}), pieced.get(step, {})
        for name in sorted({*a, *b}):
            if lookup(name).is_deterministic:
                compared += 1
                # repr tells -0.0 from 0.0 and holds for NaN; equality does neither.
                if name not in a or name not in b or repr(a[name]) != repr(b[name]):
                    wrong.append(f"{name} at {step}")
    return compared, wrong


def metrics_differ(raw: RawRecords) -> Measured:
    """Metric values of any update in which the resumed run differs from the uninterrupted one."""
    compared, wrong = _compared(raw)
    detail = ", ".join(wrong[:3]) or f"{compared} values equal"
    return Measured(value=len(wrong), detail=detail)


def metrics_compared(raw: RawRecords) -> Measured:
    """Metric values that were compared."""
    return Measured(value=_compared(raw)[0])


def manifest_differs(raw: RawRecords) -> Measured:
    """Files whose size or SHA-256 in the checkpoint's manifest is not what was found on disk."""
    record = raw.json(STEP, "checkpoint.json")
    listed, found = mapping(record, "manifest"), mapping(record, "found")
    names = some({*listed, *found}, "file of the checkpoint")
    wrong = sorted(name for name in names if listed.get(name) != found.get(name))
    return Measured(value=len(wrong), detail=", ".join(wrong[:3]) or f"{len(names)} files")


def damaged_accepted(raw: RawRecords) -> Measured:
    """Required damaged checkpoints that were not refused, or refused without naming the part."""
    refused: set[str] = set()
    for record in raw.lines(STEP, "damaged.jsonl"):
        part = text(record, "part")
        clean = integer(record, "exit_code") in (1, 5) and part in text(record, "message")
        if clean and integer(record, "optimiser_steps") == 0:
            refused.add(text(record, "case"))
    accepted = [case for case in DAMAGE_CASES if case not in refused]
    return Measured(value=len(accepted), detail=", ".join(accepted) or f"{len(refused)} refused")


def interrupted_saves_lost(raw: RawRecords) -> Measured:
    """Kills in the middle of a save after which no complete earlier checkpoint loads."""
    records = raw.lines(STEP, "interrupted_saves.jsonl")
    lost = [r for r in records if not boolean(r, "earlier_checkpoint_loads")]
    return Measured(value=len(lost), detail=f"{len(records)} kills")


def stock_keys_differ(raw: RawRecords) -> Measured:
    """Keys that stock LeRobot misses or does not expect in `pretrained_model/`."""
    record = raw.json(STEP, "stock.json")
    wrong = [*sequence(record, "missing_keys"), *sequence(record, "unexpected_keys")]
    return Measured(value=len(wrong), detail=text(record, "loader"))


def stock_actions_max_abs(raw: RawRecords) -> Measured:
    """Largest difference of pirl's and stock LeRobot's actions, fixed inputs, action units."""
    record = raw.json(STEP, "stock.json")
    ours, stock = numbers(record, "actions_pirl"), numbers(record, "actions_stock")
    some(ours, "action")
    difference = max(abs(a - b) for a, b in zip(ours, stock, strict=True))
    return Measured(value=difference, detail=f"{len(ours)} values")


def stock_actions_spread(raw: RawRecords) -> Measured:
    """Largest minus smallest action value: equal constants would show nothing."""
    values = numbers(raw.json(STEP, "stock.json"), "actions_stock")
    return Measured(value=max(values) - min(values), detail=f"{len(values)} values")


def deadline_missed(raw: RawRecords) -> Measured:
    """Whether the resume took longer than the deadline it was given, seconds."""
    kill = raw.json(STEP, "kill.json")
    late = number(kill, "resume_elapsed_s") > number(kill, "resume_deadline_s")
    return Measured(value=int(late), detail=f"{number(kill, 'resume_elapsed_s'):.0f} s")
