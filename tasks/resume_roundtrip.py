"""Step `resume-roundtrip` of the phase-2 gate as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from pirl.gate.session import GateSession, StepOutcome
from pirl.gate.track import Tracker


@task(
    name="resume-roundtrip",
    task_run_name="resume-roundtrip",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=1800,
)
def resume_roundtrip(gate: GateSession, tracker: Tracker) -> StepOutcome:
    """Run the step and judge its records; evidence is never answered from a cache."""
    with tracker.step("resume-roundtrip"):
        outcome = gate.run_step("resume-roundtrip")
        tracker.step_done(gate, outcome)
    return outcome
