"""Whole runs on real LIBERO: learner, actor, checkpoints, and stock `lerobot-eval` on the result.

Episodes are cut to two decisions and pictures to 64 pixels: what costs is the simulator's hard reset.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pirl.audit.records.smoke import Leftovers
from pirl.checkpoint.record import read_record
from pirl.envs.libero_assets import prepare_assets
from pirl.errors import ExitCode
from pirl.gate.processes import Watch
from pirl.journal.metric_log import read_metrics
from pirl.journal.metrics import METRICS
from pirl.runtime.launch import LaunchResult, launch
from pirl.runtime.layout import RunFolder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.libero,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/train_config_pirl_libero_smoke.json"
SIZE = ("--env.observation_height=64", "--env.observation_width=64")
SETTINGS = (*SIZE, "--env.episode_length=20", "--runtime.rollout_chunks=4")
UPDATES = 3


@dataclass(frozen=True)
class Launched:
    folder: RunFolder
    result: LaunchResult
    leftovers: Leftovers
    logs: Path

    def said(self) -> str:
        return "\n".join(path.read_text()[-4000:] for path in sorted(self.logs.glob("*.log")))

    def digests(self, step: int) -> dict[str, str]:
        return read_record(self.folder.root / "checkpoints" / f"{step:06d}")["digests"]

    def exact_metrics(self) -> list[dict[str, float]]:
        return [
            {name: v for name, v in row.metrics.items() if METRICS[name].is_deterministic}
            for row in read_metrics(self.folder.learner_metrics)
        ]


def launched(root: Path, updates: int) -> Launched:
    watch = Watch()
    folder = RunFolder(root / "run")
    overrides = [*SETTINGS, f"--runtime.total_updates={updates}", f"--output_dir={folder.root}"]
    result = launch(
        CONFIG,
        actors=1,
        overrides=[*overrides, "--runtime.port=0"],
        env=watch.env,
        log_dir=root / "logs",
        quiet=True,
        deadline_s=1000.0,
    )
    leftovers = watch.leftovers(roles=["learner", "actor-0"], ports=[result.port])
    return Launched(folder, result, leftovers, root / "logs")


def without_counters(digests: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if name != "counters"}


@pytest.fixture(scope="module", autouse=True)
def _in_repository():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPO)
        prepare_assets()
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return launched(tmp_path_factory.mktemp("libero-first"), UPDATES)


def test_a_launch_on_libero_updates_three_times_and_leaves_nothing_behind(first: Launched):
    assert first.result.exit_code is ExitCode.OK, first.said()
    assert [row["exit_code"] for row in first.result.processes] == [0, 0]
    assert len(first.exact_metrics()) == UPDATES
    episodes = [json.loads(line) for line in first.folder.episodes.read_text().splitlines()]
    assert {e["task"] for e in episodes} <= {"libero_10/0", "libero_10/1"}
    assert len(episodes) == 2 * UPDATES
    for kind in ("processes", "ports", "shared_memory"):
        assert getattr(first.leftovers, kind) == (), kind


def test_a_finished_run_that_is_resumed_is_over_and_starts_nothing(first: Launched):
    config = first.folder.root / "checkpoints/last/pretrained_model/train_config.json"
    result = launch(str(config), actors=1, overrides=["--resume=true"], quiet=True, deadline_s=60.0)
    assert result.exit_code is ExitCode.OK
    assert result.processes == []


def test_the_same_seed_on_libero_gives_the_same_bits(
    first: Launched, tmp_path_factory: pytest.TempPathFactory
):
    again = launched(tmp_path_factory.mktemp("libero-again"), UPDATES - 1)
    assert again.result.exit_code is ExitCode.OK, again.said()
    assert again.exact_metrics() == first.exact_metrics()[:-1]
    assert again.digests(UPDATES - 2) == first.digests(UPDATES - 2)
    # The shorter run does not publish its last version, and its books say so; all else is equal.
    assert without_counters(again.digests(UPDATES - 1)) == without_counters(
        first.digests(UPDATES - 1)
    )
    # Another update is another state: the comparison can fail.
    assert again.digests(UPDATES - 1)["policy"] != first.digests(UPDATES)["policy"]


STOCK_EVAL = (
    "from pirl.envs.libero_assets import prepare_assets; prepare_assets(); "
    "from lerobot.scripts.lerobot_eval import main; main()"
)
"""`lerobot-eval`, told beforehand where hf-libero's assets are: without a hub it has no other way to know."""


def test_stock_lerobot_eval_runs_the_last_checkpoint_on_libero(first: Launched, tmp_path: Path):
    last = first.folder.root / "checkpoints" / "last" / "pretrained_model"
    argv = [
        f"--policy.path={last}",
        "--policy.device=cpu",
        "--env.type=libero",
        "--env.task=libero_10",
        "--env.task_ids=[5]",
        "--env.control_mode=absolute",
        "--env.episode_length=20",
        *SIZE,
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={tmp_path / 'eval'}",
    ]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
    done = subprocess.run(
        [sys.executable, "-c", STOCK_EVAL, *argv],
        stdin=subprocess.DEVNULL,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    info = json.loads((tmp_path / "eval" / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1
    assert len(list((tmp_path / "eval").rglob("*.mp4"))) == 1
