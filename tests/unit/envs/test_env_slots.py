"""What a slot reports at the end of a chunk: counts, rewards, ends, pictures."""

import numpy as np
import pytest
from fake_sims import FakeLibero, FakeMetaWorld, FakeStudio, pool_of

from pirl.envs.base import FrameSettings, SlotPlan
from pirl.envs.libero import LiberoSettings, LiberoSlot, LiberoTask
from pirl.envs.metaworld import MetaWorldSettings, MetaWorldSlot
from pirl.envs.pool import Pool
from pirl.errors import EnvError

PLAN = SlotPlan(task_id=0, init_state_id=3, seed=3)


def metaworld(success_at=None, *, frames=None, diverges=False, **changes):
    sim, studio = FakeMetaWorld(success_at, diverges), FakeStudio()
    settings = MetaWorldSettings(
        task_names=("a", "b"),
        image_keys=("observation.images.image",),
        frames=frames,
        **({"episode_length": 95} | changes),
    )
    slot = MetaWorldSlot(settings, pool_of(sim, FakeMetaWorld()), studio)
    return slot, sim, studio


def libero(success_at=None, *, max_steps=25, frames=None):
    sim = FakeLibero(success_at)
    settings = LiberoSettings(
        tasks=(LiberoTask(suite="libero_10", suite_task_id=4, max_steps=max_steps),),
        cameras={
            "observation.images.image": "agentview_image",
            "observation.images.image2": "robot0_eye_in_hand_image",
        },
        scenes=(),
        options={},
        assets="",
        frames=frames,
    )
    return LiberoSlot(settings, pool_of(sim)), sim


def rows(count, width=4):
    return np.zeros((count, width), np.float32)


def ends(result):
    return result.terminated, result.truncated, result.success


def test_metaworld_counts_control_actions_and_simulator_steps():
    slot, _, _ = metaworld()
    slot.reset(PLAN)
    result = slot.step_chunk(rows(4))
    assert (result.valid_steps, result.sim_steps) == (4, 20)
    assert ends(result) == (False, False, False)
    assert result.observation.state.dtype == np.float32
    assert result.observation.state.tolist() == [20.0] * 4


def test_metaworld_truncates_in_mid_chunk_at_the_time_limit():
    slot, _, _ = metaworld()
    slot.reset(PLAN)
    results = [slot.step_chunk(rows(4)) for _ in range(5)]
    assert [r.valid_steps for r in results] == [4, 4, 4, 4, 3]
    assert sum(r.sim_steps for r in results) == 95
    assert [r.truncated for r in results] == [False] * 4 + [True]
    assert not any(r.terminated or r.success or r.step_rewards.any() for r in results)


def test_metaworld_stops_at_the_very_step_of_success():
    slot, sim, _ = metaworld(success_at=12)
    slot.reset(PLAN)
    result = slot.step_chunk(rows(4))
    assert sim.steps == 12
    assert (result.valid_steps, result.sim_steps) == (3, 12)
    assert result.step_rewards.tolist() == [0, 0, 1, 0]
    assert result.step_rewards.dtype == np.float32
    assert ends(result) == (True, False, True)


def test_success_at_the_time_limit_is_success():
    slot, _, _ = metaworld(success_at=95)
    slot.reset(PLAN)
    result = [slot.step_chunk(rows(4)) for _ in range(5)][-1]
    assert ends(result) == (True, False, True)


def test_a_time_limit_inside_an_action_cuts_the_action():
    slot, _, _ = metaworld(episode_length=7)
    slot.reset(PLAN)
    result = slot.step_chunk(rows(4))
    assert (result.valid_steps, result.sim_steps, result.truncated) == (2, 7, True)


def test_each_task_has_its_own_time_limit():
    slot, _, _ = metaworld(episode_lengths=(7, 12))
    lengths = []
    for task_id in (0, 1, 0):
        slot.reset(SlotPlan(task_id=task_id, init_state_id=3, seed=3))
        lengths.append(slot.step_chunk(rows(4)).sim_steps)
    assert lengths == [7, 12, 7]


def test_metaworld_draws_once_at_reset_and_once_per_chunk():
    slot, _, studio = metaworld()
    slot.reset(PLAN)
    assert studio.drawn == 1
    result = slot.step_chunk(rows(4))
    assert studio.drawn == 2
    assert (result.observation.images["observation.images.image"] == 20).all()
    assert studio.filmed == []


def test_frames_come_at_their_stride_and_at_the_end_of_a_chunk():
    slot, _, studio = metaworld(frames=FrameSettings(stride=2, size=8))
    slot.reset(PLAN)
    counts = [len(slot.step_chunk(rows(3)).frames) for _ in range(2)]
    assert studio.filmed == [10, 15, 20, 30]
    assert counts == [2, 2]
    assert studio.drawn == 3


def test_metaworld_actions_are_clipped_to_its_range():
    slot, sim, _ = metaworld()
    slot.reset(PLAN)
    slot.step_chunk(np.array([[2.0, -3.0, 0.5, 9.0]], np.float32))
    assert sim.executed[0].tolist() == [1.0, -1.0, 0.5, 1.0]


