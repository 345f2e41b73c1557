"""The steps of the phase-2 gate as Prefect tasks; evidence is never answered from a cache."""

from __future__ import annotations

from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.gate.deadlines import step_allowed_s
from pirl.gate.main import run_step
from pirl.gate.session import GateSession, StepOutcome
from pirl.gate.track import Tracker

type StepTask = Task[[GateSession, Tracker], StepOutcome]


def _task_of(step: str) -> StepTask:
    @task(name=step, task_run_name=step, cache_policy=NO_CACHE, persist_result=False, retries=0)
    def run(gate: GateSession, tracker: Tracker) -> StepOutcome:
        return run_step(gate, tracker, step)

    return run


TASKS: dict[str, StepTask] = {step: _task_of(step) for step in STEPS}
"""By step."""


def run_as_task(gate: GateSession, tracker: Tracker, step: str) -> StepOutcome:
    """`pirl.gate.main.run_step` as a task run, with the step's time limit on the gate's profile."""
    limit_s = step_allowed_s(gate.profile.name, step)
    return TASKS[step].with_options(timeout_seconds=limit_s)(gate, tracker)


class Progress:
    """How far a flow run is: one progress artifact, with a line about every step that is over."""

    def __init__(self, variant: str) -> None:
        self._artifact = create_progress_artifact(
            0.0, key=f"gate-{variant}-progress", description=f"{STEPS[0]}: running"
        )

    def run(self, gate: GateSession, tracker: Tracker, step: str) -> StepOutcome:
        """`run_as_task`, told."""
        outcome = run_as_task(gate, tracker, step)
        told = [f"{name}: {_in_words(over)}" for name, over in gate.outcomes.items()]
        percent = 100.0 * len(gate.outcomes) / len(STEPS)
        update_progress_artifact(self._artifact, percent, description="\n".join(told))
        return outcome


def _in_words(outcome: StepOutcome) -> str:
    passed = sum(result.verdict is Verdict.PASSED for result in outcome.results)
    early = ", ended early" if outcome.ends_gate else ""
    return f"{outcome.verdict}, {passed} of {len(outcome.results)} criteria{early}"
