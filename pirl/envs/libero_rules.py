"""What LIBERO needs of a config: a suite, its tasks, its cameras and the control mode that ee6d means.

Owns LIBERO's names and sizes; tests compare them with the library. Refuses to import it. Read
`pirl.envs.libero_kind` next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from pirl.config.kinds import action_of
from pirl.config.spelling import nearest, one_of_error
from pirl.config.view import View
from pirl.errors import FieldError

LIBERO_SUITES = {
    "libero_spatial": 10,
    "libero_object": 10,
    "libero_goal": 10,
    "libero_10": 10,
    "libero_90": 90,
}
"""Tasks per suite."""

CONTROL_MODE = "absolute"
"""What ee6d means: actions are poses."""
EPISODE_LENGTH = 800
"""Control steps; the limit of the published X-VLA checkpoint's evaluation."""
USUAL_CAMERAS = ("observation.images.image", "observation.images.image2")
"""LeRobot's keys of agent view and wrist: the order in which the published checkpoint was trained."""

LIBERO_CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")


def check_libero(view: View) -> Iterator[FieldError]:
    """LIBERO: a known suite, its tasks, its cameras, and the control mode that X-VLA's ee6d
    means.
    """
    suite = view.text("env.task")
    if suite is not None and suite not in LIBERO_SUITES:
        hint = nearest(suite, LIBERO_SUITES)
        yield FieldError(
            field="env.task",
            value=suite,
            expected="one suite of " + ", ".join(LIBERO_SUITES),
            fix=f"did you mean env.task={hint}?" if hint else "set env.task=libero_10",
        )
    yield from _task_ids(view, LIBERO_SUITES.get(suite or ""))
    action = action_of(view)
    space = None if action is None else action.space
    mode = view.text("env.control_mode")
    if mode not in (None, "relative", "absolute"):
        yield one_of_error("env.control_mode", mode, ("absolute", "relative"))
    elif mode == "relative" and space == "ee6d":
        yield FieldError(
            field="env.control_mode",
            value=mode,
            expected="absolute: X-VLA's ee6d actions are absolute poses in metres",
            fix="pass --env.control_mode=absolute",
        )
    if action is not None and space not in (None, "ee6d"):
        yield FieldError(
            field=action.field,
            value=space,
            expected="ee6d: LIBERO executes end-effector poses, and would take anything else for one",
            fix=f"use a checkpoint that was trained with {action.field}=ee6d, or another environment",
        )
    if view.text("env.obs_type") not in (None, "pixels_agent_pos"):
        yield FieldError(
            field="env.obs_type",
            value=view.text("env.obs_type"),
            expected="pixels_agent_pos: the policy reads proprioception",
            fix="set env.obs_type=pixels_agent_pos",
        )
    if view.flag("env.init_states") is False:
        yield FieldError(
            field="env.init_states",
            value=False,
            expected="true: training and held-out episodes are told apart by initial state",
            fix="set env.init_states=true",
        )
    for camera in (view.text("env.camera_name") or "").split(","):
        if view.text("env.camera_name") is not None and camera.strip() not in LIBERO_CAMERAS:
            yield one_of_error("env.camera_name", camera.strip(), LIBERO_CAMERAS)


def check_libero_arm(view: View) -> Iterator[FieldError]:
    """LIBERO has one arm: the log-prob must not count the second one (`algorithm.md` 2)."""
    action = action_of(view)
    if action is None or action.space != "ee6d":
        return
    dims = view.integers("pirl.executed_dims")
    if view.is_null("pirl.executed_dims") or (dims is not None and any(d >= 10 for d in dims)):
        yield FieldError(
            field="pirl.executed_dims",
            value=dims,
            expected="dims 0 to 9: ee6d has two arms and LIBERO executes the first",
            fix="set pirl.executed_dims=[0,1,2,3,4,5,6,7,8,9]",
        )


def cameras(view: View) -> list[str]:
    """Camera keys of a config, by LIBERO's names or by those that it maps them to."""
    mapping: Mapping[str, object] = view.section("env.camera_name_mapping") or {}
    given = [name.strip() for name in (view.text("env.camera_name") or "").split(",")]
    plain = dict(zip(LIBERO_CAMERAS, ("image", "image2"), strict=True))
    return [
        f"observation.images.{mapping.get(name, plain[name])}" for name in given if name in plain
    ]


def name_cameras(view: View, keys: Sequence[str]) -> str:
    """The setting that gives LIBERO's cameras the names of these keys, in order."""
    given = (name.strip() for name in (view.text("env.camera_name") or "").split(","))
    plain = [key.removeprefix("observation.images.") for key in keys]
    return f"set env.camera_name_mapping={json.dumps(dict(zip(given, plain, strict=False)))}"


def _task_ids(view: View, count: int | None) -> Iterator[FieldError]:
    ids = view.integers("env.task_ids")
    if ids is None:
        return
    if not ids or len(set(ids)) < len(ids):
        yield FieldError(
            field="env.task_ids",
            value=ids,
            expected="null for all tasks, or each wanted task once",
            fix=f"set env.task_ids={sorted(set(ids)) or None}",
        )
    if count is not None and any(not 0 <= i < count for i in ids):
        yield FieldError(
            field="env.task_ids",
            value=ids,
            expected=f"0 <= id < {count}: the suite has {count} tasks",
            fix=f"set env.task_ids={[i for i in ids if 0 <= i < count] or None}",
        )


RULES = (check_libero, check_libero_arm)
