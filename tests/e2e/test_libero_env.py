"""Real LIBERO: what the policy sees is what LeRobot's own environment and processors show it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from lerobot.envs.configs import LiberoEnv as LiberoEnvConfig
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.xvla.processor_xvla import (
    LiberoProcessorStep,
    XVLARotation6DToAxisAngleProcessorStep,
)
from lerobot.processor import TransitionKey

from pirl.envs import describe_env, load_split, make_vector_env
from pirl.envs.base import FrameSettings, SlotPlan
from pirl.envs.libero_assets import VARIABLE as ASSETS_VARIABLE
from pirl.envs.libero_assets import prepare_assets
from pirl.envs.libero_config import libero_codec, libero_settings
from pirl.envs.libero_setup import CONFIG_VARIABLE
from pirl.errors import ConfigError, EnvironmentNotReadyError
from pirl.records import EpisodePlan

pytestmark = [pytest.mark.e2e, pytest.mark.libero, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
KEYS = ("observation.images.image", "observation.images.image2")
SIZE = 64
PLANS = (
    SlotPlan(task_id=0, init_state_id=3, seed=7),
    SlotPlan(task_id=0, init_state_id=41, seed=8),
)
BOUNDARIES = (10, 14, 24)


@pytest.fixture(scope="module", autouse=True)
def assets():
    return prepare_assets()


def config(suite="libero_10", task=2, **changes):
    settings = {
        "task": suite,
        "task_ids": [task],
        "observation_height": SIZE,
        "observation_width": SIZE,
        "control_mode": "absolute",
        "episode_length": 800,
    }
    return LiberoEnvConfig(**(settings | changes))


def rows():
    """Absolute end-effector targets near the start pose; the gripper closes on the way."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (BOUNDARIES[-1], 7))
    targets = np.array([-0.05, 0.0, 1.0, 3.1, 0.0, 0.0, -1.0]) + noise
    targets[:, 6] = np.where(np.arange(len(targets)) < 10, -1.0, 1.0)
    return targets.astype(np.float32)


def stock_observations(cfg):
    """LeRobot's own environment, drawing at every step; its observations at the boundaries."""
    from lerobot.envs.libero import LiberoEnv
    from libero.libero import benchmark

    env = LiberoEnv(
        task_suite=benchmark.get_benchmark_dict()[cfg.task](),
        task_id=cfg.task_ids[0],
        task_suite_name=cfg.task,
        control_mode=cfg.control_mode,
        **{k: v for k, v in cfg.gym_kwargs.items() if k != "task_ids"},
    )
    seen = []
    for plan in PLANS:
        env.init_state_id = plan.init_state_id
        observation, _ = env.reset(seed=plan.seed)
        seen.append(observation)
        for step, row in enumerate(rows(), start=1):
            observation, *_ = env.step(row)
            if step in BOUNDARIES:
                seen.append(observation)
    env.close()
    return seen


def slot_observations(slot, frames=None):
    seen = []
    for plan in PLANS:
        seen.append(slot.reset(plan))
        start = 0
        for stop in BOUNDARIES:
            result = slot.step_chunk(rows()[start:stop])
            seen.append(result.observation)
            if frames is not None:
                frames.extend(result.frames)
            start = stop
    return seen


@contextmanager
def a_pair(suite, task):
    """What the stock environment and a slot show of the same episodes, and two slots on that task.

    Every reset rebuilds the simulator, which is what these tests cost; so the episodes run once for all.
    """
    cfg = config(suite, task)
    stock = stock_observations(cfg)
    slots = libero_settings(cfg, image_keys=KEYS).make_slots(2)
    # Another simulator of the process has drawn last: its GL context must not be used.
    slots[1].reset(SlotPlan(task_id=0, init_state_id=5, seed=1))
    try:
        yield stock, slot_observations(slots[0]), slots
    finally:
        for slot in slots:
            slot.close()


@pytest.fixture(scope="module")
def pair():
    with a_pair("libero_10", 2) as found:
        yield found


def bits_of(observations):
    return [
        b"".join((*(o.images[key].tobytes() for key in KEYS), o.state.tobytes()))
        for o in observations
    ]


def stock_pipeline(observation):
    """The policy's view in `lerobot-eval`: its conversion, then X-VLA's processor step."""
    return LiberoProcessorStep().observation(preprocess_observation(batched(observation)))


def batched(value):
    """What a vector environment of one makes of an observation."""
    if isinstance(value, dict):
        return {key: batched(item) for key, item in value.items()}
    return value[None]


def test_boundaries_equal_the_stock_environment_bit_for_bit(pair):
    stock, ours, _ = pair
    assert_equal_to_stock(ours, stock)


def test_every_array_equals_stock_in_another_suite():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", "libero_exact"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["task"], row["compared"], row["different"]) == ("libero_object/1", 22, [])


