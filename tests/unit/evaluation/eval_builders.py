"""Result folders without a simulator."""

from __future__ import annotations

from pirl.evaluation.folder import append_record, create_folder, finish_folder
from pirl.records import EpisodePlan, EpisodeRecord

TASKS = ("libero_10/0", "libero_10/4", "libero_goal/1")
IDENTITY = {
    "policy": {"path": "a", "weights_sha256": "0" * 64},
    "env": {"type": "libero", "episode_length": 800},
    "split": {"label": "heldout", "sha256": "1" * 64},
    "sampler": {
        "denoising_steps": 5,
        "n_action_steps": 10,
        "chunk_size": 30,
        "noise": "start only",
    },
    "seed": 7,
    "device": "cpu",
    "versions": {"lerobot": "0.6.1"},
}
WON = {0, 1, 4}
"""Episodes that succeed unless a test says otherwise: 2 of 2, 1 of 3 (ids 2 to 4), 0 of 1."""


def plans():
    tasks = [0, 0, 1, 1, 1, 2]
    return [
        EpisodePlan(task_id=task, init_state_id=40 + i, seed=100 + i, episode_id=i)
        for i, task in enumerate(tasks)
    ]


def record(plan, *, success):
    return EpisodeRecord(
        task_id=plan.task_id,
        task=TASKS[plan.task_id],
        init_state_id=plan.init_state_id,
        seed=plan.seed,
        episode_id=plan.episode_id,
        policy_version=0,
        env_steps=100 if success else 800,
        decisions=10 if success else 80,
        reward=float(success),
        success=success,
        truncated=not success,
    )


def records(won=WON):
    return [record(plan, success=plan.episode_id in won) for plan in plans()]


def a_folder(root, *, won=WON, schedule=None, identity=None):
    """A finished result folder; `schedule` replaces the plans, `identity` some of its fields."""
    chosen = plans() if schedule is None else schedule
    done = [record(plan, success=plan.episode_id in won) for plan in chosen]
    create_folder(root, chosen)
    for item in done:
        append_record(root, item)
    finish_folder(root, plans=chosen, records=done, identity=IDENTITY | (identity or {}), videos=[])
    return root
