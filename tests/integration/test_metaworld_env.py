"""Real MetaWorld: episodes repeat bit for bit, pictures show the goal, experts demonstrate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pirl import doors
from pirl.config.train import PiRLMetaWorldEnvConfig
from pirl.envs import describe_env, load_split, make_vector_env
from pirl.envs.base import FrameSettings, SlotPlan
from pirl.envs.demos import action_chunks, collect_demos
from pirl.envs.metaworld import MetaWorldSettings
from pirl.envs.schedule import evaluation_plans
from pirl.envs.split import DEMO_SEEDS
from pirl.errors import ConfigError, EnvError, EnvironmentNotReadyError
from pirl.records import EpisodePlan

pytestmark = pytest.mark.integration
BUTTON, PUSH = "button-press-topdown-v3", "push-v3"
KEY = "observation.images.image"
SETTINGS = MetaWorldSettings(task_names=(BUTTON, PUSH), image_keys=(KEY,))


@pytest.fixture(scope="module")
def slots():
    pair = SETTINGS.make_slots(2)
    yield pair
    for slot in pair:
        slot.close()


def plan(seed, task=0):
    return SlotPlan(task_id=task, init_state_id=seed, seed=seed)


def actions(seed, count=4):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def episode(slot, seed, task=0):
    """Every bit of a short episode."""
    seen = [slot.reset(plan(seed, task))]
    seen += [slot.step_chunk(actions(seed + k)).observation for k in range(3)]
    return [(o.images[KEY].tobytes(), o.state.tobytes()) for o in seen]


def test_the_same_plan_gives_the_same_bits_whatever_ran_before(slots):
    first, second = slots
    for task in (0, 1):
        wanted = episode(first, 11, task)
        episode(first, 12, task)
        episode(first, 13, 1 - task)
        episode(second, 14, task)
        assert episode(first, 11, task) == wanted
        assert episode(second, 11, task) == wanted
    fresh = SETTINGS.make_slots(1)[0]
    try:
        assert episode(fresh, 11, 1) == wanted
    finally:
        fresh.close()


@pytest.mark.parametrize("task", [0, 1])
def test_another_seed_gives_another_layout(slots, task):
    pictures = {episode(slots[0], seed, task)[0][0] for seed in (1, 2, 3)}
    assert len(pictures) == 3


def test_interleaved_slots_do_not_disturb_each_other(slots):
    first, second = slots
    wanted = episode(first, 21), episode(second, 22, 1)
    first.reset(plan(21))
    second.reset(plan(22, 1))
    seen = ([], [])
    for k in range(3):
        for slot, seed, kept in ((first, 21, seen[0]), (second, 22, seen[1])):
            observation = slot.step_chunk(actions(seed + k)).observation
            kept.append((observation.images[KEY].tobytes(), observation.state.tobytes()))
    assert (seen[0], seen[1]) == (wanted[0][1:], wanted[1][1:])


def test_the_picture_after_reset_shows_the_goal_where_it_is(slots):
    slot = slots[0]
    for seed in (1, 2):
        slot.reset(plan(seed, 1))
        env = slot._env
        assert env.data.site("goal").xpos.tolist() == env._target_pos.tolist()


def test_without_goals_two_tasks_of_one_scene_look_alike_and_only_words_tell_them_apart():
    tasks = ["faucet-open-v3", "faucet-close-v3"]
    cfg = PiRLMetaWorldEnvConfig(tasks=tasks, show_goal=False, shared_layouts=True)
    first, second = describe_env(cfg).instructions
    assert first != second
    seen = []
    for shown in (False, True):
        settings = replace(SETTINGS, task_names=tuple(tasks), shared_layouts=True, show_goal=shown)
        (slot,) = settings.make_slots(1)
        try:
            seen.append([[episode(slot, seed, task) for task in (0, 1)] for seed in (1, 2, 3)])
        finally:
            slot.close()
    hidden, marked = seen
    assert all(opening == closing for opening, closing in hidden)
    assert all(opening[0][0] != closing[0][0] for opening, closing in marked)
    assert len({opening[0][0] for opening, _ in hidden}) == 3


def test_layouts_are_shared_only_within_a_scene():
    (slot,) = replace(SETTINGS, shared_layouts=True).make_slots(1)
    try:
        with pytest.raises(EnvError, match="one scene"):
            slot.reset(plan(1, 1))
    finally:
        slot.close()


def test_a_shared_renderer_draws_what_an_own_one_draws(slots):
    slot = slots[1]
    for task in (0, 1):
        shared = slot.reset(plan(31, task)).images[KEY]
        alone = SETTINGS.make_slots(1)[0]
        try:
            own = alone.reset(plan(31, task)).images[KEY]
        finally:
            alone.close()
        assert (shared == own).all()
        assert shared.shape == (3, 64, 64)
        assert shared.dtype == np.uint8
        assert shared.std() > 20


def test_mujoco_renders_once_per_look_however_many_steps_run(slots, monkeypatch):
    # Not at the top: the slots choose the GL first.
    import mujoco

    slot, rendered = slots[0], []
    render = mujoco.Renderer.render
    monkeypatch.setattr(
        mujoco.Renderer, "render", lambda self: rendered.append(self) or render(self)
    )
    slot.reset(plan(51))
    assert len(rendered) == 1
    steps = sum(slot.step_chunk(actions(k)).sim_steps for k in range(2))
    assert (steps, len(rendered)) == (40, 3)


def test_recording_changes_no_observation(slots):
    filmed = replace(SETTINGS, frames=FrameSettings(stride=1, size=96)).make_slots(1)[0]
    try:
        assert episode(filmed, 41) == episode(slots[0], 41)
        filmed.reset(plan(41))
        frames = filmed.step_chunk(actions(1)).frames
    finally:
        filmed.close()
    assert [frame.shape for frame in frames] == [(96, 96, 3)] * 4


def test_state_is_the_hand_and_the_gripper(slots):
    slot = slots[0]
    state = slot.reset(plan(1)).state
    assert state == pytest.approx([0.0, 0.4, 0.2, 1.0], abs=0.02)
    closed = slot.step_chunk(np.tile(np.array([1, 0, 0, 1], np.float32), (4, 1))).observation.state
    assert closed[0] > state[0] + 0.05
    assert closed[3] < 0.9


def test_the_expert_solves_the_task_and_the_row_of_success_is_rewarded():
    slot = replace(SETTINGS, episode_length=200).make_slots(1)[0]
    try:
        slot.reset(plan(5))
        while True:
            row = slot.expert_action()
            result = slot.step_chunk(np.tile(row, (2, 1)))
            if result.terminated or result.truncated:
                break
    finally:
        slot.close()
    assert result.success
    assert result.step_rewards.sum() == 1
    assert result.step_rewards[result.valid_steps - 1] == 1


def test_workers_see_what_this_process_sees():
    cfg = PiRLMetaWorldEnvConfig(tasks=[BUTTON, PUSH])
    split = load_split("pirl_metaworld", mode="heldout")
    outcomes = []
    for workers in (0, 2):
        with make_vector_env(
            cfg, num_envs=2, num_workers=workers, image_keys=[KEY], split=split
        ) as env:
            plans = evaluation_plans(
                seed=0, task_names=env.task_names, split=split, episodes_per_task=1
            )
            started = env.reset(dict(enumerate(plans)))
            results = env.step_chunk({i: actions(i) for i in range(2)})
            same = actions(0)
            assert (env.to_env_actions(same) == same).all()
            assert env.instruction(0) == "Press a button from the top"
            bits = [o.images[KEY].tobytes() + o.state.tobytes() for o in started.values()]
            bits += [r.observation.images[KEY].tobytes() for r in results.values()]
            outcomes.append(bits)
    assert outcomes[0] == outcomes[1]


def test_training_never_starts_from_a_demonstration_or_held_out_seed():
    cfg = PiRLMetaWorldEnvConfig()
    split = load_split("pirl_metaworld")
    with make_vector_env(cfg, num_envs=1, num_workers=0, image_keys=[KEY], split=split) as env:
        for seed in (DEMO_SEEDS[0], 2**30):
            forbidden = EpisodePlan(task_id=0, init_state_id=seed, seed=seed, episode_id=0)
            with pytest.raises(ConfigError, match="init_state_id"):
                env.reset({0: forbidden})


def test_facts_follow_limits_by_task_and_swapped_instructions():
    cfg = PiRLMetaWorldEnvConfig(tasks=[BUTTON, PUSH], episode_lengths=[95, 120])
    assert describe_env(cfg).max_control_steps == {0: 19, 1: 24}
    cfg.instruction_shift = 1
    assert describe_env(cfg).instructions == (
        "Push the puck to a goal",
        "Press a button from the top",
    )


def test_facts_are_known_without_a_simulator():
    info = describe_env(PiRLMetaWorldEnvConfig(tasks=[BUTTON, PUSH]))
    assert info.instructions == ("Press a button from the top", "Push the puck to a goal")
    assert info.max_control_steps == {0: 19, 1: 19}
    assert info.max_decisions(4) == 5
    assert info.image_shapes == {KEY: (3, 64, 64)}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task": "button-press"}, "env.task"),
        ({"tasks": [BUTTON, "nothing-v3"]}, "env.tasks"),
        ({"episode_length": 501}, "env.episode_length"),
        ({"action_repeat": 0}, "env.action_repeat"),
        ({"episode_lengths": [95, 95]}, "env.episode_lengths"),
        ({"episode_lengths": [501]}, "env.episode_lengths"),
    ],
)
def test_what_metaworld_does_not_have_is_refused(changes, field):
    with pytest.raises(ConfigError, match=field):
        describe_env(PiRLMetaWorldEnvConfig(**changes))


def test_a_camera_the_environment_lacks_is_refused():
    with pytest.raises(ConfigError, match="image2"):
        make_vector_env(
            PiRLMetaWorldEnvConfig(),
            num_envs=1,
            num_workers=0,
            image_keys=["observation.images.image2"],
            split=load_split("pirl_metaworld"),
        )


def test_a_machine_that_cannot_draw_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "99")
    with pytest.raises(EnvironmentNotReadyError, match="MUJOCO_GL=egl") as caught:
        make_vector_env(
            PiRLMetaWorldEnvConfig(),
            num_envs=1,
            num_workers=1,
            image_keys=[KEY],
            split=load_split("pirl_metaworld"),
        )
    assert "libegl1" in caught.value.remedy


def test_another_simulator_is_refused_by_name():
    from lerobot.envs.configs import MetaworldEnv

    with pytest.raises(ConfigError, match="pirl_metaworld"):
        describe_env(MetaworldEnv())
    assert (*doors.BUILT_IN[doors.ENVS],) == ("libero", "pirl_metaworld")


def test_demonstrations_repeat_and_stay_in_their_seed_range():
    cfg = PiRLMetaWorldEnvConfig()
    first = collect_demos(cfg, num_episodes=2, seed=3, image_keys=[KEY])
    again = collect_demos(cfg, num_episodes=2, seed=3, image_keys=[KEY])
    other = collect_demos(cfg, num_episodes=1, seed=4, image_keys=[KEY])
    assert [d.seed for d in first] == [d.seed for d in again]
    assert all((a.actions == b.actions).all() for a, b in zip(first, again, strict=True))
    assert all(d.seed in DEMO_SEEDS for d in first + other)
    assert len({d.seed for d in first + other}) == 3
    demo = first[0]
    length = len(demo.actions)
    assert demo.images[KEY].shape == (length, 3, 64, 64)
    assert demo.states.shape == demo.actions.shape == (length, 4)
    # Slowed to 0.65 and recorded without the execution noise.
    assert np.abs(demo.actions[:, :3]).max() == pytest.approx(0.65)
    assert (demo.actions[:, 3] == 1).all()


def test_an_expert_that_fails_too_often_is_an_error_with_counts():
    with pytest.raises(EnvError, match="failed 3 of 3"):
        collect_demos(
            PiRLMetaWorldEnvConfig(),
            num_episodes=2,
            seed=0,
            image_keys=[KEY],
            max_steps=10,
            max_failures=2,
        )


def test_chunks_repeat_the_last_action_and_mark_it():
    demo = collect_demos(PiRLMetaWorldEnvConfig(), num_episodes=1, seed=3, image_keys=[KEY])[0]
    length = len(demo.actions)
    chunks = action_chunks(demo, chunk_size=4)
    assert chunks.actions.shape == (length, 4, 4)
    assert (chunks.actions[0] == demo.actions[:4]).all()
    assert (chunks.actions[-1] == demo.actions[-1]).all()
    assert chunks.is_pad[-2].tolist() == [False, False, True, True]
    assert chunks.is_pad.sum() == 6
