"""Runs of the tracker always end with the status that is true."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from bundle_builder import UPDATES

from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_step
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.errors import EvidenceError
from pirl.tracking import view
from pirl.tracking.sink import MlflowSink, default_uri

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A migrated database with the experiment; migrating takes seconds, copying does not."""
    folder = tmp_path_factory.mktemp("tracker")
    MlflowSink.open(folder, uri=f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def sink(template, tmp_path):
    shutil.copy(template / "mlflow.db", tmp_path / "mlflow.db")
    return MlflowSink.open(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")


def status(sink, run_id):
    return sink.client.get_run(run_id).info.status


def gate(sink):
    return sink.gate(variant="flow-sde", commit="1a2b3c4d" * 5, tags={"launched_by": "test"})


def test_experiment_has_a_note_and_a_saved_view_of_parent_runs(sink):
    tags = sink.client.get_experiment(sink.experiment_id).tags
    assert "nothing missing counts as passed" in tags[view.NOTE_TAG]
    assert "gate audit" in tags[view.VIEW_TAG]


def test_opening_twice_gives_the_same_experiment(sink, tmp_path):
    again = MlflowSink.open(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert again.experiment_id == sink.experiment_id


def test_passed_gate_is_finished_with_tags_params_metrics_and_artifacts(sink, good_bundle):
    raw = RawRecords(good_bundle.folder)
    with gate(sink) as run:
        assert status(sink, run.run_id) == "RUNNING"
        with run.step("smoke-run") as step:
            step.open.metrics(raw.metrics(files.LEARNER_METRICS))
            step.conclude(judge_step(raw, "smoke-run"))
            model = step.checkpoint(name="smoke-3", digest="ab" * 32, step=3)
        run.conclude(good_bundle)
    parent, child = (sink.client.get_run(r) for r in (run.run_id, step.run_id))
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.info.run_name == "FALLBACK passed flow-sde 1a2b3c4"
    assert parent.data.tags["gate.verdict"] == "passed (fallback: embedded)"
    assert parent.data.tags["bundle.sha256"] == good_bundle.digest
    assert not any(tag.startswith("criterion.") for tag in parent.data.tags)
    assert parent.data.tags[view.NOTE_TAG].startswith("## Verdict: PASSED (FALLBACK: EMBEDDED)")
    assert parent.data.params["pirl.variant"] == "flow-sde"
    assert parent.data.metrics["criteria_passed"] == parent.data.metrics["criteria_total"] == 81
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    history = sink.client.get_metric_history(step.run_id, "update/policy_loss")
    assert [m.step for m in history] == list(range(1, UPDATES + 1))
    assert sink.client.get_logged_model(model).tags["sha256"] == "ab" * 32
    names = {a.path for a in sink.client.list_artifacts(run.run_id)}
    assert names == {path.name for path in good_bundle.folder.iterdir()}
    table = Path(sink.client.download_artifacts(step.run_id, view.CRITERIA_FILE)).read_text()
    assert "parity_max_abs" in table


def test_failed_verdict_shows_failed(sink, raw, good_bundle):
    (raw.root / "raw/smoke-run/handshake-0.json").unlink()
    with gate(sink) as run, run.step("smoke-run") as step:
        step.conclude(judge_step(raw, "smoke-run"))
    assert step.open.verdict == Verdict.FAILED
    assert status(sink, step.run_id) == "FAILED"


def test_a_run_has_a_verdict_from_its_start(sink):
    with gate(sink) as run:
        tags = sink.client.get_run(run.open.run_id).data.tags
        assert tags["gate.verdict"] == "not run"


def test_gate_without_a_verdict_shows_failed(sink):
    with gate(sink) as run, run.step("smoke-run") as step:
        pass
    assert (status(sink, run.run_id), status(sink, step.run_id)) == ("FAILED", "FAILED")


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RuntimeError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(4), "KILLED")],
)
def test_interrupted_run_never_stays_running(sink, error, expected):
    runs = []

    def interrupted():
        with gate(sink) as run, run.step("smoke-run") as step:
            runs.extend([run.run_id, step.run_id])
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert [status(sink, r) for r in runs] == [expected, expected]
    parent = sink.client.get_run(runs[0])
    assert parent.data.tags["stopped_by"] == type(error).__name__
    word = "crashed" if expected == "FAILED" else "cancelled"
    assert parent.data.tags["gate.verdict"] == word
    assert parent.info.run_name.startswith(f"{word.upper()} ")


def test_runs_of_a_killed_owner_are_reaped_and_living_ones_are_not(sink, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(dead.pid).create_time()
    dead.wait(timeout=60)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def a_run(**owner):
        tags = {f"owner.{key}": value for key, value in owner.items()}
        return sink.client.create_run(sink.experiment_id, tags=tags).info.run_id

    me = f"{psutil.Process().create_time():.2f}"
    pid = str(os.getpid())
    killed = a_run(pid=str(dead.pid), started=f"{started:.2f}", boot=boot)
    rebooted = a_run(pid=pid, started=me, boot="another boot")
    reused = a_run(pid=pid, started="1.00", boot=boot)
    alive = a_run(pid=pid, started=me, boot=boot)
    foreign = a_run()
    assert set(sink.reap()) == {killed, rebooted, reused}
    assert [status(sink, r) for r in (killed, alive, foreign)] == ["FAILED", "RUNNING", "RUNNING"]
    assert sink.client.get_run(killed).data.tags["gate.verdict"] == "crashed"


def test_value_that_is_not_finite_is_logged_and_not_dropped(sink, raw):
    rows = raw.metrics(files.LEARNER_METRICS)
    spoiled = type(rows[0])(
        step=1, version=1, elapsed_s=0.0, metrics={"update/policy_loss": float("nan")}
    )
    with gate(sink) as run:
        run.open.metrics([spoiled])
    assert len(sink.client.get_metric_history(run.run_id, "update/policy_loss")) == 1


def test_checkpoint_without_digest_is_refused(sink):
    with pytest.raises(EvidenceError), gate(sink) as run, run.step("smoke-run") as step:
        step.checkpoint(name="x", digest="", step=1)


def test_tracker_that_does_not_answer_is_an_evidence_error(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database")
    with pytest.raises(EvidenceError, match="tracker"):
        MlflowSink.open(tmp_path, uri="notascheme://x")


def test_default_database_is_absolute_whatever_the_current_folder_is(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5077")
    assert default_uri(tmp_path) == "http://127.0.0.1:5077"


def test_telemetry_is_off(sink):
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert (os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"]) == ("true", "true")
