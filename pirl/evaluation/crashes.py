"""Episodes whose simulator crashed: their record, their reason, and how many end an evaluation.

Owns what counts as a crash in a record, so that a reader of the records sees it too. Read
`pirl.evaluation.checkpoint` for what starts the simulators anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from pirl.errors import EnvError
from pirl.records import EpisodePlan, EpisodeRecord

LIMIT = 3
"""Crashed episodes that are neighbours in the schedule: more than bad luck. Of the schedule and not of time, so
that it does not depend on how many simulators run side by side.
"""

_PLACE = re.compile(r"(?<=simulator worker) \d+|slot \d+, |; its standard error is above")

type OnCrash = Callable[[EpisodeRecord, str], None]
"""Called with the record and the reason."""


def crashed_record(plan: EpisodePlan, task: str) -> EpisodeRecord:
    """A failure without a decision: what an episode did before its simulator crashed counts for nothing."""
    return EpisodeRecord(
        task_id=plan.task_id,
        task=task,
        init_state_id=plan.init_state_id,
        seed=plan.seed,
        episode_id=plan.episode_id,
        policy_version=0,
        env_steps=0,
        decisions=0,
        reward=0.0,
        success=False,
        truncated=False,
    )


def is_crashed(record: EpisodeRecord) -> bool:
    """Whether the record is one of `crashed_record`: every other episode has a decision."""
    return record.decisions == 0 and not record.success and not record.truncated


def reason_of(error: EnvError) -> str:
    """The message without the worker and the slot, which another run of the schedule may have otherwise."""
    return _PLACE.sub("", " ".join(str(error).split()))


def check_limit(plans: Sequence[EpisodePlan], crashed: Collection[int], why: str) -> None:
    """Refuse to go on where the simulator itself does not work.

    Raises:
        EnvError: `LIMIT` neighbours of the schedule crashed, or every episode did.
    """
    run = 0
    for plan in plans:
        run = run + 1 if plan.episode_id in crashed else 0
        if run == min(LIMIT, len(plans)):
            raise EnvError(f"{run} episodes in a row crashed their simulator; the last one: {why}")
