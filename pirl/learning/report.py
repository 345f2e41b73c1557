"""Write what a learning run showed: `learn.json` for programs, `report.md`, pictures and videos for people.

Owns files and wording; figures come from `pirl.learning.judgement`. Read `pirl.learning.main` next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pirl.checkpoint.locate import resolve_checkpoint
from pirl.config.load import load_config
from pirl.evaluation.checkpoint import Protocol, evaluate_checkpoint
from pirl.files import write_text, writing
from pirl.journal.environment import collect_environment
from pirl.journal.media import write_video
from pirl.learning.curves import draw_learning
from pirl.learning.judgement import Judgement, judge, judgement_record, spent
from pirl.learning.proof import PRETRAINED, LearningRun
from pirl.learning.settings import LearnSettings
from pirl.runtime.lockstep import FinishedEpisode

RECORD = "learn.json"
REPORT = "report.md"
PICTURE = "learning.png"
_FPS = 10


def judge_run(settings: LearnSettings, run: LearningRun) -> Judgement:
    """What a run is worth by the bounds it was started with."""
    return judge(
        run.evaluations,
        spent(run.rows, run.actor_rows),
        bounds=settings.bounds,
        is_control=settings.control is not None,
        misled=run.misled,
    )


def conclude(settings: LearnSettings, run: LearningRun) -> dict[str, Any]:
    """Judge a run and write record, report and picture; the record."""
    judgement = judge_run(settings, run)
    record = learn_record(settings, run, judgement)
    write_report(settings, run, judgement, record)
    return record


def learn_record(settings: LearnSettings, run: LearningRun, judgement: Judgement) -> dict[str, Any]:
    """The answer of `pirl bench learn --json`."""
    return {
        "variant": settings.variant,
        "seed": settings.seed,
        "control": settings.control,
        "actors": settings.actors,
        "config": settings.config_path,
        "config_hash": run.config_hash,
        "weights_sha256": run.weights_sha256,
        **judgement_record(judgement),
        "costs": {name: asdict(cost) for name, cost in run.costs.items()},
        "env_steps_per_s": round(_collect_rate(run), 1),
        "settings": asdict(settings),
        "environment": collect_environment(),
    }


def _collect_rate(run: LearningRun) -> float:
    """Simulator steps per wall second of collecting; in `sync` mode the learner is idle meanwhile."""
    slowest = [
        max(row.metrics["time/collect_s"] for row in rollouts)
        for rollouts in zip(*run.actor_rows, strict=True)
    ]
    steps = sum(row.metrics["rollout/env_steps"] for rows in run.actor_rows for row in rows)
    return steps / sum(slowest)


def write_report(
    settings: LearnSettings, run: LearningRun, judgement: Judgement, record: Mapping[str, Any]
) -> Path:
    """All files of a finished run; the folder's `report.md`."""
    root = run.folder.root
    write_text(root / RECORD, json.dumps(record, indent=1) + "\n")
    with writing(root / PICTURE):
        draw_learning(
            judgement.points,
            run.rows,
            spent(run.rows, run.actor_rows),
            title=f"{settings.variant}, seed {settings.seed}: {_outcome(settings, judgement)}",
            path=root / PICTURE,
        )
    return write_text(root / REPORT, _markdown(settings, run, judgement))


def _outcome(settings: LearnSettings, judgement: Judgement) -> str:
    verdict = "passed" if judgement.passed else "failed"
    return f"control {settings.control}, {verdict}" if settings.control else verdict


def _markdown(settings: LearnSettings, run: LearningRun, judgement: Judgement) -> str:
    lines = [
        f"# Learning run: {settings.variant}, seed {settings.seed}: {_outcome(settings, judgement)}",
        "",
        "| criterion | measured | bound | holds |",
        "|---|---|---|---|",
        *(
            f"| {c.name} | {c.measured} | {c.bound} | {'yes' if c.holds else 'no'} |"
            for c in judgement.criteria
        ),
        "",
        "Held-out episodes with the stock sampler; every policy meets the same initial states and start noise.",
        f"Last against first, pairwise (A first, B last): {judgement.paired}.",
        "",
        "| update | env steps | CPU s | wall s | succeeded | mean length, env steps |",
        "|---|---|---|---|---|---|",
        *(
            f"| {p.update} | {p.spent.env_steps} | {p.spent.cpu_s:.0f} | {p.spent.wall_s:.0f} | {p.rate} "
            f"| {p.mean_env_steps:.1f} |"
            for p in judgement.points
        ),
        "",
        *_task_lines(judgement),
        f"![curve]({PICTURE})",
        "",
        "| part | wall s | CPU s |",
        "|---|---|---|",
        *(f"| {name} | {cost.wall_s} | {cost.cpu_s} |" for name, cost in run.costs.items()),
        "",
        f"Videos: `videos/`. Config `{settings.config_path}`, hash `{run.config_hash}`. "
        "Every figure follows from `evaluation/*.jsonl` and `run/learner/metrics.jsonl`: "
        "`pirl bench judge FOLDER` computes them again.",
        "",
    ]
    return "\n".join(lines)


def _task_lines(judgement: Judgement) -> list[str]:
    """Counts by task, and with instructions swapped; nothing for one task."""
    first, last = judgement.points[0], judgement.points[-1]
    if len(last.tasks) < 2:
        return []
    return [
        "| task | start | end | end, told another task |",
        "|---|---|---|---|",
        *(
            f"| {task} | {first.tasks[task]} | {rate} | {judgement.misled.get(task, '')} |"
            for task, rate in last.tasks.items()
        ),
        "",
    ]


def write_videos(settings: LearnSettings, run: LearningRun, *, count: int) -> list[Path]:
    """Before and after on the same first `count` held-out episodes of each task."""
    loaded = load_config(settings.config_path, settings.all_overrides)
    policies = {
        "before": run.folder.warm_start / PRETRAINED,
        "after": resolve_checkpoint(run.folder.run.root) / PRETRAINED,
    }
    videos: list[Path] = []
    for label, policy in policies.items():

        def keep(episode: FinishedEpisode, label: str = label) -> None:
            record = episode.record
            ending = "success" if record.success else "failure"
            name = f"{record.task}-{record.init_state_id}-{label}-{ending}.mp4"
            path = run.folder.root / "videos" / name
            write_video(path, episode.frames, fps=_FPS)
            videos.append(path)

        evaluate_checkpoint(
            policy,
            loaded.cfg,
            protocol=Protocol(
                episodes_per_task=count, seed=settings.seed, num_envs=count, record_frames=True
            ),
            on_episode=keep,
        )
    return videos
