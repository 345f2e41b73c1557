"""Criteria of resume-roundtrip. Read `pirl.audit.criteria.mismatch` next."""

from __future__ import annotations

from collections.abc import Mapping

from pirl.audit.criteria.link import LEARNER, disabled_hooks, distinct
from pirl.audit.criterion import IS_TRUE, Group, Measured, counted
from pirl.audit.raw import RawRecords, some
from pirl.audit.records import files
from pirl.audit.records.common import Process
from pirl.errors import EvidenceError
from pirl.journal.metric_log import MetricRow
from pirl.journal.metrics import lookup

criterion = Group("resume", files.RESUME)

PARTS = (
    "policy", "trained", "frozen", "critic", "noise_head", "optimizer", "scheduler", "rng",
    "counters",
)  # fmt: skip
"""Parts of a run's state, each with one digest; `counters` covers step, version and cursor."""

DAMAGE_CASES = (
    "truncated-file", "altered-byte", "missing-file", "missing-optimizer", "missing-manifest",
)  # fmt: skip
"""Damaged checkpoints that a resume must refuse."""

RUNS = ("uninterrupted", "interrupted", "resumed")
SIGKILL = -9
SAVE_KILLS = 3
"""Processes that are killed while they save."""


def _learner(raw: RawRecords, run: str) -> Process:
    found = [p for p in raw.all(files.PROCESSES[files.RESUME]) if p.role == f"{LEARNER}-{run}"]
    if len(found) != 1:
        raise EvidenceError(
            f"{len(found)} processes with role {LEARNER}-{run} where one is expected"
        )
    return found[0]


@criterion("==", 0, row="F3")
def not_killed(raw: RawRecords) -> Measured:
    """The learner was ended by SIGKILL during work that its checkpoint does not hold."""
    kill, killed = raw.one(files.KILL), _learner(raw, "interrupted")
    saved, at, total = kill.checkpoint_update, kill.killed_after_update, kill.total_updates
    in_later_work = killed.exit_code == SIGKILL and 0 < saved <= at < total
    detail = f"saved at {saved}, exit code {killed.exit_code} after {at} of {total}"
    return Measured(value=int(not in_later_work), detail=detail)


@criterion("==", 0, row="F2")
def same_process(raw: RawRecords) -> Measured:
    """Uninterrupted, interrupted and resumed learner are three processes, each by its own word, and the first is
    the one of smoke-run."""
    learners = {run: _learner(raw, run) for run in RUNS}
    smoke = [p.nonce for p in raw.all(files.PROCESSES[files.SMOKE]) if p.role == LEARNER]
    is_smoke = smoke == [learners["uninterrupted"].nonce]
    started = [learners[run].started_s for run in RUNS]
    if None in started or not is_smoke or distinct(list(learners.values())) != len(RUNS):
        return Measured(value=1, detail=f"{distinct(list(learners.values()))} processes")
    in_order = started == sorted(started, key=lambda s: s or 0.0)
    detail = "started after " + ", ".join(f"{s:.0f} s" for s in started if s is not None)
    return Measured(value=int(not in_order), detail=detail)


@criterion("==", 0, "processes", row="F2")
def exit_codes_nonzero(raw: RawRecords) -> Measured:
    """Every process of the uninterrupted and of the resumed run ended with exit code 0."""
    rows = [
        p for p in raw.all(files.PROCESSES[files.RESUME]) if not p.role.endswith("-interrupted")
    ]
    bad = [f"{p.role}: {p.exit_code}" for p in rows if p.exit_code != 0]
    return counted(bad, f"{len(rows)} processes")


@criterion("==", 0, row="F2")
def deadline_missed(raw: RawRecords) -> Measured:
    """The resume kept its deadline."""
    kill = raw.one(files.KILL)
    late = kill.resume_elapsed_s > kill.resume_deadline_s
    return Measured(value=int(late), detail=f"{kill.resume_elapsed_s:.0f} s")


@criterion("==", 0, "checks", row="G4")
def checks_disabled(raw: RawRecords) -> Measured:
    """No safety check was turned off in a process of the step."""
    return disabled_hooks(raw.all(files.PROCESSES[files.RESUME]))


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> Measured:
    names = sorted({*PARTS, *a, *b})
    wrong = [n for n in names if n not in a or n not in b or a[n] != b[n]]
    return counted(wrong, f"{len(names)} parts equal")


@criterion("==", 0, "parts", row="F2")
def loaded_differs(raw: RawRecords) -> Measured:
    """Loaded state = saved state, part by part."""
    digests = raw.one(files.DIGESTS)
    return _differing(digests.saved, digests.loaded)


@criterion("==", 0, "parts", row="F3")
def final_differs(raw: RawRecords) -> Measured:
    """The resumed run ends as the uninterrupted one, bit for bit."""
    digests = raw.one(files.DIGESTS)
    return _differing(digests.uninterrupted, digests.resumed)


