"""Scripted experts for LIBERO: a table of way points per task, and the command that follows them.

Owns the table, and what of the simulator an expert may know: positions of bodies, sites and the hand. Refuses to
know observations and policies. Commands are absolute, as X-VLA's are, with one constant orientation: the fingers
point down and open along y. `python -m benchmarks.libero_experts` counts successes; the counts are in
`docs/learning.md`. Read `pirl.envs.demos` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from pirl.envs.base import Array
from pirl.errors import EnvError

OPEN, CLOSED = -1.0, 1.0
FINGERS_DOWN = (math.pi / math.sqrt(2.0), math.pi / math.sqrt(2.0), 0.0)
"""Axis-angle of every command."""
_FINGERS_DOWN_6D = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
"""The same orientation in X-VLA's order of the 6-D rotation."""
LEAD = 0.06
"""At full speed a command lies at most this far from the hand, metres."""
HAND = "hand"
"""Anchor: where the hand was when the phase began."""
_GAIN = 1.5
"""The controller alone stops up to 8 mm before its goal; a goal beyond the point halves that."""
_HAND_SITE = "gripper0_grip_site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Go to one point; lengths in metres, in world axes."""

    anchor: str
    """Body, site or `HAND`; its position when the phase begins counts."""
    offset: tuple[float, float, float]
    gripper: float
    tolerance: float = 0.0
    """The phase ends when the hand is nearer than this."""
    steps: int = 60
    """The phase ends after this many control steps at the latest."""
    lead: float | None = None
    """How far a command may lie from the hand; null takes the expert's."""
    carried: str | None = None
    """Body that is to arrive above the point, in place of the hand."""


def pick(
    body: str, *, grasp: tuple[float, float, float] = (0.0, 0.0, 0.0), lift: float = 0.17
) -> tuple[Phase, ...]:
    """Grasp a body at a point relative to its origin and lift it."""
    x, y, z = grasp
    above = Phase(anchor=body, offset=(x, y, z + 0.10), gripper=OPEN, tolerance=0.03)
    return (
        above,
        # Well centred: a finger that lands on the object spoils the grasp.
        replace(above, offset=(x, y, z + 0.06), tolerance=0.007),
        replace(above, offset=grasp, tolerance=0.01),
        Phase(anchor=HAND, offset=(0.0, 0.0, 0.0), gripper=CLOSED, steps=10),
        Phase(anchor=HAND, offset=(0.0, 0.0, lift), gripper=CLOSED, tolerance=0.03),
    )


def drop(place: str, *, travel: float = 0.2, height: float = 0.13) -> tuple[Phase, ...]:
    """Carry what the hand holds over the rim of a place, lower it and let go."""
    over = Phase(anchor=place, offset=(0.0, 0.0, travel), gripper=CLOSED, tolerance=0.03)
    return (
        over,
        replace(over, offset=(0.0, 0.0, height)),
        Phase(anchor=HAND, offset=(0.0, 0.0, 0.0), gripper=OPEN, steps=15),
    )


def put_on(body: str, place: str, *, travel: float, height: float) -> tuple[Phase, ...]:
    """Carry a held body above a place at `travel`, lower the hand to `height`, let go."""
    above = Phase(
        anchor=place, offset=(0.0, 0.0, travel), gripper=CLOSED, tolerance=0.02, carried=body
    )
    return (
        above,
        replace(above, offset=(0.0, 0.0, height), tolerance=0.012, steps=40),
        Phase(anchor=HAND, offset=(0.0, 0.0, 0.0), gripper=OPEN, steps=10),
        Phase(anchor=HAND, offset=(0.0, 0.0, 0.1), gripper=OPEN, steps=20),
    )


def _into_basket(name: str, *, z: float = 0.0) -> tuple[Phase, ...]:
    return (*pick(f"{name}_main", grasp=(0.0, 0.0, z), lift=0.22), *drop("basket_1_contain_region"))


def _bowl_onto(
    place: str,
    *,
    bowl: str = "akita_black_bowl_1",
    lift: float = 0.17,
    travel: float = 0.2,
    height: float = 0.08,
) -> tuple[Phase, ...]:
    # By the rim, which the fingers straddle; the middle is wider than they open.
    return (
        *pick(f"{bowl}_main", grasp=(0.0, 0.045, 0.022), lift=lift),
        *put_on(f"{bowl}_main", place, travel=travel, height=height),
    )


