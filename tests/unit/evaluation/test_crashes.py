"""A crash of one simulator: an episode that failed with its reason, the same for any number of workers."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from eval_builders import IDENTITY, TASKS, WON, a_folder, plans, record, records
from lerobot.scripts import lerobot_eval

from pirl.errors import EnvError, EvidenceError
from pirl.evaluation import checkpoint
from pirl.evaluation.checkpoint import Protocol
from pirl.evaluation.crashes import crashed_record, is_crashed, reason_of
from pirl.evaluation.episodes import SimulatorCrashError
from pirl.evaluation.folder import (
    EPISODES,
    INFO,
    LEROBOT_INFO,
    append_record,
    create_folder,
    finish_folder,
)
from pirl.evaluation.lerobot_form import lerobot_info
from pirl.evaluation.results import METHOD_1, compute_results
from pirl.evaluation.text import results_text
from pirl.evaluation.verify import verify_folder
from pirl.runtime.lockstep import FinishedEpisode


@pytest.fixture
def run(monkeypatch):
    """`checkpoint.run` over simulators of which some crash; slots of one worker crash together."""

    def run(crashing, *, num_envs=1, num_workers=1, collect=True):
        started = []

        @contextmanager
        def simulators(_cfg, **_):
            yield SimpleNamespace()

        def evaluate(_policy, *, plans, on_episode, **_):
            started.append([plan.episode_id for plan in plans])
            for first in range(0, len(plans), num_envs):
                active = plans[first : first + num_envs]
                for slot, plan in enumerate(active):
                    if plan.episode_id in crashing:
                        worker = [
                            p for s, p in enumerate(active) if s % num_workers == slot % num_workers
                        ]
                        where = "; ".join(f"slot {active.index(p)}, seed {p.seed}" for p in worker)
                        error = EnvError(
                            f"simulator worker {slot % num_workers} died while stepping {where}"
                        )
                        raise SimulatorCrashError(error, worker)
                for plan in active:
                    done = record(plan, success=plan.episode_id in WON)
                    on_episode(FinishedEpisode(transitions=[], record=done, frames=[]))

        monkeypatch.setattr(checkpoint, "make_vector_env", simulators)
        monkeypatch.setattr(checkpoint, "evaluate", evaluate)
        evaluation = SimpleNamespace(
            protocol=Protocol(
                episodes_per_task=1, seed=0, num_envs=num_envs, num_workers=num_workers
            ),
            plans=tuple(plans()),
            env=SimpleNamespace(task_names=TASKS),
            cfg=SimpleNamespace(
                env=SimpleNamespace(), runtime=SimpleNamespace(stock_simulator=False)
            ),
            policy=SimpleNamespace(cameras=()),
            policy_config=None,
            split=None,
        )
        crashes = {}
        found = checkpoint.run(
            evaluation,
            on_crash=(lambda r, why: crashes.update({r.episode_id: why})) if collect else None,
        )
        return found, crashes, started

    return run


@pytest.mark.parametrize(
    ("num_envs", "num_workers"), [(1, 1), (2, 1), (2, 2), (4, 2), (6, 1), (6, 6)]
)
def test_records_and_reasons_do_not_depend_on_who_runs_them(run, num_envs, num_workers):
    reference = run({1, 4})
    found = run({1, 4}, num_envs=num_envs, num_workers=num_workers)
    assert found[:2] == reference[:2]
    assert [r.episode_id for r in found[0]] == [plan.episode_id for plan in plans()]
    assert [r.episode_id for r in found[0] if is_crashed(r)] == [1, 4]
    assert found[1] == {i: f"simulator worker died while stepping seed {100 + i}" for i in (1, 4)}


def test_of_several_in_one_process_each_runs_again_alone(run):
    _, _, started = run({1}, num_envs=3, num_workers=1)
    assert started == [[0, 1, 2, 3, 4, 5], [0], [1], [2], [3, 4, 5]]


def test_three_neighbours_that_crash_end_the_evaluation(run):
    with pytest.raises(
        EnvError, match="3 episodes in a row crashed their simulator; the last one: "
    ):
        run({2, 3, 4}, num_envs=6, num_workers=6)


def test_without_a_place_for_it_the_first_crash_is_the_end(run):
    with pytest.raises(EnvError, match="died while stepping"):
        run({1}, collect=False)


def test_a_reason_has_neither_worker_nor_slot():
    error = EnvError(
        "simulator worker 3 died while stepping slot 3, task 'a', seed 5 (exit code 7);"
        " its standard error is above"
    )
    assert reason_of(error) == (
        "simulator worker died while stepping task 'a', seed 5 (exit code 7)"
    )


def folder_with_a_crash(root):
    done = records()
    done[3] = crashed_record(plans()[3], TASKS[1])
    create_folder(root, plans())
    for item in done:
        append_record(root, item, crash="it died" if is_crashed(item) else None)
    finish_folder(
        root, plans=plans(), records=done, identity=IDENTITY, videos=[], crashes={3: "it died"}
    )
    return root


def test_a_crash_is_a_failure_that_is_counted_listed_and_verified(tmp_path):
    info = verify_folder(folder_with_a_crash(tmp_path / "a")).info
    assert info["overall"]["episodes"] == 6
    assert info["overall"]["successes"] == len(WON)
    assert info["crashes"] == [
        {"episode_id": 3, "task": TASKS[1], "init_state_id": 43, "seed": 103, "reason": "it died"}
    ]
    text = results_text(info)
    assert "failures: 3, of them 1 crashes of the simulator" in text
    assert f"{TASKS[1]}, initial state 43, seed 103: it died" in text


def test_what_crashed_is_no_part_of_mean_lengths(tmp_path):
    info = verify_folder(folder_with_a_crash(tmp_path / "a")).info
    assert info["per_task"][1]["mean_env_steps"] == (100 + 800) / 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row.pop("crash"),
        lambda row: row.update(decisions=1),
        lambda row: row.update(crash="another reason"),
    ],
)
def test_a_crash_that_was_altered_does_not_hold(tmp_path, damage):
    root = folder_with_a_crash(tmp_path / "a")
    lines = (root / EPISODES).read_text().splitlines()
    row = json.loads(lines[3])
    damage(row)
    lines[3] = json.dumps(row, sort_keys=True)
    (root / EPISODES).write_text("\n".join(lines) + "\n")
    with pytest.raises(EvidenceError):
        verify_folder(root)


def test_an_episode_without_a_crash_has_the_row_it_always_had(tmp_path):
    rows = (a_folder(tmp_path / "a") / EPISODES).read_text()
    assert "crash" not in rows


def test_a_folder_of_format_1_still_holds(tmp_path):
    root = a_folder(tmp_path / "a")
    info = json.loads((root / INFO).read_text())
    del info["crashes"], info["sha256"][LEROBOT_INFO]
    (root / INFO).write_text(json.dumps(info | {"format": 1, "method": METHOD_1}))
    (root / LEROBOT_INFO).unlink()
    assert verify_folder(root).info["format"] == 1


@pytest.mark.parametrize("change", ["gone", "altered"])
def test_lerobots_form_is_verified_with_the_rest(tmp_path, change):
    root = a_folder(tmp_path / "a")
    (root / LEROBOT_INFO).unlink()
    if change == "altered":
        (root / LEROBOT_INFO).write_text("{}")
    with pytest.raises(EvidenceError, match=LEROBOT_INFO):
        verify_folder(root)


def test_lerobots_form_is_what_its_own_code_makes_of_the_episodes(monkeypatch):
    """Its aggregation over its own per-task lists; only the clock is left out."""
    done = records()
    files = {task: [f"videos/{task}.mp4"] for task in TASKS}
    videos = [{"file": files[task][0], "task": task} for task in TASKS]

    def run_one(group, task_id, _env, **_):
        of_task = [r for r in done if r.task == f"{group}/{task_id}"]
        metrics = lerobot_eval.TaskMetrics(
            sum_rewards=[r.reward for r in of_task],
            max_rewards=[float(r.success) for r in of_task],
            successes=[r.success for r in of_task],
            video_paths=files[f"{group}/{task_id}"],
            predicted_video_paths=[],
        )
        return group, task_id, metrics

    monkeypatch.setattr(lerobot_eval, "run_one", run_one)
    sim = SimpleNamespace(close=lambda: None)
    policy = SimpleNamespace(training=False, eval=lambda: None, train=lambda _: None)
    theirs = lerobot_eval.eval_policy_all(
        {"libero_10": {0: sim, 4: sim}, "libero_goal": {1: sim}},
        policy, None, None, None, None, n_episodes=1,
    )  # fmt: skip
    ours = lerobot_info(done, videos=videos, seconds=3.0)
    for info in (theirs, ours):
        assert info["overall"].pop("eval_s") >= 0
        assert info["overall"].pop("eval_ep_s") >= 0
    assert ours == theirs
    assert compute_results(done).overall.rate.successes == sum(
        sum(task["metrics"]["successes"]) for task in ours["per_task"]
    )
