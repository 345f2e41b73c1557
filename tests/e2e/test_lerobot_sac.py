"""A config without `recipe` runs in LeRobot's own SAC learner and actor, unchanged, to finished updates."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from lerobot.datasets import LeRobotDataset

from pirl.runtime.launch import free_port
from pirl.runtime.procs import Child, ProcessGroup, spawn

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STATE, ACTION = 18, 4
DEADLINE_S = 500.0


def a_dataset(root: Path) -> None:
    """Ten frames: LeRobot's RL config does not load without a dataset, whose frames its learner mixes in."""
    features = {
        "observation.state": {"dtype": "float32", "shape": (STATE,), "names": None},
        "action": {"dtype": "float32", "shape": (ACTION,), "names": None},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "complementary_info.discrete_penalty": {"dtype": "float32", "shape": (1,), "names": None},
        "complementary_info.is_intervention": {"dtype": "bool", "shape": (1,), "names": None},
    }
    dataset = LeRobotDataset.create("local/demos", fps=10, features=features, root=root)
    rng = np.random.default_rng(0)
    for index in range(10):
        frame = {
            "observation.state": rng.uniform(-1, 1, STATE).astype(np.float32),
            "action": rng.uniform(-1, 1, ACTION).astype(np.float32),
            "next.reward": np.array([0.0], np.float32),
            "next.done": np.array([index == 9]),
            "complementary_info.discrete_penalty": np.array([0.0], np.float32),
            "complementary_info.is_intervention": np.array([False]),
            "task": "pick",
        }
        dataset.add_frame(frame)
    dataset.save_episode()
    dataset.finalize()


def a_sac_config(root: Path, port: int) -> Path:
    """LeRobot's SAC on gym-hil's Panda without a viewer or an input device; no `recipe`, no `pirl`."""
    config = {
        "job_name": "sac",
        "seed": 1,
        "batch_size": 8,
        "log_freq": 1,
        "save_freq": 5,
        "dataset": {"repo_id": "local/demos", "root": str(root / "demos")},
        "env": {
            "type": "gym_manipulator",
            "name": "gym_hil",
            "task": "PandaPickCube-v0",
            # The actor sleeps until 1 / fps has passed. An episode ends after gym-hil's own 100 steps.
            "fps": 1000,
            "features": {
                "agent_pos": {"type": "STATE", "shape": [STATE]},
                "action": {"type": "ACTION", "shape": [ACTION]},
            },
            "features_map": {"agent_pos": "observation.state", "action": "action"},
        },
        "policy": {
            "type": "gaussian_actor",
            "device": "cpu",
            "push_to_hub": False,
            "input_features": {"observation.state": {"type": "STATE", "shape": [STATE]}},
            "output_features": {"action": {"type": "ACTION", "shape": [ACTION]}},
            "dataset_stats": {
                "observation.state": {"min": [-3.0] * STATE, "max": [3.0] * STATE},
                "action": {"min": [-1.0] * ACTION, "max": [1.0] * ACTION},
            },
            "online_step_before_learning": 20,
            "online_buffer_capacity": 1000,
            "latent_dim": 16,
            "state_encoder_hidden_dim": 16,
            "actor_network_kwargs": {"hidden_dims": [16, 16]},
            "actor_learner_config": {"learner_port": port, "policy_parameters_push_frequency": 1},
        },
    }
    path = root / "sac.json"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def both_sides(root: Path) -> Iterator[tuple[Child, Child]]:
    a_dataset(root / "demos")
    config = a_sac_config(root, free_port("127.0.0.1"))
    with ProcessGroup() as group:
        for role in ("learner", "actor"):
            argv = [sys.executable, "-m", f"pirl.{role}", "--config_path", str(config)]
            argv += [f"--output_dir={root / role}"]
            env = {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"}
            group.add(spawn(role, argv, env=env, log_path=root / f"{role}.log"))
        learner, actor = group.children
        yield learner, actor


def said(child: Child) -> str:
    assert child.log_path is not None
    return child.log_path.read_text(errors="replace")


def wait_for(condition: Callable[[], bool], children: tuple[Child, ...]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        shown = "\n".join(f"== {child.role}\n{said(child)[-4000:]}" for child in children)
        assert all(child.poll() is None for child in children), shown
        assert time.monotonic() < end, shown
        time.sleep(0.2)


def module_of(child: Child) -> str:
    argv = psutil.Process(child.pid).cmdline()
    return argv[argv.index("-m") + 1]


def test_a_config_without_recipe_trains_in_lerobots_own_processes(tmp_path: Path):
    with both_sides(tmp_path) as (learner, actor):
        last = tmp_path / "learner" / "checkpoints" / "last" / "pretrained_model"
        wait_for(lambda: (last / "model.safetensors").is_file(), (learner, actor))
        wait_for(lambda: "Load new parameters from Learner" in said(actor), (learner, actor))
        assert module_of(learner) == "lerobot.rl.learner"
        assert module_of(actor) == "lerobot.rl.actor"
    steps = [int(n) for n in re.findall(r"Number of optimization step: (\d+)", said(learner))]
    assert max(steps) >= 5
    assert "Episode reward" in said(actor)
    # LeRobot logs an exception of either loop with these words and ends with exit code 0.
    assert "Unhandled exception" not in said(learner) + said(actor)
