"""Criteria of smoke-run about updates, tensors, episodes and the video. Read `pirl.audit.criteria.resume` next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pirl.audit import outcomes
from pirl.audit.criterion import IS_TRUE, Group, Measured, counted
from pirl.audit.raw import MissingRecordError, RawRecords, some
from pirl.audit.records import files
from pirl.errors import EvidenceError
from pirl.journal import media
from pirl.journal.fields import file_sha256
from pirl.journal.metric_log import MetricRow

criterion = Group("smoke", files.SMOKE)

MUST_BE_FINITE = (
    "update/policy_loss", "update/value_loss", "update/approx_kl", "update/grad_norm_actor",
    "update/parity_max_abs", "update/parity_mean_abs", "update/ratio_first_max_abs",
    "update/clip_first_fraction", "update/kl_first", "update/optimiser_steps",
)  # fmt: skip
"""Metrics that every learner row carries and that must be finite."""

STAGES = {"learner": ("time/update_s",), "actor": ("time/env_step_s", "time/infer_s")}
"""Stage times that some row of each side carries."""

# Where actor and learner run on a GPU, kernels depend on the batch size and move the final action by up to 3.3e-5;
# at 5 mm last-step std that is about 0.04 nats (algorithm.md 14.3): hence the wider thresholds `cuda`.


REWARDED_ENV = "libero/libero_goal tasks [7]"
"""Environment of the second smoke run, `TYPE/SUITE tasks IDS`, and the name of its one task."""
REWARDED_TASK = "libero_goal/7"


def _learner_rows(raw: RawRecords) -> list[MetricRow]:
    """Updates of the gate's own config."""
    return raw.metrics(files.LEARNER_METRICS)


def _all_rows(raw: RawRecords) -> list[MetricRow]:
    """Updates of every smoke run."""
    return _learner_rows(raw) + (outcomes.rewarded_rows(raw) if outcomes.has_second(raw) else [])


def _value(row: MetricRow, name: str) -> float:
    if name not in row.metrics:
        raise MissingRecordError(f"metric {name} is missing in update {row.step}")
    return row.metrics[name]


@criterion(">=", 2, "updates", row="D3")
def updates(raw: RawRecords) -> Measured:
    """Updates that took an optimiser step, in the run with the fewest; their numbers rise by one."""
    stepped: list[int] = []
    for rows in (_learner_rows(raw), outcomes.rewarded_rows(raw)):
        if [row.step for row in rows] != list(range(rows[0].step, rows[0].step + len(rows))):
            raise EvidenceError("update numbers of the learner do not rise by one")
        stepped.append(sum(_value(row, "update/optimiser_steps") >= 1 for row in rows))
    return Measured(value=min(stepped))


@criterion("==", 0, "metrics", row="D3")
def metrics_missing(raw: RawRecords) -> Measured:
    """Losses, KL, ratio and parity are in the row of every update."""
    lacking = {n for row in _all_rows(raw) for n in MUST_BE_FINITE if n not in row.metrics}
    return Measured(value=len(lacking), detail=", ".join(sorted(lacking)))


@criterion("==", 0, "values", row="D3")
def non_finite(raw: RawRecords) -> Measured:
    """All of them are finite."""
    values = [v for r in _all_rows(raw) for n, v in r.metrics.items() if n in MUST_BE_FINITE]
    bad = sum(not math.isfinite(value) for value in some(values, "required metric"))
    return Measured(value=bad, detail=f"{len(values)} values")


def _largest(rows: Sequence[MetricRow], name: str) -> Measured:
    values = [abs(_value(row, name)) for row in rows]
    worst = math.nan if any(math.isnan(v) for v in values) else max(values)
    return Measured(value=worst, detail=f"largest of {len(values)} updates")


@criterion("<=", 1e-3, "nats", row="E1", cuda=0.1)
def parity_max_abs(raw: RawRecords) -> Measured:
    """Replayed = recorded log-prob before an optimiser step, worst decision."""
    return _largest(_all_rows(raw), "update/parity_max_abs")


@criterion("<=", 1e-4, "nats", row="E1", cuda=0.02)
def parity_mean_abs(raw: RawRecords) -> Measured:
    """Replayed = recorded log-prob before an optimiser step, mean of the worst update."""
    return _largest(_all_rows(raw), "update/parity_mean_abs")


@criterion("<=", 1e-3, "1", row="E1", cuda=0.01)
def ratio_first_max_abs(raw: RawRecords) -> Measured:
    """Ratio minus one, absolute, before the first optimiser step of an update."""
    return _largest(_all_rows(raw), "update/ratio_first_max_abs")


