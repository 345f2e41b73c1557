"""Episode records and the success figures that are computed from them, and from nothing else.

Owns the fields of `episodes.jsonl`. A success figure always carries both counts and an interval.
Read `pirl.evidence.stats` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pirl.errors import EvidenceError
from pirl.evidence.raw import RawRecords, Record, boolean, integer, text
from pirl.evidence.stats import Rate

STEP = "smoke-run"

SUCCESS_DEFINITION = (
    "An episode succeeds when the simulator reports success before its step limit. Time-outs, "
    "simulator errors and interrupted episodes count as failures."
)

ENDS = ("success", "timeout", "env-error", "interrupted")
"""How an episode may end."""


def all_episodes(raw: RawRecords) -> list[Record]:
    """Every episode of the smoke run.

    Raises:
        EvidenceError: an episode id occurs twice, or an end contradicts its success.
    """
    records = raw.lines(STEP, "episodes.jsonl")
    ids = [integer(record, "episode_id") for record in records]
    if len(set(ids)) != len(ids):
        raise EvidenceError("an episode id occurs twice")
    for record in records:
        end = text(record, "end")
        if end not in ENDS or (end == "success") != boolean(record, "success"):
            raise EvidenceError(f"episode {record['episode_id']}: end {end!r} contradicts success")
    return records


def train_episodes(raw: RawRecords) -> list[Record]:
    """Episodes whose decisions the learner may train on."""
    return [record for record in all_episodes(raw) if text(record, "phase") == "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """Counts of one task in one phase."""

    phase: str
    task: str
    rate: Rate
    timeouts: int
    errors: int
    """Simulator errors and interruptions."""
    initial_states: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in `verdict.json`."""
        low, high = self.rate.interval
        return {
            "phase": self.phase,
            "task": self.task,
            "successes": self.rate.successes,
            "episodes": self.rate.episodes,
            "wilson_95": [round(low, 4), round(high, 4)],
            "timeouts": self.timeouts,
            "errors": self.errors,
            "initial_states": list(self.initial_states),
        }


def by_task(records: Sequence[Record]) -> list[TaskOutcome]:
    """Outcomes by phase and task, sorted."""
    keys = sorted({(text(r, "phase"), text(r, "task")) for r in records})
    return [_outcome(phase, task, records) for phase, task in keys]


def _outcome(phase: str, task: str, records: Sequence[Record]) -> TaskOutcome:
    mine = [r for r in records if (r["phase"], r["task"]) == (phase, task)]
    ends = [text(r, "end") for r in mine]
    return TaskOutcome(
        phase=phase,
        task=task,
        rate=Rate(successes=ends.count("success"), episodes=len(ends)),
        timeouts=ends.count("timeout"),
        errors=ends.count("env-error") + ends.count("interrupted"),
        initial_states=tuple(sorted({integer(r, "init_state_id") for r in mine})),
    )
