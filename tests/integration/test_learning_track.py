"""What a learning run leaves in the tracker: verdict, description, parameters, metrics, files."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from pirl.errors import ExitCode
from pirl.journal.metric_log import MetricRow
from pirl.learning import track
from pirl.learning.proof import LearnFolder, LearningRun, LearningRunError
from pirl.learning.settings import LearnSettings
from pirl.tracking.sink import MlflowSink
from pirl.tracking.view import NOTE_TAG

pytestmark = pytest.mark.integration
SOURCE = {"git_commit": "1a2b3c4d" * 5, "git_dirty": False}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A migrated database; migrating takes seconds, copying does not."""
    folder = tmp_path_factory.mktemp("tracker")
    MlflowSink.open(folder, uri=f"sqlite:///{folder}/mlflow.db", experiment="other")
    return folder / "mlflow.db"


@pytest.fixture
def client(template, tmp_path, monkeypatch):
    shutil.copy(template, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(track, "collect_source", lambda _root: SOURCE)
    return MlflowSink.open(tmp_path, uri=uri, experiment="other").client


def a_run(root, *, passed):
    folder = LearnFolder(root=root)
    config = folder.run.effective_config("learner")
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"pirl": {"variant": "flow-sde", "gamma": 0.99}, "seed": 7}))
    (root / "report.md").write_text(
        "# Learning run: 96 of 100\n\n![curve](learning.png)\nthe rest\n"
    )
    record = {
        "passed": passed,
        "criteria": [{"name": "end-success", "measured": "96/100"}],
        "points": [{"successes": 38, "episodes": 100}, {"successes": 96, "episodes": 100}],
    }
    (root / "learn.json").write_text(json.dumps(record))
    run = LearningRun(
        folder=folder,
        config_hash="c" * 64,
        weights_sha256="w" * 64,
        evaluations={},
        misled=[],
        rows=[MetricRow(step=1, version=1, elapsed_s=2.0, metrics={"update/approx_kl": 0.02})],
        actor_rows=[],
        costs={},
    )
    return record, run


def tracked(client):
    found = client.get_experiment_by_name(track.EXPERIMENT)
    (run,) = client.search_runs([found.experiment_id])
    return run


@pytest.mark.parametrize(("passed", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_a_run_has_its_verdict_report_settings_and_config(client, tmp_path, passed, status):
    settings = LearnSettings(seed=7)
    with track.track_learning(settings, enabled=True) as conclude:
        conclude(*a_run(tmp_path / "run", passed=passed))
    run = tracked(client)
    assert run.info.status == status
    assert run.info.run_name == "learn flow-sde seed 7"
    assert run.data.tags[NOTE_TAG] == "# Learning run: 96 of 100\n\nthe rest"
    assert run.data.tags["criterion.end-success"] == "96/100"
    assert run.data.tags["weights.sha256"] == "w" * 64
    assert run.data.params["seed"] == "7"
    assert run.data.params["warm_start.steps"] == str(settings.warm_start.steps)
    assert run.data.params["bounds.end"] == "0.95"
    assert run.data.params["config.pirl.gamma"] == "0.99"
    assert run.data.metrics["heldout_successes"] == 96
    assert run.data.metrics["update/approx_kl"] == 0.02
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"learn.json", "report.md"} <= files


def test_a_row_that_was_stopped_is_failed_and_keeps_its_settings(client):
    with (
        pytest.raises(LearningRunError),
        track.track_learning(LearnSettings(seed=8), enabled=True, row="controls: dropout on"),
    ):
        raise LearningRunError(f"training ended with exit code {int(ExitCode.CHECK_FAILED)}")
    run = tracked(client)
    assert run.info.status == "FAILED"
    assert run.info.run_name == "controls: dropout on"
    assert run.data.params["seed"] == "8"


def test_without_the_tracker_nothing_is_written(client, tmp_path):
    record = SimpleNamespace()
    with track.track_learning(LearnSettings(), enabled=False) as conclude:
        conclude({}, record)
    assert client.get_experiment_by_name(track.EXPERIMENT) is None
