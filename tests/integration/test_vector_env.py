"""Slots in worker processes: same results, clear errors, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from env_toys import EXITS, HANGS, INFO, KILLED, LARGE, RAISES, REFUSES, SLOW, ToySettings

from pirl.envs.host import Deadlines, ProcessHost, worker_environment
from pirl.envs.split import StateRule, StateSplit
from pirl.envs.vector import IdentityCodec, SlotVectorEnv, check_counts
from pirl.errors import ConfigError, EnvError, EnvironmentNotReadyError
from pirl.records import EpisodePlan

pytestmark = pytest.mark.integration
SPLIT = StateSplit(
    mode="train",
    rules={"*": StateRule(train=range(40), heldout=range(40, 50))},
    states_are_seeds=False,
)
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def workers_find_the_toys(monkeypatch):
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def build(num_envs=4, num_workers=2, *, unready=False, **deadlines):
    return SlotVectorEnv(
        ToySettings(unready=unready),
        info=INFO,
        codec=IdentityCodec(),
        split=SPLIT,
        num_envs=num_envs,
        num_workers=num_workers,
        deadlines=Deadlines(**deadlines),
    )


def plan(seed, *, task=0, state=1):
    return EpisodePlan(task_id=task, init_state_id=state, seed=seed, episode_id=seed)


def rows(value):
    return np.full((3, 2), value, np.float32)


def worker_pids(env):
    return tuple(host.pid for host in env._hosts if isinstance(host, ProcessHost))


def gone(pids, *, within_s=10.0):
    """Whether all processes end within the deadline; a zombie of another parent counts as ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        alive = [p for p in pids if psutil.pid_exists(p) and not is_zombie(p)]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def run(env):
    """Reset all slots, step some, reset one, step all: every state that came back."""
    seen = [{i: o.state[:2].tolist() for i, o in env.reset({i: plan(i) for i in range(5)}).items()}]
    for chosen in ((0, 1, 2, 3, 4), (3, 1), (4,)):
        results = env.step_chunk({i: rows(i + 1) for i in chosen})
        assert list(results) == list(chosen)
        seen.append({i: r.observation.state[:2].tolist() for i, r in results.items()})
    seen.append({2: env.reset({2: plan(77)})[2].state[:2].tolist()})
    results = env.step_chunk({i: rows(1) for i in range(5)})
    seen.append({i: r.observation.state[:2].tolist() for i, r in results.items()})
    return seen


def test_results_do_not_depend_on_where_slots_live():
    outcomes = []
    for workers in (0, 1, 2, 5):
        with build(5, workers) as env:
            outcomes.append(run(env))
            assert len(worker_pids(env)) == workers
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0][1][3] == [3.0, 24.0]


# Two groups of slots


def totals(results):
    return {slot: float(result.observation.state[1]) for slot, result in results.items()}


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_group_can_be_reset_and_started_while_another_one_is_at_work(workers):
    with build(4, workers) as env:
        env.reset({0: plan(1), 1: plan(2)})
        first = env.start_chunk({1: rows(2), 0: rows(1)})
        assert list(env.reset({2: plan(3), 3: plan(4)})) == [2, 3]
        second = env.start_chunk({2: rows(3), 3: rows(4)})
        # Whoever is asked first, and asked twice.
        assert totals(second.results()) == {2: 18.0, 3: 24.0}
        assert list(first.results()) == [1, 0]
        assert totals(first.results()) == {1: 12.0, 0: 6.0}
        assert totals(env.step_chunk({i: rows(0) for i in range(4)})) == {0: 6, 1: 12, 2: 18, 3: 24}


def test_results_that_nobody_asked_for_are_nobody_elses():
    with build(2, 1) as env:
        env.reset({0: plan(1), 1: plan(2)})
        env.start_chunk({0: rows(1), 1: rows(1)})
        env.reset({0: plan(3)})
        assert totals(env.step_chunk({0: rows(2), 1: rows(2)})) == {0: 12.0, 1: 18.0}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("victim", [1, 2])
