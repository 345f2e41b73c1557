"""Rules of the `env` section under the recipe, and of policy and environment together.

Owns what LIBERO and the embedded MetaWorld need of a config. Refuses to import a simulator:
whether one can run here is the preflight's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from pirl.config.catalogue import (
    ACTION_MODES,
    ENVIRONMENTS,
    LIBERO_CAMERAS,
    LIBERO_SUITES,
    METAWORLD_CAMERAS,
    METAWORLD_MAX_STEPS,
    METAWORLD_TASKS,
)
from pirl.config.recipe import QUALIFIED_POLICIES
from pirl.config.rules_policy import action_width, policy_cameras
from pirl.config.spelling import nearest
from pirl.config.view import WRONG, View
from pirl.errors import FieldError

SIZES = {
    "env.observation_height": (16, 1024),
    "env.observation_width": (16, 1024),
    "env.image_size": (16, 480),
    "env.action_repeat": (1, 80),
    "env.episode_length": (1, 100_000),
    "env.fps": (1, 1000),
}


def check_env_type(view: View) -> Iterator[FieldError]:
    """The environment is one that pirl drives."""
    kind = view.get("env.type")
    if view.get("env") is WRONG or kind is WRONG or kind in ENVIRONMENTS:
        return
    hint = nearest(kind, ENVIRONMENTS) if isinstance(kind, str) else None
    yield FieldError(
        field="env.type",
        value=kind,
        expected="one of " + ", ".join(ENVIRONMENTS),
        fix=f"did you mean env.type={hint}?" if hint else "set env.type=libero or pirl_metaworld",
    )


def check_sizes(view: View) -> Iterator[FieldError]:
    """Image sizes, time limits and rates lie in a sane range."""
    for name, (low, high) in SIZES.items():
        value = view.integer(name)
        if value is not None and not low <= value <= high:
            yield FieldError(
                field=name,
                value=value,
                expected=f"{low} <= value <= {high}",
                fix=f"set {name} within it",
            )


def check_libero(view: View) -> Iterator[FieldError]:
    """LIBERO: a known suite, its tasks, its cameras, and the control mode that X-VLA's ee6d
    means.
    """
    if view.text("env.type") != "libero":
        return
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
    mode = view.text("env.control_mode")
    if mode not in (None, "relative", "absolute"):
        yield _one_of("env.control_mode", mode, ("absolute", "relative"))
    elif mode == "relative" and view.text("policy.action_mode") == "ee6d":
        yield FieldError(
            field="env.control_mode",
            value=mode,
            expected="absolute: X-VLA's ee6d actions are absolute poses in metres",
            fix="pass --env.control_mode=absolute",
        )
    action_mode = view.text("policy.action_mode")
    if action_mode in ACTION_MODES and action_mode != "ee6d":
        yield FieldError(
            field="policy.action_mode",
            value=action_mode,
            expected="ee6d: LIBERO executes end-effector poses, and would take anything else for one",
            fix="use a checkpoint that was trained with policy.action_mode=ee6d, or another"
            " environment",
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
            yield _one_of("env.camera_name", camera.strip(), LIBERO_CAMERAS)


def check_libero_arm(view: View) -> Iterator[FieldError]:
    """LIBERO has one arm: the log-prob must not count the second one (`algorithm.md` 2)."""
    if view.text("env.type") != "libero" or view.text("policy.action_mode") != "ee6d":
        return
    dims = view.integers("pirl.executed_dims")
    if view.is_null("pirl.executed_dims") or (dims is not None and any(d >= 10 for d in dims)):
        yield FieldError(
            field="pirl.executed_dims",
            value=dims,
            expected="dims 0 to 9: ee6d has two arms and LIBERO executes the first",
            fix="set pirl.executed_dims=[0,1,2,3,4,5,6,7,8,9]",
        )


def check_metaworld(view: View) -> Iterator[FieldError]:
    """The embedded environment: known tasks and camera, and a policy of its shape."""
    if view.text("env.type") != "pirl_metaworld":
        return
    names = view.items("env.tasks")
    for field, name in [("env.task", view.text("env.task"))] + [
        (f"env.tasks.{i}", name) for i, name in enumerate(names or [])
    ]:
        if isinstance(name, str) and name not in METAWORLD_TASKS:
            hint = nearest(name, METAWORLD_TASKS)
            yield FieldError(
                field=field,
                value=name,
                expected="a MetaWorld task, for example button-press-topdown-v3",
                fix=f"did you mean {hint!r}?" if hint else "see the task list of MetaWorld 3.0",
            )
    if names == [] or (view.is_null("env.task") and view.is_null("env.tasks")):
        yield FieldError(
            field="env.tasks",
            value=names,
            expected="at least one task",
            fix='set env.task="button-press-topdown-v3" and env.tasks=null',
        )
    limit = view.integer("env.episode_length")
    if limit is not None and limit > METAWORLD_MAX_STEPS:
        yield FieldError(
            field="env.episode_length",
            value=limit,
            expected=f"at most {METAWORLD_MAX_STEPS} simulator steps, MetaWorld's own limit",
            fix=f"set env.episode_length={METAWORLD_MAX_STEPS} or less",
        )
    camera = view.text("env.camera")
    if camera is not None and camera not in METAWORLD_CAMERAS:
        yield _one_of("env.camera", camera, METAWORLD_CAMERAS)
    mode, width = view.text("policy.action_mode"), action_width(view)
    if mode not in (None, "auto"):
        yield FieldError(
            field="policy.action_mode",
            value=mode,
            expected="auto: MetaWorld takes 4 numbers (xyz displacement and gripper)",
            fix="set policy.action_mode=auto and policy.max_action_dim=4",
        )
    elif width is not None and width != 4:
        yield FieldError(
            field="policy.output_features",
            value=width,
            expected="an action of width 4, as MetaWorld takes",
            fix="set the shape of the feature `action` to [4]",
        )


def check_cameras(view: View) -> Iterator[FieldError]:
    """Every camera of the policy exists in the environment, under the same name."""
    if view.get("policy.type") not in QUALIFIED_POLICIES:
        return
    offered = env_cameras(view)
    wanted = policy_cameras(view)
    missing = [name for name in wanted if name not in offered]
    if offered and missing:
        yield FieldError(
            field="policy.input_features",
            value=missing,
            expected="cameras of the environment: " + ", ".join(offered),
            fix="rename the policy's cameras, or set env.camera_name_mapping (LIBERO)",
        )


def env_cameras(view: View) -> list[str]:
    """Camera keys that the environment of this config produces; empty when that is not known."""
    kind = view.text("env.type")
    if kind == "pirl_metaworld":
        return ["observation.images.image"]
    if kind != "libero":
        return []
    mapping: Mapping[str, object] = view.section("env.camera_name_mapping") or {}
    given = [name.strip() for name in (view.text("env.camera_name") or "").split(",")]
    plain = dict(zip(LIBERO_CAMERAS, ("image", "image2"), strict=True))
    return [
        f"observation.images.{mapping.get(name, plain[name])}" for name in given if name in plain
    ]


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


def _one_of(field: str, value: object, known: tuple[str, ...]) -> FieldError:
    hint = nearest(cast("str", value), known)
    return FieldError(
        field=field,
        value=value,
        expected="one of " + ", ".join(known),
        fix=f"did you mean {hint!r}?" if hint else f"set {field} to one of them",
    )


ENV_RULES = (
    check_env_type,
    check_sizes,
    check_libero,
    check_libero_arm,
    check_metaworld,
    check_cameras,
)