@criterion("==", 0, "share", row="E1")
def clip_first_fraction(raw: RawRecords) -> Measured:
    """Clipped decisions before the first optimiser step of an update."""
    return _largest(_all_rows(raw), "update/clip_first_fraction")


@criterion("<=", 1e-6, "nats", row="E1", cuda=1e-4)
def kl_first(raw: RawRecords) -> Measured:
    """KL estimate before the first optimiser step of an update."""
    return _largest(_all_rows(raw), "update/kl_first")


def _tensors(raw: RawRecords, group: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    record = raw.one(files.TENSORS)
    before, after = getattr(record.before, group), getattr(record.after, group)
    if set(before) != set(after):
        raise EvidenceError(f"{group} tensors before and after have different names")
    some(before, f"{group} tensor")
    return before, after


@criterion("==", 0, "tensors", row="D3")
def trained_unchanged(raw: RawRecords) -> Measured:
    """Every trained tensor changed during the run."""
    before, after = _tensors(raw, "trained")
    same = [name for name in before if before[name] == after[name]]
    return counted(same, f"{len(before)} tensors", shown=3)


@criterion("==", 0, "tensors", row="D3")
def frozen_changed(raw: RawRecords) -> Measured:
    """Every frozen tensor is bit-identical after the run."""
    before, after = _tensors(raw, "frozen")
    moved = [name for name in before if before[name] != after[name]]
    return counted(moved, f"{len(before)} tensors", shown=3)


@criterion(">=", 2, "episodes", row="D5")
def episodes(raw: RawRecords) -> Measured:
    """Episodes that ran in the simulator, with an env step and a decision."""
    records = outcomes.all_episodes(raw)
    ran = sum(e.env_steps >= 1 and e.decisions >= 1 for e in records)
    return Measured(value=ran, detail=f"{len({e.task for e in records})} tasks")


def is_of(environment: str, named: str) -> bool:
    """Whether the environment of an identity is `named`: `TYPE/SUITE`, whichever tasks and limit follow."""
    rest = environment.removeprefix(named)
    return rest != environment and rest.startswith((", limit ", " tasks ["))


@criterion("==", 0, "episodes", row="D5")
def wrong_env(raw: RawRecords) -> Measured:
    """Actors met the learner with the environment of their run, and every episode is of its tasks."""
    profile = raw.one(files.PROFILE)
    tasks = raw.one(files.INPUTS).environment.tasks
    # An environment that is no suite names its tasks.
    named = [f"{profile.env_type}/{name}" for name in (profile.suite, "+".join(tasks))]
    met = [
        str(raw.one(files.HANDSHAKE, rank).actor.get("environment"))
        for rank in raw.ranks(files.HANDSHAKE)
    ]
    wrong = sum(not any(is_of(place, name) for name in named) for place in met)
    wrong += sum(episode.task not in tasks for episode in outcomes.all_episodes(raw))
    if outcomes.has_second(raw):
        claims = raw.one(files.REWARDED_HANDSHAKE).actor
        wrong += not str(claims.get("environment")).startswith(f"{REWARDED_ENV}, limit ")
        wrong += sum(e.task != REWARDED_TASK for e in outcomes.rewarded_episodes(raw))
    return Measured(value=wrong, detail=f"profile {profile.profile}")


@criterion("==", 0, "episodes", row="B4")
def heldout_states_used(raw: RawRecords) -> Measured:
    """No episode began on an initial state outside its task's training set."""
    tasks = raw.one(files.SPLIT).tasks
    records = outcomes.played(raw)
    used = [e for e in records if e.task not in tasks or e.init_state_id not in tasks[e.task].train]
    return Measured(value=len(used), detail=f"{len(records)} episodes")


@criterion("==", 0, "episodes", row="H3")
def success_count_gap(raw: RawRecords) -> Measured:
    """Counts of episodes and successes in the metrics equal the episode records."""
    runs = [(outcomes.all_episodes(raw), _learner_rows(raw))]
    if outcomes.has_second(raw):
        runs.append((outcomes.rewarded_episodes(raw), outcomes.rewarded_rows(raw)))
    gap, seen = 0.0, 0
    for episodes, rows in runs:
        records = outcomes.used(episodes)
        for name, count in (
            ("rollout/episodes", len(records)),
            ("rollout/successes", sum(e.end == "success" for e in records)),
        ):
            gap += abs(sum(_value(row, name) for row in rows) - count)
        seen += len(records)
    return Measured(value=gap, detail=f"{seen} episode records")


@criterion("==", 0, "episodes", row="H3")
def broken_off(raw: RawRecords) -> Measured:
    """No episode was broken off by a simulator that died."""
    records = outcomes.played(raw)
    bad = sum(e.end == "env-error" for e in records)
    given_up = sum(e.end == "interrupted" for e in records)
    return Measured(value=bad, detail=f"{len(records)} episodes, {given_up} given up at the end")


@criterion(IS_TRUE, True, row="D5")
def video_shown(raw: RawRecords) -> Measured:
    """The video is the recorded one, decodes as recorded and is not blank."""
    record = raw.one(files.VIDEO)
    path = raw.root / media.inside(record.file)
    if not path.is_file():
        raise MissingRecordError(f"{record.file} is missing")
    clip = media.inspect_video(path)
    as_recorded = (record.sha256, record.frames, record.width, record.height) == (
        file_sha256(path), clip.frames, clip.width, clip.height,
    )  # fmt: skip
    is_visible = clip.frames >= 2 and clip.width >= media.MIN_WIDTH
    detail = f"{clip.width}x{clip.height}, {clip.frames} frames, std {clip.spread:.1f} of 255"
    return Measured(
        value=as_recorded and is_visible and clip.spread > media.BLANK_SPREAD, detail=detail
    )


@criterion("==", 0, "stages", row="D7")
def stage_times_missing(raw: RawRecords) -> Measured:
    """Time per stage is recorded on the side that spends it."""
    seen = {
        "learner": {name for row in _learner_rows(raw) for name in row.metrics},
        "actor": {
            name
            for rank in raw.ranks(files.ACTOR_METRICS)
            for row in raw.metrics(files.ACTOR_METRICS, rank)
            for name in row.metrics
        },
    }
    missing = [name for side, names in STAGES.items() for name in names if name not in seen[side]]
    return counted(missing)


# What a policy that succeeds now and then makes of a run. Observed from the committed policies: KL at most 0.045
# nats; norms before clipping at most 42 on MetaWorld, and 590 on LIBERO, where the last step's std is 0.02 and the
# gradient of a log-prob grows with its inverse. Random weights gave KL 4.9.


@criterion(">=", 1, "episodes", row="D8")
def rewards_received(raw: RawRecords) -> Measured:
    """Episodes that an update used and that brought a reward."""
    records = outcomes.used(outcomes.rewarded_episodes(raw))
    paid = sum((e.reward or 0.0) > 0 for e in records)
    return Measured(value=paid, detail=f"{len(records)} episodes")


@criterion("==", 0, "endings", row="D8")
def endings_missing(raw: RawRecords) -> Measured:
    """Episodes that an update used ended both in success and in a time-out."""
    missing = {"success", "timeout"} - {
        e.end for e in outcomes.used(outcomes.rewarded_episodes(raw))
    }
    return Measured(value=len(missing), detail=", ".join(sorted(missing)))


@criterion(">=", 1e-3, "1", row="D8")
def ratio_moved(raw: RawRecords) -> Measured:
    """Ratio minus one, absolute, at its largest in the update where it moved least."""
    moved = [
        max(abs(_value(row, "update/ratio_max") - 1), abs(_value(row, "update/ratio_min") - 1))
        for row in outcomes.rewarded_rows(raw)
    ]
    return Measured(value=min(some(moved, "update")), detail=f"least of {len(moved)} updates")


@criterion("==", 0, "updates", row="D8")
def policy_loss_zero(raw: RawRecords) -> Measured:
    """Updates whose policy loss is exactly zero: there was nothing to learn from."""
    losses = [_value(row, "update/policy_loss") for row in outcomes.rewarded_rows(raw)]
    return Measured(value=losses.count(0.0), detail=f"{len(losses)} updates")


@criterion("<=", 0.2, "nats", row="D8")
def kl_largest(raw: RawRecords) -> Measured:
    """KL estimate after the steps of an update, of the worst update: a step that one would go on from."""
    return _largest(outcomes.rewarded_rows(raw), "update/approx_kl")


@criterion("<=", 200, "1", row="D8", profile="embedded")
def grad_norm_largest(raw: RawRecords) -> Measured:
    """Norm of the actor's gradient before clipping, of the worst update."""
    return _largest(outcomes.rewarded_rows(raw), "update/grad_norm_actor")


@criterion("<=", 2000, "1", row="D8", profile="libero")
def grad_norm_rewarded(raw: RawRecords) -> Measured:
    """Norm of the actor's gradient before clipping, of the worst update of the rewarded run."""
    return _largest(outcomes.rewarded_rows(raw), "update/grad_norm_actor")
