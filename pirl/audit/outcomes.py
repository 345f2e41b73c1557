"""The success figures of the smoke runs, computed from their episode records and from nothing else.

A success figure always carries both counts and an interval. Read `pirl.journal.stats` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.smoke import Episode
from pirl.errors import EvidenceError
from pirl.journal.metric_log import MetricRow
from pirl.journal.stats import Rate

SUCCESS_DEFINITION = (
    "An episode succeeds when the simulator reports success before its step limit. Time-outs, "
    "simulator errors and interrupted episodes count as failures."
)

STOPPING_RULE = "after runtime.total_updates updates, fixed before the run"

ASKED_FOR = "the embedded profile was asked for by name"
CANNOT_RUN = "LIBERO cannot run here: "
OWN_CONFIG = "a config of one's own was asked for"
REASONS = {"embedded": (ASKED_FOR, CANNOT_RUN), "own": (OWN_CONFIG,)}
"""Profile, and why a gate has it and not `libero`, by what the reason begins with."""

ENDS = ("success", "timeout", "failure", "env-error", "interrupted")
"""How an episode may end."""


def all_episodes(raw: RawRecords) -> list[Episode]:
    """Every episode that began in the smoke run of the gate's own config.

    Raises:
        EvidenceError: an episode id occurs twice, an end is unknown, or contradicts what became of the episode.
    """
    return _checked(raw.all(files.EPISODES))


def rewarded_episodes(raw: RawRecords) -> list[Episode]:
    """Every episode of the run that must see rewards: the second one, where the profile has one.

    Raises:
        EvidenceError: as `all_episodes`.
    """
    return _checked(raw.all(files.REWARDED_EPISODES)) if has_second(raw) else all_episodes(raw)


def rewarded_rows(raw: RawRecords) -> list[MetricRow]:
    """Updates of the run that must see rewards."""
    return raw.metrics(files.REWARDED_METRICS if has_second(raw) else files.LEARNER_METRICS)


def has_second(raw: RawRecords) -> bool:
    """Whether the recorded profile has a second smoke run."""
    return raw.one(files.PROFILE).profile == files.REWARDED


def played(raw: RawRecords) -> list[Episode]:
    """Every episode of every smoke run."""
    return all_episodes(raw) + (rewarded_episodes(raw) if has_second(raw) else [])


def _checked(records: list[Episode]) -> list[Episode]:
    ids = [episode.episode_id for episode in records]
    if len(set(ids)) != len(ids):
        raise EvidenceError("an episode id occurs twice")
    for episode in records:
        was_broken_off = episode.end in ("env-error", "interrupted")
        if episode.end not in ENDS or was_broken_off != (episode.reward is None):
            raise EvidenceError(f"episode {episode.episode_id}: end {episode.end!r} cannot be")
        if was_broken_off == (episode.update is not None):
            raise EvidenceError(
                f"episode {episode.episode_id}: an episode was used, or it was broken off"
            )
    return records


def used(episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes that an update used."""
    return [episode for episode in episodes if episode.update is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """Counts of one task."""

    task: str
    rate: Rate
    timeouts: int
    errors: int
    """Simulator errors."""
    interrupted: int
    """Given up when the run was over, or lost."""
    initial_states: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in `verdict.json`."""
        low, high = self.rate.interval
        return {
            "task": self.task,
            "successes": self.rate.successes,
            "episodes": self.rate.episodes,
            "wilson_95": [round(low, 4), round(high, 4)],
            "timeouts": self.timeouts,
            "errors": self.errors,
            "interrupted": self.interrupted,
            "initial_states": list(self.initial_states),
        }


def by_task(records: Sequence[Episode]) -> list[TaskOutcome]:
    """Outcomes by task, sorted."""
    return [
        _outcome(task, [e for e in records if e.task == task])
        for task in sorted({e.task for e in records})
    ]


def _outcome(task: str, mine: Sequence[Episode]) -> TaskOutcome:
    ends = [episode.end for episode in mine]
    return TaskOutcome(
        task=task,
        rate=Rate(successes=ends.count("success"), episodes=len(ends)),
        timeouts=ends.count("timeout"),
        errors=ends.count("env-error"),
        interrupted=ends.count("interrupted"),
        initial_states=tuple(sorted({e.init_state_id for e in mine})),
    )
