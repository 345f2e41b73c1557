"""Step `smoke-run` of the phase-2 gate as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from pirl.gate.session import GateSession, StepOutcome
from pirl.gate.track import Tracker


@task(
    name="smoke-run",
    task_run_name="smoke-run",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=1500,
)
def smoke_run(gate: GateSession, tracker: Tracker) -> StepOutcome:
    """Run the step and judge its records; evidence is never answered from a cache."""
    with tracker.step("smoke-run"):
        outcome = gate.run_step("smoke-run")
        tracker.step_done(gate, outcome)
    return outcome
