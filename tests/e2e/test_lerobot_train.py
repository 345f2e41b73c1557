"""A checkpoint of stock `lerobot-train` is a first-class input: `pirl init`, RL, evaluation, and LeRobot's again.

The commands are those of README.md, "From a lerobot-train checkpoint"; here with an episode of two decisions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from test_libero_run import SIZE, STOCK_EVAL

from pirl.config.check import check_config
from pirl.envs.libero_assets import prepare_assets
from pirl.errors import ExitCode
from pirl.policies.xvla.starting import read_start, start_table
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint
from pirl.runtime.launch import launch

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.libero,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

REPO = Path(__file__).resolve().parents[2]
PIXELS, WIDTH = 64, 20
CAMERAS = ("observation.images.image", "observation.images.image2")
STOCK_TRAIN = "from lerobot.scripts.lerobot_train import main; main()"


def a_dataset(root: Path) -> None:
    """Two episodes of six frames in the shapes of X-VLA on LIBERO."""
    numbers = {"dtype": "float32", "shape": (WIDTH,), "names": None}
    names = ["height", "width", "channels"]
    picture = {"dtype": "image", "shape": (PIXELS, PIXELS, 3), "names": names}
    features = {"observation.state": numbers, "action": numbers} | dict.fromkeys(CAMERAS, picture)
    dataset = LeRobotDataset.create(
        "local/demos", fps=20, features=features, root=root, use_videos=False
    )
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(6):
            frame = {
                n: rng.uniform(-1, 1, WIDTH).astype(np.float32)
                for n in ("observation.state", "action")
            }
            frame |= {n: rng.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8) for n in CAMERAS}
            dataset.add_frame(frame | {"task": "put the white mug on the left plate"})
        dataset.save_episode()
    dataset.finalize()


def python(code: Sequence[str], argv: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, *code, *argv],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def lerobot_trained(root: Path) -> Path:
    """The checkpoint of two steps, trained as LeRobot's documents say: in bfloat16, with an empty camera."""
    a_dataset(root / "demos")
    start = write_tiny_checkpoint(root / "start", tiny_xvla_config(chunk_size=20), seed=1)
    argv = [
        "--dataset.repo_id=local/demos",
        f"--dataset.root={root / 'demos'}",
        f"--policy.path={start}",
        "--policy.dtype=bfloat16",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--steps=2",
        "--save_freq=2",
        "--env_eval_freq=0",
        "--batch_size=2",
        "--num_workers=0",
        f"--output_dir={root / 'trained'}",
    ]
    python(["-c", STOCK_TRAIN], argv)
    return root / "trained/checkpoints/000002/pretrained_model"


def test_from_lerobot_train_through_rl_and_evaluation_to_lerobot_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(REPO)
    prepare_assets()
    trained = lerobot_trained(tmp_path)
    saved = json.loads((trained / "config.json").read_text())
    assert (saved["dtype"], saved["num_image_views"], saved["empty_cameras"]) == ("bfloat16", 3, 1)
    assert "observation.images.empty_camera_0" in saved["input_features"]

    config = tmp_path / "pirl_libero_10.yaml"
    init = ["init", "--from", str(tmp_path / "trained"), "--env", "libero", "--task", "libero_10"]
    python(["-m", "pirl.cli"], [*init, "--out", str(config)])
    short = [*SIZE, "--env.episode_length=20", "--env.task_ids=[5]"]
    overrides = [*short, "--runtime.envs_per_actor=1", "--runtime.env_workers=1"]
    policy = check_config(config, overrides).cfg.policy
    assert Path(policy.pretrained_path) == tmp_path / "trained/checkpoints/last/pretrained_model"
    table = start_table(policy, read_start(policy))
    assert table["views"] == "3: image, image2 and 1 of padding"
    assert "cast to float32 on load" in table["weights"]

    run = tmp_path / "run"
    sizes = ["--runtime.total_updates=1", "--runtime.rollout_chunks=4", "--runtime.port=0"]
    sizes.append("--runtime.video_every=1")
    result = launch(
        str(config),
        actors=1,
        overrides=[*overrides, *sizes, f"--output_dir={run}"],
        log_dir=tmp_path / "logs",
        quiet=True,
        deadline_s=600.0,
    )
    logs = [file.read_text()[-4000:] for file in sorted((tmp_path / "logs").glob("*.log"))]
    assert result.exit_code is ExitCode.OK, "\n".join(logs)
    assert [path.name for path in run.glob("videos/*")] == ["update-000001-libero_10-5-failure.mp4"]
    assert len(list(run.glob("tensorboard/events.*"))) == 1
    last = run / "checkpoints" / "last" / "pretrained_model"
    ours = json.loads((last / "config.json").read_text())
    assert (ours["dtype"], ours["num_image_views"]) == ("float32", 3)

    for number, folder in enumerate((trained, last)):
        out = tmp_path / f"evaluated-{number}"
        given = ["--policy_path", str(folder), "--config_path", str(config), "--out", str(out)]
        python(["-m", "pirl.cli", "eval"], [*given, "--episodes-per-task", "1", *short])
        assert len((out / "episodes.jsonl").read_text().splitlines()) == 1

    stock = tmp_path / "stock"
    argv = [
        f"--policy.path={last}",
        "--policy.device=cpu",
        "--env.type=libero",
        "--env.task=libero_10",
        "--env.control_mode=absolute",
        *short,
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={stock}",
    ]
    python(["-c", STOCK_EVAL], argv)
    assert json.loads((stock / "eval_info.json").read_text())["overall"]["n_episodes"] == 1
