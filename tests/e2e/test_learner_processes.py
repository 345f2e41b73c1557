"""Two learner processes, a real actor and the embedded simulator: torchrun by hand, then `pirl launch` resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pirl.journal.metric_log import read_metrics
from pirl.runtime.launch import free_port
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import ProcessGroup, spawn

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/train_config_pirl_gate_embedded.json"
DEADLINE_S = 300.0


def test_torchrun_runs_a_learner_of_two_processes_that_launch_resumes(tmp_path: Path):
    run, port = tmp_path / "run", free_port("127.0.0.1")
    arguments = [
        *("--config_path", CONFIG, f"--output_dir={run}", f"--runtime.port={port}"),
        *("--parallelism.dp_replicate=2", "--runtime.actors=1", "--runtime.total_updates=1"),
        *("--runtime.rollout_chunks=32", "--pirl.micro_batch=8"),
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with ProcessGroup() as group:
        learner = group.add(
            spawn(
                "torchrun",
                [*torchrun, "-m", "pirl.learner", *arguments],
                env={"GLOO_SOCKET_IFNAME": "lo"},
                log_path=tmp_path / "learner.log",
                cwd=REPO,
            )
        )
        actor = group.add(
            spawn(
                "actor",
                [sys.executable, "-m", "pirl.actor", *arguments],
                log_path=tmp_path / "actor.log",
                cwd=REPO,
            )
        )
        assert learner.wait(DEADLINE_S) == 0, (tmp_path / "learner.log").read_text()[-3000:]
        assert actor.wait(30.0) == 0, (tmp_path / "actor.log").read_text()[-3000:]
    checkpoint = run / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
    assert json.loads(checkpoint.read_text())["parallelism"]["dp_replicate"] == 2
    resumed = subprocess.run(
        [
            *(sys.executable, "-m", "pirl.cli", "launch", "--config_path", str(checkpoint)),
            *("--resume=true", "--runtime.total_updates=2", "--runtime.port=0", "--json"),
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    roles = [process["role"] for process in json.loads(resumed.stdout)["processes"]]
    assert roles == ["learner", "learner-1", "actor-0"]
    folder = RunFolder(run)
    assert [row.step for row in read_metrics(folder.learner_metrics)] == [1, 2]
    for row in read_metrics(folder.learner_metrics):
        assert row.metrics["update/ratio_first_max_abs"] < 1e-3
