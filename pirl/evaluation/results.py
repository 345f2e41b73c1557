"""From episode records to every figure of an evaluation; pure, so that a reader can compute them again.

Owns counts, intervals, mean lengths and the list of failures. A share is never given without both counts.
Read `pirl.evaluation.folder` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pirl.errors import EvidenceError
from pirl.evaluation.crashes import is_crashed
from pirl.journal.stats import Rate
from pirl.records import EpisodePlan, EpisodeRecord

METHOD = (
    "Every episode of a schedule that was fixed before the first one, run once; no early stop. An episode "
    "succeeds when the simulator reports success before the time limit; a time-out is a failure, and so is the "
    "crash of its simulator. Mean lengths are over episodes that did not crash. Intervals: 95 % Wilson."
)
"""Of format 2 of a result folder."""
METHOD_1 = (
    "Every episode of a schedule that was fixed before the first one, run once; no early stop. An episode "
    "succeeds when the simulator reports success before the time limit; a time-out is a failure. A simulator "
    "error ends the evaluation without figures. Intervals: 95 % Wilson."
)
"""Of format 1, which knows no crash."""
SMALL = 50
"""Episodes; below it two policies far apart cannot be told apart, and the report says so."""

METAWORLD_SUITE = "metaworld"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Counts of a task, a suite or everything."""

    name: str
    rate: Rate
    mean_env_steps: float
    """Simulator steps an episode took, failures included and crashes not; 0 where every one crashed."""
    mean_success_steps: float | None
    """The same over successes; null without one."""

    def to_json(self) -> dict[str, Any]:
        low, high = self.rate.interval
        return {
            "name": self.name,
            "successes": self.rate.successes,
            "episodes": self.rate.episodes,
            "wilson_95": [round(low, 6), round(high, 6)],
            "mean_env_steps": self.mean_env_steps,
            "mean_success_steps": self.mean_success_steps,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Every figure of one evaluation."""

    per_task: tuple[Figures, ...]
    per_suite: tuple[Figures, ...]
    overall: Figures
    failures: tuple[EpisodeRecord, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "per_task": [f.to_json() for f in self.per_task],
            "per_suite": [f.to_json() for f in self.per_suite],
            "overall": self.overall.to_json(),
            "failures": [_failure(record) for record in self.failures],
        }


def suite_of(task: str) -> str:
    """`libero_10` of `libero_10/3`."""
    suite, slash, _ = task.partition("/")
    return suite if slash else METAWORLD_SUITE


def check_records(plans: Sequence[EpisodePlan], records: Sequence[EpisodeRecord]) -> None:
    """Refuse records that are not exactly one per plan, in order, or that contradict themselves.

    Raises:
        EvidenceError: names each episode.
    """
    problems: list[str] = []
    if len(plans) != len(records):
        problems.append(f"{len(records)} records for {len(plans)} planned episodes")
    for plan, record in zip(plans, records, strict=False):
        for name in ("episode_id", "task_id", "init_state_id", "seed"):
            planned, found = getattr(plan, name), getattr(record, name)
            if planned != found:
                problems.append(f"episode {plan.episode_id}: {name} is {found}, planned {planned}")
        if record.success == record.truncated and not is_crashed(record):
            problems.append(f"episode {plan.episode_id}: neither or both of success and time-out")
    if problems:
        raise EvidenceError("the records are not those of the schedule", problems=problems[:20])


def compute_results(records: Sequence[EpisodeRecord]) -> Results:
    """All figures; tasks and suites in the order of their first episode.

    Raises:
        EvidenceError: there is no record.
    """
    if not records:
        raise EvidenceError("no episode, no figure")
    tasks = list(dict.fromkeys(record.task for record in records))
    suites = list(dict.fromkeys(suite_of(task) for task in tasks))
    return Results(
        per_task=tuple(_figures(t, [r for r in records if r.task == t]) for t in tasks),
        per_suite=tuple(_figures(s, [r for r in records if suite_of(r.task) == s]) for s in suites),
        overall=_figures("overall", records),
        failures=tuple(record for record in records if not record.success),
    )


def _figures(name: str, records: Sequence[EpisodeRecord]) -> Figures:
    steps = [record.env_steps for record in records if not is_crashed(record)]
    won = [record.env_steps for record in records if record.success]
    return Figures(
        name=name,
        rate=Rate(successes=len(won), episodes=len(records)),
        mean_env_steps=round(sum(steps) / max(1, len(steps)), 3),
        mean_success_steps=round(sum(won) / len(won), 3) if won else None,
    )


def _failure(record: EpisodeRecord) -> dict[str, Any]:
    wanted = ("episode_id", "task", "init_state_id", "seed", "env_steps", "decisions")
    return {name: value for name, value in asdict(record).items() if name in wanted}