def test_the_death_of_a_worker_in_either_group_names_its_slots(workers, victim):
    env = build(4, workers)
    pids = worker_pids(env)
    env.reset({i: plan(KILLED if i == victim else i) for i in range(4)})
    group = (0, 1) if victim == 1 else (2, 3)

    def step_both():
        pending = [env.start_chunk({i: rows(1) for i in chosen}) for chosen in ((0, 1), (2, 3))]
        return [chunk.results() for chunk in pending]

    with pytest.raises(EnvError, match=rf"died while stepping .*seed {KILLED}") as caught:
        step_both()
    assert caught.value.slots == (group if workers == 1 else (victim,))
    assert gone(pids)


def test_a_worker_of_one_group_that_dies_is_not_waited_for_behind_the_other():
    env = build(4, 4)
    env.reset({i: plan({0: HANGS, 2: KILLED}.get(i, i)) for i in range(4)})
    started = time.monotonic()
    first = env.start_chunk({0: rows(1), 1: rows(1)})
    env.start_chunk({2: rows(1), 3: rows(1)})
    with pytest.raises(EnvError, match="worker 2 died"):
        first.results()
    assert time.monotonic() - started < 8


def test_the_time_limit_of_a_chunk_begins_when_its_turn_comes():
    with build(2, 1, step_s=1.2) as env:
        env.reset({0: plan(SLOW), 1: plan(SLOW)})
        pending = [env.start_chunk({slot: rows(1)}) for slot in range(2)]
        assert [totals(chunk.results()) for chunk in pending] == [{0: 6.0}, {1: 6.0}]
        env.reset({1: plan(HANGS)})
        pending = [env.start_chunk({slot: rows(1)}) for slot in range(2)]
        assert totals(pending[0].results()) == {0: 12.0}
        with pytest.raises(EnvError, match=rf"within 1.2 s .*seed {HANGS}") as caught:
            pending[1].results()
        assert caught.value.slots == (1,)


@pytest.mark.timeout(60)
def test_large_requests_do_not_block_behind_large_answers():
    many = np.ones((100_000, 2), np.float32)
    with build(2, 1) as env:
        env.reset({0: plan(LARGE), 1: plan(LARGE)})
        pending = [env.start_chunk({slot: many}) for slot in (0, 1, 0)]
        assert [len(chunk.results()) for chunk in pending] == [1, 1, 1]


# Ends


def test_close_leaves_no_process_and_may_be_repeated():
    env = build(4, 2)
    pids = worker_pids(env)
    assert len(pids) == 2
    env.close()
    env.close()
    assert gone(pids, within_s=0.5)
    with pytest.raises(EnvError, match="closed"):
        env.reset({0: plan(1)})


def test_a_killed_worker_is_an_error_with_task_seed_and_exit_code():
    env = build(4, 2)
    pids = worker_pids(env)
    env.reset({0: plan(5), 1: plan(KILLED, task=1)})
    with pytest.raises(EnvError) as caught:
        env.step_chunk({0: rows(1), 1: rows(1)})
    text = str(caught.value)
    assert "'second'" in text
    assert f"seed {KILLED}" in text
    assert "exit code -9" in text
    assert "seed 5" not in text
    assert caught.value.slots == (1,)
    assert gone(pids)
    with pytest.raises(EnvError, match="closed"):
        env.step_chunk({0: rows(1)})


def test_the_death_of_a_worker_is_seen_while_another_one_works():
    env = build(2, 2)
    pids = worker_pids(env)
    env.reset({0: plan(HANGS), 1: plan(KILLED)})
    started = time.monotonic()
    with pytest.raises(EnvError, match=rf"worker 1 died .*seed {KILLED}"):
        env.step_chunk({0: rows(1), 1: rows(1)})
    assert gone(pids)
    assert time.monotonic() - started < 8


def test_the_exit_code_of_a_worker_is_reported():
    with build(1, 1) as env:
        env.reset({0: plan(EXITS)})
        with pytest.raises(EnvError, match="exit code 7"):
            env.step_chunk({0: rows(1)})


