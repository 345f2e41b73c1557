"""The flow `phase2-gate` on a Prefect server: order, verdict and state. The steps are stand-ins."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import runtime
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ParameterTypeError
from prefect.testing.utilities import prefect_test_harness

import flows.phase2_gate as flow_module
from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.errors import EnvironmentNotReadyError
from pirl.gate import session
from pirl.gate.deadlines import EXPECTED_S, LOAD_FACTOR
from pirl.gate.profiles import Profile
from pirl.gate.session import GateFailedError, GateSession
from pirl.gate.track import NoTracker
from pirl.runtime.procs import wait_until
from tasks.gate_steps import TASKS

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def server():
    with prefect_test_harness(server_startup_timeout=180):
        yield


class StandIn:
    """A bundle that is judged as given."""

    def __init__(self, folder: Path, verdict: Verdict) -> None:
        self.folder = folder
        self.verdict = verdict

    def step(self, _step: str, **_: str) -> StandIn:
        return self

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_) -> None:
        return None

    def results(self) -> list:
        return [SimpleNamespace(name="all", verdict=self.verdict, detail="")]

    def finish(self, *, pictures: bool) -> SimpleNamespace:
        del pictures
        self.folder.mkdir(parents=True)
        (self.folder / "report.md").write_text(f"# {self.verdict}\n")
        shown = SimpleNamespace(verdict=self.verdict, label=f"{self.verdict} (stand-in)")
        return SimpleNamespace(verdict=shown, digest="0" * 64, folder=self.folder)


def run_flow(
    monkeypatch,
    folder: Path,
    verdict: Verdict,
    *,
    run=lambda _gate, _writer: None,
    asked=None,
    **given,
):
    """The flow with a gate whose every step is `run`; returns the gate and the final state.

    Args:
        asked: is told what the gate was opened with.
    """
    monkeypatch.setattr(session, "import_module", lambda _name: SimpleNamespace(run=run))
    gate = GateSession(
        profile=Profile(name="embedded", reason="test"),
        variant="flow-noise",
        work=folder,
        bundle=StandIn(folder, verdict),
        loaded=SimpleNamespace(identity=SimpleNamespace(hash="ab")),
    )

    @contextmanager
    def open_gate(**arguments):
        assert arguments["launched_by"] == "prefect"
        if asked is not None:
            asked.update(arguments)
        yield gate

    @contextmanager
    def tracked(_gate, **_arguments):
        yield NoTracker()

    monkeypatch.setattr(flow_module, "open_gate", open_gate)
    monkeypatch.setattr(flow_module, "tracked", tracked)
    state = flow_module.phase2_gate(
        variant="flow-noise", out=str(folder), return_state=True, **given
    )
    return gate, state


async def recorded_artifacts():
    async with get_client() as client:
        return await client.read_artifacts()


def test_steps_run_in_order_and_the_label_is_the_result(monkeypatch, tmp_path):
    tasks: list[str] = []

    def note(_gate, _writer):
        tasks.append(runtime.task_run.name)

    gate, state = run_flow(monkeypatch, tmp_path / "bundle", Verdict.PASSED, run=note)
    assert tasks == list(gate.outcomes) == list(STEPS)
    assert state.is_completed()
    assert state.message == state.result() == "passed (stand-in)"
    artifacts = asyncio.run(recorded_artifacts())
    assert [a.data for a in artifacts if a.key == "gate-flow-noise-report"] == ["# passed\n"]
    (progress,) = (a for a in artifacts if a.type == "progress")
    assert progress.data == 100.0
    assert progress.description.splitlines() == [f"{s}: passed, 1 of 1 criteria" for s in STEPS]


@pytest.mark.parametrize(
    ("given", "config", "overrides"),
    [
        ({}, None, ["--seed=1000"]),
        ({"profile": "own", "config": "mine.json"}, Path("mine.json"), []),
    ],
)
def test_a_config_of_ones_own_is_a_parameter(monkeypatch, tmp_path, given, config, overrides):
    asked: dict = {}
    run_flow(monkeypatch, tmp_path / "bundle", Verdict.PASSED, asked=asked, **given)
    assert (asked["profile"], asked["config"]) == (given.get("profile", "auto"), config)
    assert list(asked["overrides"]) == overrides


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.NOT_RUN])
def test_gate_that_does_not_pass_is_a_failed_run(monkeypatch, tmp_path, verdict):
    _, state = run_flow(monkeypatch, tmp_path / "bundle", verdict)
    assert state.is_failed()
    with pytest.raises(GateFailedError, match=str(verdict)):
        state.result()


def test_step_that_ended_early_fails_the_run_in_one_line_and_no_later_task_runs(
    monkeypatch, tmp_path
):
    def not_ready(_gate, _writer):
        raise EnvironmentNotReadyError("no assets", remedy="fetch them")

    gate, state = run_flow(monkeypatch, tmp_path / "bundle", Verdict.NOT_RUN, run=not_ready)
    assert state.is_failed()
    with pytest.raises(GateFailedError) as failure:
        state.result()
    assert "validate-config ended early: EnvironmentNotReadyError: no assets; fix: fetch them" in (
        str(failure.value)
    )
    assert "\n" not in str(failure.value)
    assert list(gate.outcomes) == ["validate-config"]
    (*_, progress) = (a for a in asyncio.run(recorded_artifacts()) if a.data == 25.0)
    assert progress.description == "validate-config: not run, 0 of 1 criteria, ended early"


def test_task_has_the_time_limit_of_its_step_and_profile(monkeypatch, tmp_path):
    def endless(_gate, _writer):
        wait_until(lambda: False, what="the end", deadline_s=120.0)

    monkeypatch.setitem(EXPECTED_S["embedded"], "validation", 1.0 / LOAD_FACTOR)
    gate, state = run_flow(monkeypatch, tmp_path / "bundle", Verdict.PASSED, run=endless)
    assert state.is_failed()
    assert gate.outcomes == {}
    with pytest.raises(TimeoutError):
        state.result()


def test_unknown_variant_is_refused_before_anything_runs():
    with pytest.raises(ParameterTypeError, match="flow-sde"):
        flow_module.phase2_gate(variant="flow-ode")


def test_no_step_is_ever_answered_from_a_cache():
    assert list(TASKS) == list(STEPS)
    for task in TASKS.values():
        assert task.cache_policy.compute_key(SimpleNamespace(), {}, {}) is None
        assert task.persist_result is False
        assert task.retries == 0


def test_start_up_hook_lets_the_client_find_the_deployment_by_its_bare_name():
    # Prefect ran the hook when it was imported: prefect.toml of this checkout enables it.
    deployment = flow_module.phase2_gate.to_deployment(name="phase2-gate")

    async def look_up():
        await deployment.aapply()
        async with get_client() as client:
            return await client.read_deployment_by_name("phase2-gate")

    assert inspect.unwrap(PrefectClient.read_deployment_by_name) is not (
        PrefectClient.read_deployment_by_name
    )
    assert asyncio.run(look_up()).name == "phase2-gate"
