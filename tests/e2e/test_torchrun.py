"""Two learner processes, a real actor and the embedded simulator: torchrun by SLURM's scripts, then `pirl launch`.

SLURM itself is not there: `srun` and `scontrol` are two lines each that do what they do on one machine.
"""

from __future__ import annotations

import json
import os
import shutil
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
SLURM = REPO / "examples" / "slurm"
CONFIG = "configs/train_config_pirl_gate_embedded.json"
DEADLINE_S = 300.0
STAND_INS = {
    "srun": '#!/bin/bash\nSLURM_NODEID=0 exec "$@"\n',
    "scontrol": "#!/bin/bash\necho 127.0.0.1\n",
}


@pytest.mark.parametrize("script", sorted(SLURM.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_valid_bash(script: Path):
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", script], check=True, capture_output=True)


def test_a_learner_of_two_processes_under_torchrun_that_launch_resumes(tmp_path: Path):
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    run = tmp_path / "run"
    arguments = [
        *("--parallelism.dp_replicate=2", "--runtime.actors=1", "--runtime.total_updates=1"),
        *("--runtime.rollout_chunks=32", "--pirl.micro_batch=8"),
        f"--runtime.port={free_port('127.0.0.1')}",
    ]
    env = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIRL_CONFIG": CONFIG,
        "PIRL_RUN": str(run),
        "PIRL_ARGUMENTS": " ".join(arguments),
        "PIRL_PROCESSES_PER_NODE": "2",
        "PIRL_MASTER_PORT": str(free_port("127.0.0.1")),
        "SLURM_NNODES": "1",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_ARRAY_TASK_ID": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with ProcessGroup() as group:
        actor, learner = (
            group.add(
                spawn(
                    name,
                    [str(SLURM / f"{name}.sh")],
                    env=env,
                    log_path=tmp_path / f"{name}.log",
                    cwd=REPO,
                )
            )
            for name in ("actors", "learner")
        )
        assert learner.wait(DEADLINE_S) == 0, (tmp_path / "learner.log").read_text()[-3000:]
        assert actor.wait(30.0) == 0, (tmp_path / "actors.log").read_text()[-3000:]
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
