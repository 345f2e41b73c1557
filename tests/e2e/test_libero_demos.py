"""Demonstrations on real LIBERO: training states only, replayable, and food for stock `lerobot-train`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot.envs.configs import LiberoEnv as LiberoEnvConfig
from test_lerobot_train import STOCK_TRAIN, python

from pirl.cli import main
from pirl.envs.base import SlotPlan
from pirl.envs.libero_assets import prepare_assets
from pirl.envs.libero_config import libero_codec, libero_settings
from pirl.learning.dataset import read_demos
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.libero,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/train_config_pirl_libero_smoke.json"
CAMERAS = ("observation.images.image", "observation.images.image2")


def test_demonstrations_replay_from_disk_and_feed_lerobot_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(REPO)
    prepare_assets()
    folder = tmp_path / "demos/dataset"
    argv = ["bench", "demos", "--params", "configs/learn_libero.yaml", "--config", CONFIG]
    size = ["--env.observation_height=64", "--env.observation_width=64"]
    assert (
        main(
            [
                *argv,
                *size,
                "--task",
                "libero_goal:7",
                "--episodes",
                "2",
                "--out",
                str(folder.parent),
            ]
        )
        == 0
    )

    demos = read_demos(folder)
    assert [demo.task for demo in demos] == ["libero_goal/7"] * 2
    assert all(demo.init_state_id < 40 and set(demo.images) == set(CAMERAS) for demo in demos)
    assert json.loads((folder / "demos.json").read_text())["noise"] == 0.01
    cfg = LiberoEnvConfig(task="libero_goal", task_ids=[7], control_mode="absolute")
    (slot,) = libero_settings(cfg, image_keys=()).make_slots(1)
    for demo in demos:
        seen = slot.reset(SlotPlan(task_id=0, init_state_id=demo.init_state_id, seed=demo.seed))
        successes: list[bool] = []
        for row, state in zip(demo.executed, demo.states, strict=True):
            assert np.array_equal(libero_codec().decode(seen).state, state)
            result = slot.step_chunk(row[None])
            seen = result.observation
            successes.append(result.success)
        assert successes == [False] * (len(demo.executed) - 1) + [True]
    slot.close()
    assert np.abs(demos[0].executed[:, :3] - demos[0].actions[:, :3]).max() > 0.001

    start = write_tiny_checkpoint(tmp_path / "start", tiny_xvla_config(chunk_size=20), seed=1)
    train = [
        "--dataset.repo_id=local/demos",
        f"--dataset.root={folder}",
        f"--policy.path={start}",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--steps=2",
        "--save_freq=2",
        "--env_eval_freq=0",
        "--batch_size=2",
        "--num_workers=0",
        f"--output_dir={tmp_path / 'trained'}",
    ]
    python(["-c", STOCK_TRAIN], train)
    assert (tmp_path / "trained/checkpoints/000002/pretrained_model/model.safetensors").is_file()
