"""A small video of an update's first episode, from the pictures that its decisions carry anyway.

Owns the choice, the frames (one per decision, the policy's cameras side by side) and the file. Draws nothing: a
simulator has no work with it. Encoded inside this process, because gRPC must not be forked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from lerobot.utils.transition import Transition

from pirl.decision import CHUNK_INDEX, EPISODE_ID
from pirl.files import require_space
from pirl.runtime.batch import STATE_KEY
from pirl.runtime.store import TakenRollouts

logger = logging.getLogger(__name__)

FOLDER = "videos"
FPS = 4
"""Decisions per second; a decision is several control steps."""
MIN_HEIGHT = 224
"""Pixels; smaller pictures are enlarged by a whole factor."""

type Frame = UInt8[np.ndarray[Any, Any], "h w 3"]


class RolloutVideos:
    """Videos of a run; one that cannot be written is counted and warned of once, and the run goes on."""

    def __init__(self, root: Path, *, every: int) -> None:
        """
        Args:
            root: the run folder.
            every: updates between two videos; 0 is off.
        """
        self._folder = root / FOLDER
        self._every = every
        self._counts = {"kept": 0, "lost": 0}

    @property
    def counts(self) -> dict[str, int]:
        """For the record of the run."""
        return dict(self._counts)

    def see(self, update: int, taken: TakenRollouts) -> Path | None:
        """The video of this update, where one is due and could be written."""
        if self._every < 1 or update % self._every or not taken.episodes:
            return None
        episode = min(taken.episodes, key=lambda record: record.episode_id)
        outcome = "success" if episode.success else "failure"
        task = episode.task.replace("/", "-")
        path = self._folder / f"update-{update:06d}-{task}-{outcome}.mp4"
        try:
            write_clip(path, frames_of(taken.transitions, episode.episode_id))
        except Exception as error:  # noqa: BLE001 - an encoder's, and a run that must go on
            self._counts["lost"] += 1
            if self._counts["lost"] == 1:
                lines = str(error).strip().splitlines() or [""]
                what = f"{type(error).__name__}: {lines[0]}"
                fix = "make room there, or runtime.video_every=0"
                logger.warning(
                    "no video of update %d: %s; the run goes on. fix: %s", update, what, fix
                )
            return None
        self._counts["kept"] += 1
        return path


def frames_of(transitions: Sequence[Transition], episode_id: int) -> list[Frame]:
    """What the policy saw at each decision of an episode and at its end, cameras from left to right."""
    mine: list[tuple[int, Transition]] = []
    for transition in transitions:
        info: dict[str, Any] = dict(transition.get("complementary_info") or {})
        if int(info[EPISODE_ID]) == episode_id:
            mine.append((int(info[CHUNK_INDEX]), transition))
    ordered = [transition for _, transition in sorted(mine, key=lambda pair: pair[0])]
    states = [t["state"] for t in ordered] + [t["next_state"] for t in ordered[-1:]]
    return [_frame(state) for state in states]


def write_clip(path: Path, frames: Sequence[Frame]) -> None:
    """Write H.264; the file appears when it is whole.

    Raises:
        Exception: there is no frame, no room, or the encoder fails.
    """
    # Only now: most runs write no video.
    import av

    height, width = frames[0].shape[:2]
    factor = max(1, -(-MIN_HEIGHT // height))
    require_space(path, len(frames) * height * width * factor**2, what="a video", fix="write fewer")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        # Even sides, as 4:2:0 chroma needs them.
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height = width * factor // 2 * 2, height * factor // 2 * 2
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            large = np.kron(frame, np.ones((factor, factor, 1), dtype=np.uint8))
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(large[: stream.height, : stream.width]), format="rgb24"
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    part.replace(path)


def _frame(state: dict[str, torch.Tensor]) -> Frame:
    views = [image[0].permute(1, 2, 0) for name, image in state.items() if name != STATE_KEY]
    return torch.cat(views, dim=1).cpu().numpy()
