"""Which episodes of an evaluation are kept as video: the first of each task, and a failure if there was one.

Owns the choice and the files. Refuses to re-run anything: a video shows the very episode of its record. Read
`pirl.evaluation.main` next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pirl.journal.fields import file_sha256
from pirl.journal.media import write_video
from pirl.records import EpisodePlan, EpisodeRecord
from pirl.runtime.lockstep import FinishedEpisode

FPS = 10
FOLDER = "videos"


@dataclass(slots=True, kw_only=True)
class VideoKeeper:
    """Writes videos as episodes end; the choice follows the schedule, not the order of ends.

    Kept are the first `per_task` episodes of each task and, if none of these failed, the first one that did.
    """

    root: Path
    """The result folder."""
    plans: Sequence[EpisodePlan]
    per_task: int
    _kept: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    _first: set[int] = field(init=False)

    def __post_init__(self) -> None:
        order: defaultdict[int, list[int]] = defaultdict(list)
        for plan in self.plans:
            order[plan.task_id].append(plan.episode_id)
        self._first = {e for ids in order.values() for e in ids[: self.per_task]}

    def see(self, episode: FinishedEpisode) -> None:
        """Write the episode if it is to be kept as far as is known now."""
        record = episode.record
        earlier = self._extra_failure(record.task_id)
        wanted = record.episode_id in self._first or (
            not record.success and (earlier is None or record.episode_id < earlier)
        )
        # A single frame is no video: the episode ended within two control steps.
        if wanted and len(episode.frames) > 1:
            if record.episode_id not in self._first and earlier is not None:
                self._drop(earlier)
            self._write(episode)

    def finish(self) -> list[dict[str, Any]]:
        """Drop failures that a task's first episodes already show; what is left, by episode."""
        for task_id in {plan.task_id for plan in self.plans}:
            extra = self._extra_failure(task_id)
            shown = [v for e, v in self._kept.items() if e in self._first]
            if extra is not None and any(
                v["task_id"] == task_id and not v["success"] for v in shown
            ):
                self._drop(extra)
        return [self._kept[episode] for episode in sorted(self._kept)]

    def _extra_failure(self, task_id: int) -> int | None:
        ids = [e for e, v in self._kept.items() if v["task_id"] == task_id]
        return next((e for e in ids if e not in self._first), None)

    def _write(self, episode: FinishedEpisode) -> None:
        record = episode.record
        name = f"{FOLDER}/{_file_name(record)}"
        path = self.root / name
        write_video(path, episode.frames, fps=FPS)
        path.with_suffix(".png").unlink()
        self._kept[record.episode_id] = {
            "file": name,
            "sha256": file_sha256(path),
            "episode_id": record.episode_id,
            "task_id": record.task_id,
            "task": record.task,
            "init_state_id": record.init_state_id,
            "seed": record.seed,
            "success": record.success,
        }

    def _drop(self, episode_id: int) -> None:
        (self.root / self._kept.pop(episode_id)["file"]).unlink()


def _file_name(record: EpisodeRecord) -> str:
    outcome = "success" if record.success else "failure"
    task = record.task.replace("/", "-")
    return f"{task}-state-{record.init_state_id}-episode-{record.episode_id}-{outcome}.mp4"