def test_a_worker_runs_an_episode_without_torch_and_lerobot(tmp_path):
    file = tmp_path / "settings"
    file.write_bytes(pickle.dumps(libero_settings(config(), image_keys=KEYS)))
    code = (
        "import pickle, sys; from pathlib import Path; from pirl.envs.base import SlotPlan;"
        f"(slot,) = pickle.loads(Path({str(file)!r}).read_bytes()).make_slots(1);"
        "slot.reset(SlotPlan(task_id=0, init_state_id=3, seed=7)); slot.close();"
        "sys.exit(str({'torch', 'lerobot', 'transformers'} & sys.modules.keys() or 'none'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stderr.splitlines()[-1] == "none", done.stderr


def test_a_drawer_that_starts_open_does_so_alike_whatever_ran_before():
    """LIBERO draws it once more at every reset, so that stock shows another scene each time."""
    seen = []
    for stock in (False, True):
        settings = libero_settings(
            config("libero_spatial", 4), image_keys=KEYS, stock_simulator=stock
        )
        (slot,) = settings.make_slots(1)
        if stock:
            slot.reset(PLANS[1])
        seen += [slot.reset(PLANS[0]), slot.reset(PLANS[1]), slot.reset(PLANS[0])]
        slot.close()
    first, other, *again = bits_of(seen)
    assert first != other
    assert again == [first, first, other, first]


def test_nothing_left_out_gives_the_same_bits(pair):
    _, before, _ = pair
    settings = libero_settings(config(), image_keys=KEYS, stock_simulator=True)
    (slot,) = settings.make_slots(1)
    seen = [slot.reset(PLANS[0]), slot.step_chunk(rows()[: BOUNDARIES[0]]).observation]
    assert slot._env._env.env.hard_reset
    slot.close()
    assert bits_of(seen) == bits_of(before[:2])


def assert_equal_to_stock(ours, stock):
    assert len(ours) == len(stock) == 8
    assert len({o.images[KEYS[0]].tobytes() for o in ours}) == 8
    for mine, theirs in zip(ours, stock, strict=True):
        for key, name in zip(KEYS, ("image", "image2"), strict=True):
            assert (mine.images[key].transpose(1, 2, 0) == theirs["pixels"][name]).all()
        seen = libero_codec().decode(mine)
        wanted = stock_pipeline(theirs)
        assert torch.equal(torch.from_numpy(seen.state), wanted["observation.state"][0])
        for key in KEYS:
            image = torch.from_numpy(seen.images[key]).float() / 255
            assert torch.equal(image, wanted[key][0])


def test_an_episode_repeats_whatever_ran_before_and_beside(pair):
    _, before, (first, second) = pair
    other = SlotPlan(task_id=0, init_state_id=12, seed=99)
    second.reset(other)
    first.reset(other)
    first.step_chunk(rows()[:7])
    second.step_chunk(rows()[:3])
    assert bits_of(slot_observations(first)) == bits_of(before)


def test_a_picture_shows_the_moment_of_sampling_and_drawing_changes_nothing(pair):
    _, _, (slot, _) = pair
    slot.reset(PLANS[0])
    slot.step_chunk(rows()[:5])
    env = slot._env
    sim = env._env.env.sim
    before = env.draw("agentview_image")
    state = sim.get_state().flatten().copy()
    assert (env.draw("agentview_image") == before).all()
    # LIBERO changes colours (a stove that is on) after the cameras have sampled.
    colours = sim.model.site_rgba.copy()
    sim.model.site_rgba[:] = [1.0, 0.0, 1.0, 1.0]
    assert (env.draw("agentview_image") == before).all()
    assert (sim.model.site_rgba == [1.0, 0.0, 1.0, 1.0]).all()
    sim.model.site_rgba[:] = colours
    assert (sim.get_state().flatten() == state).all()


def test_each_camera_renders_once_per_look_however_many_steps_run(pair, monkeypatch):
    _, _, (slot, _) = pair
    slot.reset(PLANS[0])
    sim, rendered = slot._env._env.env.sim, []
    render = sim.render
    monkeypatch.setattr(
        sim, "render", lambda *args, **options: rendered.append(args) or render(*args, **options)
    )
    assert slot.step_chunk(rows()[:10]).sim_steps == 10
    assert len(rendered) == len(KEYS)


def test_recording_changes_no_observation(pair):
    _, before, (slot, _) = pair
    settings = replace(slot._settings, frames=FrameSettings(stride=5))
    slot._settings = settings
    frames = []
    seen = slot_observations(slot, frames=frames)
    slot._settings = replace(settings, frames=None)
    assert bits_of(seen) == bits_of(before)
    # Chunks of 10, 4 and 10 steps: one frame every five steps and one at the end of each chunk.
    assert [frame.shape for frame in frames] == [(SIZE, SIZE, 3)] * 6 * len(PLANS)


def test_workers_switch_tasks_and_leave_nothing_behind():
    cfg = config(task_ids=[2, 5], episode_length=12)
    split = load_split("libero")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with make_vector_env(cfg, num_envs=2, num_workers=1, image_keys=KEYS, split=split) as env:
        plans = [EpisodePlan(task_id=t, init_state_id=t, seed=t, episode_id=t) for t in (0, 1)]
        first = env.reset(dict(enumerate(plans)))
        chunk = env.to_env_actions(policy_rows(2, 10))
        ran = env.step_chunk({0: chunk[0], 1: chunk[1]})
        ended = env.step_chunk({0: chunk[0]})[0]
        swapped = env.reset({1: plans[0], 0: plans[1]})
        forbidden = EpisodePlan(task_id=0, init_state_id=44, seed=0, episode_id=9)
        with pytest.raises(ConfigError, match="held-out states"):
            env.reset({0: forbidden})
    assert (ended.valid_steps, ended.truncated, ended.terminated) == (2, True, False)
    assert all(r.valid_steps == 10 and not r.truncated for r in ran.values())
    for key in KEYS:
        assert (swapped[1].images[key] == first[0].images[key]).all()
        assert (swapped[0].images[key] == first[1].images[key]).all()
        assert first[0].images[key].shape == (3, SIZE, SIZE)
    assert first[0].state.shape == (20,)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def policy_rows(*shape):
    """Rows of the ee6d action space: position, 6-D rotation, gripper probability, second arm."""
    rng = np.random.default_rng(1)
    made = rng.uniform(-1, 1, (*shape, 20)).astype(np.float32)
    made[..., 9] = rng.uniform(0, 1, shape)
    return made


def test_actions_equal_lerobots_own_conversion():
    cfg = config()
    codec = libero_codec()
    made = policy_rows(3, 5)
    converted = codec.encode(made)
    assert converted.shape == (3, 5, 7)
    assert set(np.unique(converted[..., 6])) == {-1.0, 1.0}
    step = XVLARotation6DToAxisAngleProcessorStep()
    for env_row, row in zip(converted.reshape(-1, 7), made.reshape(-1, 20), strict=True):
        stock = step({TransitionKey.ACTION: torch.from_numpy(row[None])})[TransitionKey.ACTION]
        assert (env_row == stock[0].numpy()).all()
    assert describe_env(cfg).action_width == 7


def test_facts_are_known_without_a_simulator():
    info = describe_env(config(task_ids=None, episode_length=None))
    assert info.task_names == tuple(f"libero_10/{i}" for i in range(10))
    assert info.instructions[2] == "turn on the stove and put the moka pot on it"
    assert len(set(info.instructions)) == 10
    assert set(info.max_control_steps.values()) == {520}
    assert info.reset_mode == "hard"
    assert info.image_shapes == dict.fromkeys(KEYS, (3, SIZE, SIZE))
    both = describe_env(config("libero_10,libero_goal", task_ids=[1, 3]))
    assert both.task_names == ("libero_10/1", "libero_10/3", "libero_goal/1", "libero_goal/3")
    assert both.max_decisions(30) == 27


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"suite": "libero_11"}, "env.task"),
        ({"task": 10}, "env.task_ids"),
        ({"obs_type": "pixels"}, "env.obs_type"),
        ({"init_states": False}, "env.init_states"),
        ({"is_libero_plus": True}, "env.is_libero_plus"),
        ({"control_mode": "delta"}, "env.control_mode"),
        ({"episode_length": 991}, "env.episode_length"),
        ({"hard_reset": False}, "env.hard_reset"),
    ],
)
def test_what_cannot_run_is_refused_before_any_simulator(changes, field):
    with pytest.raises(ConfigError, match=field):
        describe_env(config(**changes))


def test_the_first_import_asks_nothing_and_touches_no_home(tmp_path):
    environment = {
        k: v for k, v in os.environ.items() if k not in (CONFIG_VARIABLE, "XDG_CACHE_HOME")
    }
    environment["HOME"] = str(tmp_path)
    code = (
        "from pirl.envs.libero_assets import prepare_assets\n"
        "prepare_assets()\n"
        "from libero.libero import benchmark, get_libero_path\n"
        "import sys; sys.stderr.write(get_libero_path('bddl_files'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.endswith("bddl_files")
    assert not (tmp_path / ".libero").exists()


def test_missing_assets_stop_before_a_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path))
    before = set(psutil.Process().children())
    with pytest.raises(EnvironmentNotReadyError, match="missing: articulated_objects"):
        make_vector_env(
            config(), num_envs=1, num_workers=1, image_keys=KEYS, split=load_split("libero")
        )
    assert set(psutil.Process().children()) <= before
