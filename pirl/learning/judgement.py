"""What a learning run is worth: counts, intervals and the bounds that were fixed before it.

Pure: reads records, starts nothing. Every figure follows from the episode records and metric rows of the run
folder, so `judge` can be asked again at any time. Read `pirl.learning.report` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pirl.journal.metric_log import MetricRow
from pirl.journal.stats import PairedTest, Rate, mcnemar
from pirl.learning.settings import Bounds
from pirl.records import EpisodeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What training had cost up to some update; evaluation is not in it."""

    env_steps: int
    """Simulator steps."""
    cpu_s: float
    """Of learner, actors and simulator workers, their start included."""
    wall_s: float
    """Since the learner started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The policy after some updates, on the held-out episodes."""

    update: int
    spent: Spent
    rate: Rate
    mean_env_steps: float
    """Mean episode length, failures included; it moves before the success rate does."""
    tasks: dict[str, Rate]
    """By task, in the order of their ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCheck:
    """One bound and what was measured against it."""

    name: str
    measured: str
    bound: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Curve, criteria and verdict of one run."""

    points: list[Point]
    paired: PairedTest
    """Last policy against the first on the same episodes."""
    criteria: list[BoundCheck]
    misled: dict[str, Rate]
    """The last policy told another task's instruction, by task; empty for one task."""

    @property
    def passed(self) -> bool:
        """Whether every criterion holds."""
        return all(criterion.holds for criterion in self.criteria)


def spent(rows: Sequence[MetricRow], actor_rows: Sequence[Sequence[MetricRow]]) -> dict[int, Spent]:
    """What training had cost, by number of updates.

    Args:
        rows: the learner's, one per update.
        actor_rows: each actor's, one per rollout; rollout n is what update n consumed (`sync` mode).
    """
    found = {0: Spent(env_steps=0, cpu_s=0.0, wall_s=0.0)}
    for row, *rollouts in zip(rows, *actor_rows, strict=True):
        used = [float(r.metrics["system/cpu_s"]) for r in (row, *rollouts)]
        found[row.step] = Spent(
            env_steps=int(row.metrics["counters/env_steps"]),
            cpu_s=sum(used),
            wall_s=float(row.metrics["time/wall_s"]),
        )
    return found


def judge(
    evaluations: Mapping[int, Sequence[EpisodeRecord]],
    costs: Mapping[int, Spent],
    *,
    bounds: Bounds,
    is_control: bool,
    misled: Sequence[EpisodeRecord] = (),
) -> Judgement:
    """Judge a finished run.

    Args:
        evaluations: held-out episodes by number of updates; 0 is the start.
        costs: what training had cost by then.
        is_control: a control passes when it did not learn.
        misled: episodes of the last policy in which every task is told another one's instruction.
    """
    points = [
        Point(
            update=update,
            spent=costs[update],
            rate=_rate(records),
            mean_env_steps=sum(r.env_steps for r in records) / len(records),
            tasks=_by_task(records),
        )
        for update, records in sorted(evaluations.items())
    ]
    first, last = points[0], points[-1]
    criteria = _learned(first, last, bounds) if not is_control else _did_not(first, last, bounds)
    if misled and bounds.misled is not None:
        criteria.append(_follows_language(_rate(misled), bounds.misled))
    paired = mcnemar(
        [r.success for r in evaluations[first.update]],
        [r.success for r in evaluations[last.update]],
    )
    return Judgement(points=points, paired=paired, criteria=criteria, misled=_by_task(misled))


def _rate(records: Sequence[EpisodeRecord]) -> Rate:
    return Rate(successes=sum(r.success for r in records), episodes=len(records))


def _by_task(records: Sequence[EpisodeRecord]) -> dict[str, Rate]:
    tasks = dict.fromkeys(r.task for r in records)
    return {task: _rate([r for r in records if r.task == task]) for task in tasks}


def _share(rate: Rate) -> float:
    return rate.successes / rate.episodes


def _learned(first: Point, last: Point, bounds: Bounds) -> list[BoundCheck]:
    return [
        BoundCheck(
            name="fresh-episodes",
            measured=str(min(first.rate.episodes, last.rate.episodes)),
            bound=">= 100",
            holds=min(first.rate.episodes, last.rate.episodes) >= 100,
        ),
        BoundCheck(
            name="start-success",
            measured=str(first.rate),
            bound=f"share in [{bounds.start_low}, {bounds.start_high}]",
            holds=bounds.start_low <= _share(first.rate) <= bounds.start_high,
        ),
        BoundCheck(
            name="end-success",
            measured=str(last.rate),
            bound=f"share >= {bounds.end}",
            holds=_share(last.rate) >= bounds.end,
        ),
        BoundCheck(
            name="env-steps",
            measured=str(last.spent.env_steps),
            bound=f"<= {bounds.env_steps}",
            holds=last.spent.env_steps <= bounds.env_steps,
        ),
    ]


def _did_not(first: Point, last: Point, bounds: Bounds) -> list[BoundCheck]:
    return [
        BoundCheck(
            name="control-did-not-learn",
            measured=f"{last.rate} after {first.rate}",
            bound=f"share at most start + {bounds.control_gain}",
            # 0.45 - 0.30 is a rounding error above 0.15.
            holds=round(_share(last.rate) - _share(first.rate), 9) <= bounds.control_gain,
        )
    ]


def _follows_language(misled: Rate, bound: float) -> BoundCheck:
    return BoundCheck(
        name="misled-success",
        measured=str(misled),
        bound=f"share <= {bound} with instructions swapped",
        holds=_share(misled) <= bound,
    )


def judgement_record(judgement: Judgement) -> dict[str, object]:
    """The judgement as JSON values; counts by task where there are several."""
    record: dict[str, object] = {
        "passed": judgement.passed,
        "points": [
            {
                "update": point.update,
                "env_steps": point.spent.env_steps,
                "cpu_s": round(point.spent.cpu_s, 1),
                "wall_s": round(point.spent.wall_s, 1),
                "successes": point.rate.successes,
                "episodes": point.rate.episodes,
                "interval_95": [round(bound, 4) for bound in point.rate.interval],
                "mean_env_steps": round(point.mean_env_steps, 2),
                **({"tasks": _counts(point.tasks)} if len(point.tasks) > 1 else {}),
            }
            for point in judgement.points
        ],
        "paired": str(judgement.paired),
        "criteria": [asdict(criterion) for criterion in judgement.criteria],
    }
    if judgement.misled:
        record["misled"] = _counts(judgement.misled)
    return record


def _counts(tasks: Mapping[str, Rate]) -> dict[str, dict[str, int]]:
    return {
        task: {"successes": rate.successes, "episodes": rate.episodes}
        for task, rate in tasks.items()
    }
