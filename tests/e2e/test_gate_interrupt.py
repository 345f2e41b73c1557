"""A gate that is stopped in the middle: nothing is left of it, and nothing says that it passed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from pirl.audit.verify import verify_main as verify
from pirl.tracking.sink import MlflowSink

REPO = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

MARK = "PIRL_TEST_INTERRUPT"
START_S = 600.0
END_S = 60.0


def marked(value: str) -> list[psutil.Process]:
    """Every living process that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def roles(mark: str) -> set[str]:
    words = {word for process in marked(mark) for word in process.cmdline()}
    return words & {"pirl.learner", "pirl.actor"}


@pytest.mark.parametrize(
    ("signum", "exit_code", "status"),
    [(signal.SIGTERM, 4, "KILLED"), (signal.SIGKILL, -9, "FAILED")],
)
def test_stopped_gate_leaves_no_process_and_no_pass(tmp_path, environ, signum, exit_code, status):
    out, mark = tmp_path / "bundle", tmp_path.name
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    env = {**environ, MARK: mark, "MLFLOW_TRACKING_URI": uri}
    argv = [sys.executable, "-m", "pirl.cli", "gate", "--profile", "embedded", "--out", str(out)]
    argv += ["--launched-by", "test"]
    with (tmp_path / "gate.log").open("wb") as log:
        gate = subprocess.Popen(argv, cwd=REPO, env=env, stdout=log, stderr=log)
    try:
        assert eventually(lambda: len(roles(mark)) == 2, START_S), (
            tmp_path / "gate.log"
        ).read_text()
        gate.send_signal(signum)
        assert gate.wait(END_S) == exit_code
        assert eventually(lambda: marked(mark) == [], END_S)
    finally:
        for process in marked(mark):
            process.kill()
        gate.wait(10)
    assert verify([str(out)]) == 1
    sink = MlflowSink.open(tmp_path, uri=uri)
    sink.reap()
    assert {run.info.status for run in gates(sink.client)} == {status}
    assert not any("passed" in run.data.tags["gate.verdict"] for run in gates(sink.client))


def gates(client: MlflowClient) -> list:
    """Parent runs of the experiment."""
    experiment = client.get_experiment_by_name("phase2-gate")
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
