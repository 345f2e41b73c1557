"""The flow `phase2-gate` on a Prefect server: order, verdict and state. The steps are stand-ins."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ParameterTypeError
from prefect.testing.utilities import prefect_test_harness

import flows.phase2_gate as flow_module
from flows.bare_name import full_name
from pirl.evidence.criteria import STEPS, Verdict
from pirl.gate.session import GateFailedError, StepOutcome
from pirl.gate.track import NoTracker

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=180):
        yield


class StandIn:
    """A gate whose steps only note that they ran."""

    def __init__(self, folder: Path, verdict: Verdict) -> None:
        self.folder = folder
        self.verdict = verdict
        self.ran: list[str] = []
        self.launched_by = ""

    def run_step(self, step: str) -> StepOutcome:
        self.ran.append(step)
        return StepOutcome(step=step, verdict=self.verdict, results=[], error="")

    def finish(self) -> SimpleNamespace:
        self.folder.mkdir(parents=True)
        (self.folder / "report.md").write_text(f"# {self.verdict}\n")
        shown = SimpleNamespace(verdict=self.verdict, label=f"{self.verdict} (stand-in)")
        return SimpleNamespace(verdict=shown, digest="0" * 64, folder=self.folder)


def run_flow(monkeypatch, folder: Path, verdict: Verdict):
    """The flow with a stand-in gate; returns the gate and the final state."""
    gate = StandIn(folder, verdict)

    @contextmanager
    def open_gate(**arguments):
        gate.launched_by = arguments["launched_by"]
        yield gate

    @contextmanager
    def tracked(_gate, **_arguments):
        yield NoTracker()

    monkeypatch.setattr(flow_module, "open_gate", open_gate)
    monkeypatch.setattr(flow_module, "tracked", tracked)
    state = flow_module.phase2_gate(variant="flow-noise", out=str(folder), return_state=True)
    return gate, state


async def recorded_artifacts():
    async with get_client() as client:
        return await client.read_artifacts()


def test_steps_run_in_order_and_the_label_is_the_result(monkeypatch, tmp_path):
    gate, state = run_flow(monkeypatch, tmp_path / "bundle", Verdict.PASSED)
    assert gate.ran == list(STEPS)
    assert gate.launched_by == "prefect"
    assert state.is_completed()
    assert state.result() == "passed (stand-in)"
    artifacts = asyncio.run(recorded_artifacts())
    assert [a.data for a in artifacts if a.key == "gate-flow-noise-report"] == ["# passed\n"]


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_RUN])
def test_gate_that_does_not_pass_is_a_failed_run(monkeypatch, tmp_path, verdict):
    _, state = run_flow(monkeypatch, tmp_path / "bundle", verdict)
    assert state.is_failed()
    with pytest.raises(GateFailedError, match=str(verdict)):
        state.result()


def test_unknown_variant_is_refused_before_anything_runs():
    with pytest.raises(ParameterTypeError, match="flow-sde"):
        flow_module.phase2_gate(variant="flow-ode")


def test_no_step_is_ever_answered_from_a_cache():
    tasks = (
        flow_module.validate_config,
        flow_module.smoke_run,
        flow_module.resume_roundtrip,
        flow_module.mismatch_negative,
    )
    for task in tasks:
        assert task.cache_policy.compute_key(SimpleNamespace(), {}, {}) is None
        assert task.persist_result is False
        assert task.retries == 0


def test_bare_name_means_the_deployment_of_that_name():
    assert full_name("phase2-gate") == "phase2-gate/phase2-gate"
    assert full_name("phase2-gate/nightly") == "phase2-gate/nightly"


def test_start_up_hook_lets_the_client_find_the_deployment_by_its_bare_name():
    # Prefect ran the hook when it was imported: prefect.toml of this checkout enables it.
    deployment = flow_module.phase2_gate.to_deployment(name="phase2-gate")

    async def look_up():
        await deployment.aapply()
        async with get_client() as client:
            return await client.read_deployment_by_name("phase2-gate")

    assert PrefectClient.read_deployment_by_name.__module__ == "flows.bare_name"
    assert asyncio.run(look_up()).name == "phase2-gate"
