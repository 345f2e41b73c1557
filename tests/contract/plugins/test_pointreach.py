"""A second environment from a distribution of its own: its slot, its rules, a rollout, demonstrations."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from plugin_builders import IMAGE, a_config, write_config, write_vlm

from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.envs import describe_env, load_split, make_vector_env
from pirl.envs.base import FrameSettings, SlotPlan
from pirl.envs.demos import collect_demos
from pirl.envs.kinds import env_kind
from pirl.envs.split import DEMO_SEEDS, HELDOUT_SEEDS, TRAIN_SEEDS
from pirl.episodes import EpisodePlan
from pirl.errors import ConfigError, EnvError


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm"))


def a_cfg(**changes):
    fields = {"type": "pointreach", "task": "reach-red", "tasks": [], "image_size": 32}
    return SimpleNamespace(**fields | {"episode_length": 15} | changes)


def a_slot(**changes):
    frames = FrameSettings(stride=2, size=40) if changes.pop("film", False) else None
    settings = env_kind("pointreach").settings(
        a_cfg(**changes), image_keys=(IMAGE,), frames=frames, stock_simulator=False
    )
    (slot,) = settings.make_slots(1)
    return slot


def a_plan(seed=3, task_id=0):
    return SlotPlan(task_id=task_id, init_state_id=seed, seed=seed)


def test_its_names_are_those_of_the_simulator():
    from pirl_pointreach.env import TASKS
    from pirl_pointreach.kind import KNOWN

    assert tuple(TASKS) == KNOWN


def test_the_same_plan_gives_the_same_bits_whatever_ran_before():
    slot, other = a_slot(), a_slot()
    first = slot.reset(a_plan())
    slot.step_chunk(np.ones((5, 2), dtype=np.float32))
    slot.reset(a_plan(seed=9))
    again, elsewhere = slot.reset(a_plan()), other.reset(a_plan())
    for seen in (again, elsewhere):
        assert np.array_equal(seen.images[IMAGE], first.images[IMAGE])
        assert np.array_equal(seen.state, first.state)
    assert first.images[IMAGE].shape == (3, 32, 32)
    assert first.images[IMAGE].std() > 5
    assert first.state.dtype == np.float32
    assert not np.array_equal(slot.reset(a_plan(seed=4)).state, first.state)
    slot.close()
    other.close()


def seen_at(picture, channel):
    """Middle of what is far brighter in one channel than in the others, metres, x to the right and y up."""
    others = np.delete(picture, channel, axis=0).max(axis=0).astype(int)
    rows, columns = np.nonzero(picture[channel] > others + 60)
    metres = 2 * 1.2 * np.tan(np.radians(22.5)) / picture.shape[1]
    middle = (picture.shape[1] - 1) / 2
    return np.array([columns.mean() - middle, middle - rows.mean()]) * metres


@pytest.mark.parametrize("seed", range(5))
def test_the_discs_are_drawn_where_they_must_be_reached(seed):
    slot = a_slot(image_size=64, tasks=["reach-red", "reach-blue"])
    for task_id, channel in enumerate((0, 2)):
        picture = slot.reset(a_plan(seed=seed, task_id=task_id)).images[IMAGE]
        goal = slot._envs[task_id].goal
        assert abs(goal[0]) == pytest.approx(0.25)
        np.testing.assert_allclose(seen_at(picture, channel), goal, atol=0.02)
    slot.close()


def test_the_expert_reaches_the_disc_and_a_still_ball_runs_out_of_time():
    slot = a_slot(film=True)
    slot.reset(a_plan())
    frames = 0
    while True:
        result = slot.step_chunk(np.stack([slot.expert_action()] * 2))
        frames += len(result.frames)
        if result.terminated or result.truncated:
            break
    assert (result.success, result.truncated) == (True, False)
    assert result.step_rewards.sum() == 1
    assert result.step_rewards[result.valid_steps - 1] == 1
    assert frames >= 3
    with pytest.raises(EnvError, match="no episode"):
        slot.step_chunk(np.zeros((1, 2), dtype=np.float32))
    slot.reset(a_plan())
    result = slot.step_chunk(np.zeros((20, 2), dtype=np.float32))
    assert (result.truncated, result.success, result.valid_steps) == (True, False, 15)
    assert result.sim_steps == 150
    slot.close()


@pytest.mark.parametrize("rows", [np.zeros((2, 3)), np.zeros(2), np.full((1, 2), np.nan)])
def test_malformed_actions_are_refused(rows):
    slot = a_slot()
    slot.reset(a_plan())
    with pytest.raises(EnvError, match="actions"):
        slot.step_chunk(rows.astype(np.float32))
    slot.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_slots_run_in_this_process_and_in_a_worker(workers):
    cfg = a_cfg(tasks=["reach-red", "reach-blue"])
    split = load_split("pointreach")
    plans = {
        i: EpisodePlan(
            task_id=i, init_state_id=TRAIN_SEEDS[i], seed=TRAIN_SEEDS[i], episode_id=i, group_id=-1
        )
        for i in range(2)
    }
    with make_vector_env(
        cfg, num_envs=2, num_workers=workers, image_keys=(IMAGE,), split=split
    ) as env:
        assert env.instruction(1) == "move the ball to the blue disc"
        seen = env.reset(plans)
        assert [seen[i].images[IMAGE].shape for i in range(2)] == [(3, 32, 32)] * 2
        results = env.step_chunk({i: np.ones((3, 2), dtype=np.float32) for i in range(2)})
        assert [results[i].valid_steps for i in range(2)] == [3, 3]
        held = HELDOUT_SEEDS[0]
        forbidden = EpisodePlan(task_id=0, init_state_id=held, seed=held, episode_id=3)
        with pytest.raises(ConfigError, match="held-out"):
            env.reset({0: forbidden})


def test_demonstrations_come_from_seeds_that_no_split_contains():
    demos = collect_demos(
        a_cfg(episode_length=2),
        num_episodes=3,
        seed=1,
        image_keys=(IMAGE,),
        speed=0.6,
        noise=0.1,
        max_failures=0,
    )
    assert len(demos) == 3
    # The time limit is the policy's: a slow expert may take longer.
    assert all(len(demo.actions) > 2 for demo in demos)
    assert all(demo.seed in DEMO_SEEDS for demo in demos)
    assert demos[0].images[IMAGE].shape[1:] == (3, 32, 32)
    assert demos[0].actions.shape[1:] == (2,)


def test_facts_are_those_of_the_config():
    info = describe_env(a_cfg(tasks=["reach-blue"], episode_length=7))
    assert (info.task_names, info.max_control_steps) == (("reach-blue",), {0: 7})
    assert env_kind("pointreach").place(a_cfg()) == "pointreach/reach-red, limit 15"


@pytest.mark.parametrize(
    ("section", "changes", "field"),
    [
        ("env", {"task": "reach-green"}, "env.task"),
        ("env", {"tasks": ["reach-red", "x"]}, "env.task"),
        ("env", {"image_size": 4}, "env.image_size"),
        ("env", {"colour": "red"}, "env.colour"),
        (
            "policy",
            {"output_features": {"action": {"type": "ACTION", "shape": [3]}}},
            "policy.output_features",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(vlm, tmp_path, section, changes, field):
    tree = a_config(vlm, **{section: changes})
    with pytest.raises(ConfigError) as caught:
        check_config(write_config(tmp_path / "c.json", tree))
    assert [error.field for error in caught.value.errors] == [field]


def test_checked_and_loaded_config_are_one(vlm, tmp_path):
    file = write_config(tmp_path / "c.json", a_config(vlm))
    assert check_config(file).identity == load_config(file).identity
