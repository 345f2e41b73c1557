"""Demonstrations on disk: a `LeRobotDataset` that stock `lerobot-train` reads, and the way back.

Owns the features. Beside what a policy learns from (state, cameras, action, task text), each frame keeps what was
executed, and the initial state and seed of its episode, so that an episode can be replayed. Read
`pirl.learning.warm_start` next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from pirl.envs.base import Array
from pirl.envs.demos import Demo
from pirl.errors import ConfigError, FieldError
from pirl.files import write_text
from pirl.runtime.demonstrations import as_picture

REPO_ID = "local/demos"
"""A data set has a hub name; this one is never looked up."""
EXECUTED, PLAN = "executed", "plan"
ASKED = "demos.json"
"""What was asked for and which tasks the episodes are of, beside LeRobot's own files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Episode:
    task: str
    task_id: int
    sim_steps: int


def write_demos(
    demos: Sequence[Demo], folder: Path, *, fps: int, asked: Mapping[str, object]
) -> Path:
    """Write demonstrations into a new folder; pictures as PNG, no video.

    Args:
        fps: control steps per second.
        asked: settings to keep beside the data.
    """
    dataset = LeRobotDataset.create(
        REPO_ID, fps=fps, features=_features(demos[0]), root=folder, use_videos=False
    )
    for demo in demos:
        for frame in _frames(demo):
            dataset.add_frame(frame)
        dataset.save_episode()
    dataset.finalize()
    episodes = [{"task": d.task, "task_id": d.task_id, "sim_steps": d.sim_steps} for d in demos]
    text = json.dumps({**asked, "episodes": episodes}, indent=1)
    write_text(folder / ASKED, text + "\n")
    return folder


def read_demos(folder: Path) -> list[Demo]:
    """The demonstrations of a folder that `write_demos` wrote.

    Raises:
        ConfigError: there is none.
    """
    asked = folder / ASKED
    if not asked.is_file():
        error = FieldError(
            field="learn.warm_start.demos",
            value=str(folder),
            expected=f"a data set of `pirl bench demos`, with {ASKED}",
            fix="make one, or leave it out to collect demonstrations on the way",
        )
        raise ConfigError([error])
    dataset = LeRobotDataset(REPO_ID, root=folder)
    kept = [_Episode(**episode) for episode in json.loads(asked.read_text())["episodes"]]
    rows: list[list[dict[str, Any]]] = [[] for _ in kept]
    for index in range(len(dataset)):
        row = cast("dict[str, Any]", dataset[index])
        rows[int(row["episode_index"])].append(row)
    return [_demo(episode, frames) for episode, frames in zip(kept, rows, strict=True)]


def _features(demo: Demo) -> dict[str, dict[str, Any]]:
    numbers = {OBS_STATE: demo.states, ACTION: demo.actions, EXECUTED: demo.executed}
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": "float32", "shape": values.shape[1:], "names": None}
        for name, values in numbers.items()
    }
    features[PLAN] = {"dtype": "int64", "shape": (2,), "names": ["init_state_id", "seed"]}
    for key, images in demo.images.items():
        _, channels, height, width = images.shape
        names = ["height", "width", "channels"]
        features[key] = {"dtype": "image", "shape": (height, width, channels), "names": names}
    return features


def _frames(demo: Demo) -> Iterator[dict[str, Any]]:
    for t in range(len(demo.actions)):
        yield {
            OBS_STATE: demo.states[t],
            ACTION: demo.actions[t],
            EXECUTED: demo.executed[t],
            PLAN: np.array([demo.init_state_id, demo.seed], dtype=np.int64),
            **{key: images[t].transpose(1, 2, 0) for key, images in demo.images.items()},
            "task": demo.instruction,
        }


def _demo(episode: _Episode, frames: Sequence[Mapping[str, Any]]) -> Demo:
    def stacked(key: str) -> Array:
        return np.stack([frame[key].numpy() for frame in frames])

    cameras = [key for key in frames[0] if key.startswith(OBS_IMAGES)]
    return Demo(
        task_id=episode.task_id,
        task=episode.task,
        instruction=str(frames[0]["task"]),
        init_state_id=int(frames[0][PLAN][0]),
        seed=int(frames[0][PLAN][1]),
        images={key: np.stack([as_picture(frame[key]) for frame in frames]) for key in cameras},
        states=stacked(OBS_STATE),
        actions=stacked(ACTION),
        executed=stacked(EXECUTED),
        looked=np.arange(len(frames)),
        sim_steps=episode.sim_steps,
    )