_KNOB = "flat_stove_1_button"
EXPERTS: Mapping[str, tuple[Phase, ...]] = {
    "libero_goal/7": (
        Phase(anchor=_KNOB, offset=(0.031, -0.095, 0.080), gripper=CLOSED, tolerance=0.03),
        Phase(anchor=_KNOB, offset=(0.031, -0.09, 0.030), gripper=CLOSED, tolerance=0.01),
        # A slow push jams below the half turn that counts; the run-up of 9 cm matters.
        Phase(anchor=_KNOB, offset=(-0.005, 0.32, 0.028), gripper=CLOSED, lead=0.32),
    ),
    "libero_goal/1": _bowl_onto("flat_stove_1_cook_region"),
    "libero_goal/4": _bowl_onto("wooden_cabinet_1_top_side", lift=0.3, travel=0.2, height=0.1),
    "libero_goal/8": _bowl_onto("plate_1_main"),
    **{f"libero_spatial/{i}": _bowl_onto("plate_1_main") for i in (0, 1, 2, 3, 5)},
    "libero_object/0": _into_basket("alphabet_soup_1"),
    "libero_object/1": _into_basket("cream_cheese_1"),
    "libero_object/2": _into_basket("salad_dressing_1"),
    "libero_object/3": _into_basket("bbq_sauce_1"),
    "libero_object/4": _into_basket("ketchup_1"),
    "libero_object/5": _into_basket("tomato_sauce_1"),
    "libero_object/6": _into_basket("butter_1"),
    "libero_object/7": _into_basket("milk_1"),
    "libero_object/8": _into_basket("chocolate_pudding_1"),
    "libero_object/9": _into_basket("orange_juice_1"),
}
"""Way points by task name."""


def way_points(task: str) -> tuple[Phase, ...]:
    """The phases of a task.

    Raises:
        EnvError: the task has no expert.
    """
    if task not in EXPERTS:
        raise EnvError(f"LIBERO task {task} has no scripted expert; there are {', '.join(EXPERTS)}")
    return EXPERTS[task]


def policy_row(action: Float32[Array, " 7"]) -> Float32[Array, " 20"]:
    """An expert's command as a row of X-VLA's ee6d action space: the second arm is not there."""
    row = np.zeros(20, dtype=np.float32)
    row[:3] = action[:3]
    row[3:9] = _FINGERS_DOWN_6D
    row[9] = float(action[6] > 0)
    return row


class LiberoExpert:
    """Follows the way points of one episode."""

    def __init__(self, sim: Any, phases: tuple[Phase, ...], *, speed: float = 1.0) -> None:
        """`sim` is robosuite's, after the reset; `speed` scales how far a command lies from the hand."""
        self._sim = sim
        self._phases = phases
        self._lead = LEAD * speed
        self._index = -1
        self._steps = 0
        self._target: Float64[Array, " 3"] = np.zeros(3)
        self._begin()

    def action(self) -> Float64[Array, " 7"]:
        """What the expert commands now: position, axis-angle, gripper. The last phase never ends."""
        phase = self._phases[self._index]
        if self._index + 1 < len(self._phases) and self._is_over(phase):
            self._begin()
            phase = self._phases[self._index]
        self._steps += 1
        way = _GAIN * (self._target - self._hand())
        length = float(np.linalg.norm(way))
        lead = self._lead if phase.lead is None else phase.lead
        return np.array(
            [
                *(self._hand() + way * min(1.0, lead / max(length, 1e-9))),
                *FINGERS_DOWN,
                phase.gripper,
            ]
        )

    def _is_over(self, phase: Phase) -> bool:
        if self._steps >= phase.steps:
            return True
        return bool(self._steps and np.linalg.norm(self._target - self._hand()) < phase.tolerance)

    def _begin(self) -> None:
        self._index += 1
        self._steps = 0
        phase = self._phases[self._index]
        self._target = self._place(phase.anchor) + np.asarray(phase.offset)
        if phase.carried is not None:
            self._target[:2] += (self._hand() - self._place(phase.carried))[:2]

    def _hand(self) -> Float64[Array, " 3"]:
        return self._sim.data.get_site_xpos(_HAND_SITE).copy()

    def _place(self, name: str) -> Float64[Array, " 3"]:
        if name == HAND:
            return self._hand()
        if name in self._sim.model.body_names:
            return self._sim.data.get_body_xpos(name).copy()
        return self._sim.data.get_site_xpos(name).copy()
