"""Step `validate-config` of the phase-2 gate as a Prefect task."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from pirl.gate.session import GateSession, StepOutcome
from pirl.gate.track import Tracker


@task(
    name="validate-config",
    task_run_name="validate-config",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
    timeout_seconds=900,
)
def validate_config(gate: GateSession, tracker: Tracker) -> StepOutcome:
    """Run the step and judge its records; evidence is never answered from a cache."""
    with tracker.step("validate-config"):
        outcome = gate.run_step("validate-config")
        tracker.step_done(gate, outcome)
    return outcome
