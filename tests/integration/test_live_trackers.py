"""Live tracking with the real libraries: TensorBoard, MLflow in SQLite, W&B offline
and online against a stand-in; and when one cannot work."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from pathlib import Path

import pytest
from wandb_stand_in import wandb_service

from pirl.config.load import load_config
from pirl.runtime.live import WatchedRun
from pirl.tracking.live import EXPERIMENT, RUN_TAG, LiveTrackers

pytestmark = pytest.mark.integration

REPO = Path(__file__).parents[2]
CONFIG = REPO / "configs/train_config_pirl_embedded.json"
ROW = {"rollout/successes": 1.0, "update/approx_kl": float("nan")}
TOKEN = "a-token-that-nobody-may-see-0123456789"


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPO)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*overrides: str, version: int = 0) -> WatchedRun:
        root = tmp_path / "run"
        root.mkdir(exist_ok=True)
        cfg = load_config(CONFIG, overrides).cfg
        cfg.runtime.token = TOKEN
        monkeypatch.chdir(tmp_path)
        return WatchedRun(cfg=cfg, root=root, run_id="a" * 32, version=version)

    return run


def scalars(root: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("rollout/successes")]


def test_tensorboard_files_are_there_by_default_and_a_resume_replaces_undone_updates(watched):
    run = watched()
    live = LiveTrackers(run)
    for step in (1, 2, 3):
        live.row(step, ROW)
    assert live.close(finished=False) == {"tensorboard": {"rows": 3, "lost": 0, "error": ""}}
    again = LiveTrackers(watched(version=2))
    again.row(3, ROW | {"rollout/successes": 7.0})
    again.close(finished=True)
    assert scalars(run.root) == [(1, 1.0), (2, 1.0), (3, 7.0)]


def test_no_tracker_is_opened_when_none_is_asked_for(watched):
    run = watched("--runtime.trackers=[]")
    assert LiveTrackers(run).close(finished=True) == {}
    assert list(run.root.iterdir()) == []


def test_mlflow_has_one_run_that_a_resume_goes_on_with(watched, tmp_path):
    for version, finished in ((0, False), (1, True)):
        live = LiveTrackers(watched("--runtime.trackers=[mlflow]", version=version))
        live.row(version + 1, ROW)
        assert live.close(finished=finished)["mlflow"]["lost"] == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags[RUN_TAG] == "a" * 32
    history = client.get_metric_history(found.info.run_id, "rollout/successes")
    assert [metric.step for metric in history] == [1, 2]
    assert found.data.params["pirl.variant"] == "flow-sde"
    assert TOKEN not in str(found.data.params)


def test_wandb_offline_keeps_a_run_through_lerobot_s_own_block(watched):
    run = watched(
        "--runtime.trackers=[]", "--wandb.enable=true", "--wandb.mode=offline", "--wandb.project=p"
    )
    live = LiveTrackers(run)
    live.row(1, ROW)
    assert live.close(finished=True) == {"wandb": {"rows": 1, "lost": 0, "error": ""}}
    (kept,) = (run.root / "wandb").glob("offline-run-*/run-*.wandb")
    # So that a resume goes on with it.
    assert kept.name == f"run-{run.cfg.wandb.run_id}.wandb"
    data = kept.read_bytes()
    assert b"train/rollout/successes" in data
    assert TOKEN.encode() not in data


def test_wandb_online_has_rows_config_and_video_while_the_run_goes_on(
    watched, tmp_path, monkeypatch
):
    run = watched("--runtime.trackers=[]", "--wandb.enable=true", "--wandb.project=p")
    film = tmp_path / "update-000001.mp4"
    film.write_bytes(b"frames")
    with wandb_service() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        live = LiveTrackers(run)
        live.row(1, ROW)
        live.video(1, film)
        live.row(2, {"rollout/successes": 3.0})
        assert live.close(finished=True) == {"wandb": {"rows": 2, "lost": 0, "error": ""}}
    assert [row["_step"] for row in service.history] == [1, 2]
    assert [row["train/rollout/successes"] for row in service.history] == [1.0, 3.0]
    opened = service.runs[0]
    assert (opened["project"], opened["name"]) == ("p", run.cfg.wandb.run_id)
    assert json.loads(opened["config"])["pirl"]["value"]["variant"] == "flow-sde"
    assert [data for name, data in service.files.items() if name.endswith(".mp4")] == [b"frames"]
    assert service.exit_code == 0
    assert TOKEN.encode() not in service.everything
    assert service.keys == {"Basic " + b64encode(b"api:" + b"0123456789" * 4).decode()}


def test_a_tracker_that_cannot_work_is_one_warning_with_the_fix_and_the_others_go_on(
    watched, monkeypatch, caplog
):
    run = watched("--runtime.trackers=[tensorboard,mlflow]", "--wandb.enable=true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nobody/mlflow.db")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    live = LiveTrackers(run)
    live.row(1, ROW)
    found = live.close(finished=True)
    assert {name: part["lost"] for name, part in found.items()} == {
        "tensorboard": 0,
        "mlflow": 1,
        "wandb": 1,
    }
    assert scalars(run.root) == [(1, 1.0)]
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    first = [line for line in said if "the run goes on" in line]
    assert len(first) == 2
    assert any(
        "MLFLOW_TRACKING_URI" in line and line.startswith("tracker mlflow") for line in first
    )
    assert any("wandb.mode=offline" in line and line.startswith("tracker wandb") for line in first)
