"""A learning run in miniature: real simulator, real processes, and a record that can be judged again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pirl.learning.main import judge_main

REPO = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is far too short to learn."""
    out = tmp_path_factory.mktemp("learn") / "run"
    params = out.parent / "params.yaml"
    params.write_text(
        "learn:\n  episodes: 3\n  evaluation_envs: 3\n  evaluation_workers: 1\n"
        "  warm_start: {demos_per_task: 2, steps: 4, batch: 8}\n"
    )
    argv = [sys.executable, "-m", "pirl.cli", "bench", "learn", "--params", str(params)]
    argv += ["--seed", "5", "--videos", "1", "--out", str(out), "--no-mlflow", "--json"]
    argv += ["--runtime.total_updates=1", "--runtime.rollout_chunks=16"]
    argv += ["--runtime.envs_per_actor=4", "--runtime.env_workers=1"]
    env = {**os.environ, "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 1, done.stderr[-6000:]
    record = json.loads(done.stdout)
    assert not record["passed"]
    assert record == json.loads((out / "learn.json").read_text())
    return out


def test_the_record_has_counts_costs_and_digests(run: Path):
    record = json.loads((run / "learn.json").read_text())
    assert [point["update"] for point in record["points"]] == [0, 1]
    assert record["points"][1]["episodes"] == 3
    assert record["points"][1]["env_steps"] > 0
    assert record["points"][1]["cpu_s"] > record["points"][0]["cpu_s"] == 0
    assert set(record["costs"]) == {"warm_start", "training", "evaluation"}
    assert all(cost["cpu_s"] > 0 for cost in record["costs"].values())
    assert len(record["weights_sha256"]) == 64
    failed = {c["name"] for c in record["criteria"] if not c["holds"]}
    assert {"fresh-episodes", "end-success"} <= failed


def test_people_get_a_report_a_picture_and_videos_of_both_policies(run: Path):
    assert "| update | env steps | CPU s | wall s | succeeded |" in (run / "report.md").read_text()
    assert (run / "learning.png").read_bytes().startswith(b"\x89PNG")
    names = sorted(path.name for path in (run / "videos").glob("*.mp4"))
    assert [name.rsplit("-", 2)[1] for name in names] == ["after", "before"]


def test_judging_again_gives_the_same_figures(run: Path, capsys: pytest.CaptureFixture[str]):
    assert judge_main([str(run)]) == 1
    assert capsys.readouterr().out == "failed, 0 differences\n"


def test_an_altered_episode_is_found(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, symlinks=True)
    path = copy / "evaluation" / "update-000001.jsonl"
    first, *others = path.read_text().splitlines()
    episode = json.loads(first)
    episode["success"] = not episode["success"]
    path.write_text("\n".join([json.dumps(episode), *others]) + "\n")
    assert judge_main([str(copy)]) == 1
    assert "points: " in capsys.readouterr().out