def test_a_hanging_worker_ends_at_its_deadline():
    env = build(2, 2, step_s=1.0)
    pids = worker_pids(env)
    env.reset({0: plan(1), 1: plan(HANGS)})
    started = time.monotonic()
    with pytest.raises(EnvError, match=rf"within 1 s .*seed {HANGS}"):
        env.step_chunk({0: rows(1), 1: rows(1)})
    assert time.monotonic() - started < 8
    assert gone(pids)


def test_a_worker_that_hangs_while_closing_is_killed():
    env = build(1, 1)
    (pid,) = worker_pids(env)
    env.reset({0: plan(HANGS)})
    env.close()
    assert gone([pid], within_s=0.5)


def test_an_unexpected_exception_reaches_the_parent_in_words():
    with build(2, 1) as env:
        env.reset({0: plan(1), 1: plan(RAISES)})
        with pytest.raises(EnvError, match=rf"seed {RAISES}.*ValueError: the toy broke") as caught:
            env.step_chunk({0: rows(1), 1: rows(1)})
        assert caught.value.slots == (0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_simulator_error_carries_task_and_seed(workers):
    with build(1, workers) as env:
        env.reset({0: plan(REFUSES, task=1)})
        with pytest.raises(EnvError, match="the toy refuses") as caught:
            env.step_chunk({0: rows(1)})
        assert f"seed {REFUSES}" in str(caught.value)
        assert "'second'" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_machine_lacks_is_said_with_its_remedy(workers):
    before = set(psutil.Process().children())
    with pytest.raises(EnvironmentNotReadyError, match="buy toys"):
        build(2, workers, unready=True)
    assert set(psutil.Process().children()) <= before


def test_a_plan_outside_the_split_never_reaches_a_simulator():
    with build(2, 1) as env:
        env.reset({0: plan(1)})
        with pytest.raises(ConfigError, match="init_state_id = 40"):
            env.reset({0: plan(9), 1: plan(9, state=40)})
        with pytest.raises(ConfigError, match="task_id"):
            env.reset({0: plan(9, task=2)})
        assert env.step_chunk({0: rows(0)})[0].observation.state[0] == 1


def test_workers_do_not_import_torch():
    with build(1, 1) as env:
        assert env.reset({0: plan(1)})[0].state[2] == 0.0


def test_a_worker_has_no_standard_input_and_leaves_standard_output_alone(capfd):
    with build(1, 1) as env:
        env.reset({0: plan(106)})
        env.step_chunk({0: rows(1)})
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a notice" in captured.err


def test_ctrl_c_is_left_to_the_parent():
    with build(1, 1) as env:
        env.reset({0: plan(1)})
        os.kill(worker_pids(env)[0], signal.SIGINT)
        time.sleep(0.2)
        assert env.step_chunk({0: rows(1)})[0].valid_steps == 3


@pytest.mark.parametrize("seed", [1, HANGS])
def test_workers_die_with_a_killed_parent(seed):
    code = (
        "import sys, test_vector_env as t\n"
        "env = t.build(2, 2)\n"
        f"env.reset({{0: t.plan({seed}), 1: t.plan(2)}})\n"
        "print(*t.worker_pids(env), flush=True)\n"
        "env.step_chunk({0: t.rows(1)})\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.5)
        assert all(psutil.pid_exists(pid) for pid in pids)
    finally:
        parent.kill()
        parent.communicate()
    assert gone(pids)


def test_worker_environment_is_headless_and_single_threaded():
    made = worker_environment({"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": ""})
    assert made["OMP_NUM_THREADS"] == "1"
    assert made["MUJOCO_GL"] == "egl"
    # robosuite reads an empty value as a device number and stops.
    assert "CUDA_VISIBLE_DEVICES" not in made
    kept = worker_environment({"MUJOCO_GL": "osmesa", "CUDA_VISIBLE_DEVICES": "1"})
    assert kept["MUJOCO_GL"] == "osmesa"
    assert kept["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(("envs", "workers"), [(0, 0), (2, 3), (2, -1)])
def test_senseless_counts_are_refused(envs, workers):
    with pytest.raises(ConfigError, match=r"runtime\.env"):
        check_counts(envs, workers)