@criterion(IS_TRUE, True, row="F3")
def weights_moved(raw: RawRecords) -> Measured:
    """Weights changed after the checkpoint; else equality shows nothing."""
    digests = raw.one(files.DIGESTS)
    return Measured(value=digests.saved["trained"] != digests.resumed["trained"])


def _by_update(rows: list[MetricRow]) -> dict[int, Mapping[str, float]]:
    return {row.step: row.metrics for row in rows}


def _pieced(raw: RawRecords) -> dict[int, Mapping[str, float]]:
    """Rows of the interrupted run up to its checkpoint and of the resumed run after it."""
    saved = raw.one(files.KILL).checkpoint_update
    before = _by_update(raw.metrics(files.INTERRUPTED))
    after = _by_update(raw.metrics(files.RESUMED))
    rows = {step: row for step, row in before.items() if step <= saved}
    return rows | {step: row for step, row in after.items() if step > saved}


@criterion("==", 0, "updates", row="F3")
def updates_missing(raw: RawRecords) -> Measured:
    """Every update from 1 to the total is in both runs."""
    total = raw.one(files.KILL).total_updates
    uninterrupted, pieced = _by_update(raw.metrics(files.UNINTERRUPTED)), _pieced(raw)
    wanted = range(1, total + 1)
    missing = [step for step in wanted if step not in uninterrupted or step not in pieced]
    extra = len(({*uninterrupted, *pieced}) - set(wanted))
    return Measured(value=len(missing) + extra, detail=f"{total} updates")


def _compared(raw: RawRecords) -> tuple[int, list[str]]:
    uninterrupted, pieced = _by_update(raw.metrics(files.UNINTERRUPTED)), _pieced(raw)
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


@criterion(">=", 10, "values", row="F3")
def metrics_compared(raw: RawRecords) -> Measured:
    """Metric values that were compared."""
    return Measured(value=_compared(raw)[0])


@criterion("==", 0, "values", row="F3")
def metrics_differ(raw: RawRecords) -> Measured:
    """Metric values of every update are equal bit for bit."""
    compared, wrong = _compared(raw)
    return counted(wrong, f"{compared} values equal", shown=3)


@criterion("==", 0, "files", row="F1")
def manifest_differs(raw: RawRecords) -> Measured:
    """The checkpoint's manifest lists every file with its size and SHA-256."""
    record = raw.one(files.CHECKPOINT)
    names = some({*record.manifest, *record.found}, "file of the checkpoint")
    wrong = sorted(n for n in names if record.manifest.get(n) != record.found.get(n))
    return counted(wrong, f"{len(names)} files", shown=3)


@criterion("==", 0, "cases", row="F4")
def damaged_accepted(raw: RawRecords) -> Measured:
    """Damaged checkpoints are refused, the damaged part is named, and no step is taken."""
    refused = {
        case.case
        for case in raw.all(files.DAMAGED)
        if case.exit_code in (1, 5)
        and case.part
        and case.part in case.message
        and case.optimiser_steps == 0
    }
    accepted = [case for case in DAMAGE_CASES if case not in refused]
    return counted(accepted, f"{len(refused)} refused")


@criterion("==", 0, "kills", row="F1")
def interrupted_saves_lost(raw: RawRecords) -> Measured:
    """Killed by SIGKILL while saving, an earlier complete checkpoint loads."""
    kills = raw.all(files.SAVE_KILLS)
    lost = [k for k in kills if k.exit_code != SIGKILL or not k.earlier_checkpoint_loads]
    return Measured(value=len(lost), detail=f"{len(kills)} kills")


@criterion("==", 0, "keys", row="F5")
def stock_keys_differ(raw: RawRecords) -> Measured:
    """Stock LeRobot loads `pretrained_model/` with strict keys."""
    record = raw.one(files.STOCK)
    wrong = [*record.missing_keys, *record.unexpected_keys]
    return counted(wrong, shown=3)


@criterion("<=", 0, "action", row="F5")
def stock_actions_max_abs(raw: RawRecords) -> Measured:
    """Stock LeRobot acts identically: largest difference of an action, fixed inputs."""
    record = raw.one(files.STOCK)
    some(record.actions_pirl, "action")
    pairs = zip(record.actions_pirl, record.actions_stock, strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    return Measured(value=difference, detail=f"{len(record.actions_pirl)} values")


@criterion(">=", 1e-6, "action", row="F5")
def stock_actions_spread(raw: RawRecords) -> Measured:
    """The compared actions are not constant: largest minus smallest value."""
    values = some(raw.one(files.STOCK).actions_stock, "action")
    return Measured(value=max(values) - min(values), detail=f"{len(values)} values")
