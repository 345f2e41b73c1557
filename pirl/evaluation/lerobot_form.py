"""The figures of an evaluation in the form of `lerobot-eval`'s `eval_info.json`, for tools that read that.

Owns the form: keys, means and units are those of `lerobot.scripts.lerobot_eval.eval_policy_all` of LeRobot
0.6. Its success rates are shares without counts beside them; pirl's own file has the counts and intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pirl.evaluation.results import suite_of
from pirl.records import EpisodeRecord


def lerobot_info(
    records: Sequence[EpisodeRecord], *, videos: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """What `lerobot-eval` would write of these episodes.

    Args:
        records: in the order of the schedule; at least one.
        videos: of `eval_info.json`.
        seconds: what the episodes took.
    """
    tasks = list(dict.fromkeys((record.task_id, record.task) for record in records))
    groups = list(dict.fromkeys(suite_of(task) for _, task in tasks))
    per_task = [
        {
            "task_group": suite_of(task),
            "task_id": _number(task_id, task),
            "metrics": _lists([r for r in records if r.task_id == task_id], _files(videos, {task})),
        }
        for task_id, task in tasks
    ]
    per_group = {
        group: _means(
            [r for r in records if suite_of(r.task) == group],
            _files(videos, {task for _, task in tasks if suite_of(task) == group}),
        )
        for group in groups
    }
    overall = _means(records, _files(videos, {task for _, task in tasks}))
    times = {"eval_s": seconds, "eval_ep_s": seconds / max(1, len(records))}
    return {"per_task": per_task, "per_group": per_group, "overall": overall | times}


def _lists(records: Sequence[EpisodeRecord], files: list[str]) -> dict[str, Any]:
    return {
        "sum_rewards": [record.reward for record in records],
        # The reward of a step is 1 where the task is solved and 0 elsewhere.
        "max_rewards": [float(record.success) for record in records],
        "successes": [record.success for record in records],
        "video_paths": files,
        "predicted_video_paths": [],
    }


def _means(records: Sequence[EpisodeRecord], files: list[str]) -> dict[str, Any]:
    successes = sum(record.success for record in records)
    return {
        "avg_sum_reward": sum(record.reward for record in records) / len(records),
        "avg_max_reward": successes / len(records),
        "pc_success": 100 * successes / len(records),
        "n_episodes": len(records),
        "video_paths": files,
        "predicted_video_paths": [],
    }


def _files(videos: Sequence[Mapping[str, Any]], tasks: set[str]) -> list[str]:
    return [str(video["file"]) for video in videos if video["task"] in tasks]


def _number(task_id: int, task: str) -> int:
    """The number of the task in its group: 3 of `libero_10/3`."""
    _, slash, number = task.partition("/")
    return int(number) if slash else task_id