def test_a_metaworld_plan_whose_seed_is_not_its_state_is_refused():
    slot, _, _ = metaworld()
    with pytest.raises(EnvError, match="must be equal"):
        slot.reset(SlotPlan(task_id=0, init_state_id=3, seed=4))


def test_diverged_physics_is_an_error():
    slot, _, _ = metaworld(diverges=True)
    slot.reset(PLAN)
    with pytest.raises(EnvError, match="diverged"):
        slot.step_chunk(rows(1))


@pytest.mark.parametrize("kind", ["metaworld", "libero"])
def test_a_chunk_needs_an_open_episode_and_sound_actions(kind):
    slot, width = (metaworld()[0], 4) if kind == "metaworld" else (libero()[0], 7)
    with pytest.raises(EnvError, match="reset first"):
        slot.step_chunk(rows(1, width))
    slot.reset(PLAN)
    for wrong in (rows(1, width + 1), rows(0, width), np.zeros(width, np.float32)):
        with pytest.raises(EnvError, match="actions have shape"):
            slot.step_chunk(wrong)
    with pytest.raises(EnvError, match="not finite"):
        slot.step_chunk(np.full((1, width), np.nan, np.float32))


@pytest.mark.parametrize("kind", ["metaworld", "libero"])
def test_a_finished_episode_takes_no_more_actions(kind):
    if kind == "metaworld":
        slot, width = metaworld(success_at=1)[0], 4
    else:
        slot, width = libero(success_at=1)[0], 7
    slot.reset(PLAN)
    slot.step_chunk(rows(2, width))
    with pytest.raises(EnvError, match="reset first"):
        slot.step_chunk(rows(1, width))
    slot.reset(PLAN)


def test_a_slot_keeps_its_simulator_and_returns_it_when_the_task_changes():
    slot, first, _ = metaworld()
    slot.reset(PLAN)
    slot.reset(PLAN)
    slot.reset(SlotPlan(task_id=1, init_state_id=9, seed=9))
    slot.reset(SlotPlan(task_id=0, init_state_id=5, seed=5))
    assert first.seeds == [3, 3, 5]
    slot.close()
    assert first.closed


def test_libero_takes_the_planned_state_and_seed():
    slot, sim = libero()
    slot.reset(SlotPlan(task_id=0, init_state_id=41, seed=11))
    assert sim.resets == [(41, 11)]


@pytest.mark.parametrize("state", [-1, 50])
def test_libero_never_takes_a_state_modulo_their_number(state):
    slot, sim = libero()
    with pytest.raises(EnvError, match="libero_10/4 does not exist; there are 50"):
        slot.reset(SlotPlan(task_id=0, init_state_id=state, seed=0))
    assert sim.resets == []


def test_libero_ends_by_success_inside_a_chunk():
    slot, _ = libero(success_at=12)
    slot.reset(PLAN)
    slot.step_chunk(rows(10, 7))
    result = slot.step_chunk(rows(10, 7))
    assert (result.valid_steps, result.sim_steps) == (2, 2)
    assert result.step_rewards.tolist() == [0, 1] + [0] * 8
    assert ends(result) == (True, False, True)


def test_libero_truncates_at_the_configured_limit():
    slot, _ = libero()
    slot.reset(PLAN)
    results = [slot.step_chunk(rows(10, 7)) for _ in range(3)]
    assert [r.valid_steps for r in results] == [10, 10, 5]
    assert ends(results[-1]) == (False, True, False)


def test_libero_draws_every_camera_once_per_chunk():
    slot, sim = libero()
    slot.reset(PLAN)
    slot.step_chunk(rows(10, 7))
    cameras = ("agentview_image", "robot0_eye_in_hand_image")
    assert sim.drawn == [(camera, step) for step in (0, 10) for camera in cameras]


def test_libero_frames_are_upright_and_follow_the_stride():
    slot, sim = libero(frames=FrameSettings(stride=4))
    slot.reset(PLAN)
    sim.drawn.clear()
    result = slot.step_chunk(rows(6, 7))
    assert [step for camera, step in sim.drawn if camera == "agentview_image"] == [4, 6, 6]
    assert [frame[-1, -1, 0] for frame in result.frames] == [4, 6]


def test_libero_state_is_position_and_rotation():
    slot, _ = libero()
    state = slot.reset(PLAN).state
    assert state.dtype == np.float32
    assert state.tolist() == [0.0, 0.0, 0.0, *range(9)]


def test_a_pool_reuses_the_task_and_closes_the_oldest():
    built, closed = [], []

    class Sim:
        def __init__(self, task):
            self.task = task
            built.append(task)

        def close(self):
            closed.append(self.task)

    pool = Pool(Sim, idle=2)
    sims = [pool.take(task) for task in (0, 1, 2)]
    for sim in sims:
        pool.give(sim.task, sim)
    assert closed == [0]
    assert pool.take(1) is sims[1]
    assert built == [0, 1, 2]
    pool.close()
    pool.close()
    assert closed == [0, 2]
