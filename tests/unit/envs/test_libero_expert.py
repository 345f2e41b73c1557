"""Scripted experts for LIBERO: way points in order, bounded commands, rows that X-VLA understands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pirl.envs.libero_config import libero_codec
from pirl.envs.libero_expert import (
    CLOSED,
    EXPERTS,
    HAND,
    LEAD,
    OPEN,
    LiberoExpert,
    Phase,
    policy_row,
    way_points,
)
from pirl.errors import EnvError


class FakeSim:
    """A hand that goes where it is told; one body `box`, one site `lid`."""

    def __init__(self) -> None:
        self.places = {"gripper0_grip_site": np.zeros(3), "box": np.array([0.2, 0.0, 0.0])}
        self.places["lid"] = np.array([0.0, 0.1, 0.0])
        self.model = SimpleNamespace(body_names=("box",))
        self.data = self

    def get_body_xpos(self, name: str) -> Any:
        return self.places[name]

    get_site_xpos = get_body_xpos

    def follow(self, action: Any) -> None:
        self.places["gripper0_grip_site"] = action[:3].copy()


def follow(phases: tuple[Phase, ...], steps: int, *, speed: float = 1.0) -> tuple[FakeSim, Any]:
    sim = FakeSim()
    expert = LiberoExpert(sim, phases, speed=speed)
    taken = []
    for _ in range(steps):
        taken.append(expert.action())
        sim.follow(taken[-1])
    return sim, np.array(taken)


def test_way_points_are_reached_in_order_with_the_gripper_of_each():
    phases = (
        Phase(anchor="box", offset=(0.0, 0.0, 0.1), gripper=OPEN, tolerance=0.02),
        Phase(anchor=HAND, offset=(0.0, 0.0, 0.0), gripper=CLOSED, steps=3),
        Phase(anchor="lid", offset=(0.0, 0.0, 0.0), gripper=OPEN),
    )
    sim, taken = follow(phases, 20)
    assert np.allclose(sim.places["gripper0_grip_site"], [0.0, 0.1, 0.0], atol=0.02)
    closed = np.flatnonzero(taken[:, 6] == CLOSED)
    assert closed.tolist() == list(range(closed[0], closed[0] + 3))
    assert np.linalg.norm(taken[closed[0], :3] - [0.2, 0.0, 0.1]) < 0.02


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_a_command_lies_at_most_the_lead_from_the_hand(speed: float):
    _, taken = follow((Phase(anchor="box", offset=(0.0, 0.0, 0.0), gripper=OPEN),), 3, speed=speed)
    assert np.allclose(np.diff(taken[:, 0], prepend=0.0), LEAD * speed)


def test_a_phase_that_does_not_arrive_ends_after_its_steps():
    sim = FakeSim()
    phases = (
        Phase(anchor="box", offset=(0.0, 0.0, 0.0), gripper=OPEN, tolerance=0.01, steps=4),
        Phase(anchor="box", offset=(0.0, 0.0, 0.0), gripper=CLOSED),
    )
    expert = LiberoExpert(sim, phases)
    assert [expert.action()[6] for _ in range(6)] == [OPEN] * 4 + [CLOSED] * 2


def test_a_carried_body_arrives_where_the_hand_would():
    sim = FakeSim()
    sim.places["box"] = np.array([0.03, -0.02, -0.05])
    carried = Phase(anchor="lid", offset=(0.0, 0.0, 0.0), gripper=CLOSED, carried="box")
    expert = LiberoExpert(sim, (carried,))
    for _ in range(20):
        sim.follow(expert.action())
    assert np.allclose(sim.places["gripper0_grip_site"], [-0.03, 0.12, 0.0], atol=1e-6)


@pytest.mark.parametrize("gripper", [OPEN, CLOSED])
def test_a_command_survives_the_way_through_the_policy_s_action_space(gripper: float):
    (action,) = follow((Phase(anchor="box", offset=(0.0, 0.0, 0.1), gripper=gripper),), 1)[1]
    action = action.astype(np.float32)
    assert libero_codec().encode(policy_row(action)[None])[0] == pytest.approx(action, abs=1e-6)


def test_a_task_without_an_expert_is_refused_with_those_that_have_one():
    with pytest.raises(
        EnvError, match="libero_10/9 has no scripted expert; there are libero_goal/7,"
    ):
        way_points("libero_10/9")
    assert way_points("libero_goal/7") is EXPERTS["libero_goal/7"]
