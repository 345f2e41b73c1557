"""What the processes of a perfect smoke run leave on disk, so that a test can spoil one of them.

In the processes' own formats (`run.json`, metric rows, marks), not in those of a bundle.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from bundle_builder import ROLES, UPDATES, Story, counters, draw_frames, episodes, rows, sha

from pirl.errors import ExitCode
from pirl.runtime.launch import LaunchResult
from pirl.runtime.layout import RunFolder


def mark(role: str, pid: int, **changes) -> dict:
    facts = {"role": role, "pid": pid, "nonce": sha(f"process {pid}")[:32], "hooks": []}
    return facts | {"started_unix": 1e9 + pid} | changes


class FakeRun:
    """A run folder, the process table of its launch, and what is left of it; a test changes any of them."""

    def __init__(self, root: Path, story: Story, *, first_pid: int = 10) -> None:
        self.folder = RunFolder(root)
        self.story = story
        learner, actor = counters(story)
        self.table = [
            {
                "role": role,
                "pid": first_pid + i,
                "exit_code": 0,
                "seconds": 9.0,
                "argv": ["python", "-m", "x"],
            }
            for i, role in enumerate(ROLES)
        ]
        self.marks = {role: [mark(role, first_pid + i)] for i, role in enumerate(ROLES)}
        self.learner = {
            "hooks": [],
            "identity": dict(story.identity),
            "handshakes": [{"actor_id": "0-ab", "accepted": True}],
            "counters": {
                "received": learner.received,
                "consumed": learner.consumed,
                "dropped_stale": 0,
                "bytes_received": learner.bytes_received,
            },
            "books": {
                "episodes": learner.episodes_received,
                "versions_published": list(learner.published),
                "optimiser_steps": 24,
            },
            "tensors": {
                when: {"trained": {"a": sha(when)}, "frozen": {"b": sha("frozen")}}
                for when in ("before", "after")
            },
            "digests_loaded": None,
            "digests_after": {},
        }
        self.actor = {
            "handshake": {"actor_id": "0-ab", "seconds": 0.1, "learner": dict(story.identity)},
            "met_identity": dict(story.identity),
            "bytes_sent": actor.bytes_sent,
            "totals": {
                "decisions_sent": actor.sent,
                "episodes_sent": actor.episodes_sent,
                "versions_received": list(actor.versions_received),
                "by_version": dict(actor.by_version),
            },
        }
        self.episodes = [_as_learner_writes(e) for e in episodes(story)]
        self.broken_off: list[dict] = []
        self.metrics = {u: _row(u) for u in range(1, UPDATES + 1)}
        self.stage_times = {"time/env_step_s": 1.1, "time/infer_s": 0.6}
        self.configs = dict.fromkeys(ROLES, story.canonical)
        self.frames = draw_frames()

    def write(self) -> None:
        """Put everything on disk."""
        root = self.folder.root
        shutil.rmtree(root, ignore_errors=True)
        for role in ROLES:
            (root / role).mkdir(parents=True)
            self.folder.effective_config(role).write_text(self.configs[role])
            _lines(self.folder.marks(role), self.marks[role])
        _json(self.folder.run_record, self.learner)
        _json(self.folder.actor_record(0), self.actor)
        _json(self.folder.launch_record, {"processes": self.table})
        _lines(self.folder.episodes, self.episodes)
        if self.broken_off:
            _lines(self.folder.broken_off(0), self.broken_off)
        shutil.copy(rows(root, self.metrics, self.metrics.get), self.folder.learner_metrics)
        times = rows(root, self.metrics, lambda _: self.stage_times)
        shutil.copy(times, self.folder.actor_metrics(0))
        np.savez(self.folder.actor_video(0), frames=np.stack(self.frames))

    def launch(self, *_, log_dir: Path, **__) -> LaunchResult:
        """Stands for `pirl.runtime.launch.launch`."""
        self.write()
        log_dir.mkdir(parents=True, exist_ok=True)
        for role in ROLES:
            (log_dir / f"{role}.log").write_text("INFO ready\n")
        return LaunchResult(exit_code=ExitCode.OK, processes=self.table, port=4711)


def _row(update: int) -> dict[str, float]:
    from bundle_builder import update_row

    return update_row(update)


def _as_learner_writes(episode) -> dict:
    facts = {k: v for k, v in asdict(episode).items() if k != "end"}
    return facts | {"success": episode.end == "success", "truncated": episode.end == "timeout"}


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
