"""Rules of X-VLA's own config fields: action mode, views, normalisation, features.

Owns the facts of X-VLA's action modes that a config can be judged by before any network exists
(`algorithm.md` 2); a test compares them with the network's. Refuses to import a policy. Read
`pirl.policies.xvla.kind` next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pirl.config.kinds import action_width
from pirl.config.rules_policy import executed_dims_errors
from pirl.config.spelling import nearest
from pirl.config.view import WRONG, View
from pirl.errors import FieldError
from pirl.policies.xvla.starting import NO_STATISTICS
from pirl.policies.xvla.views import counted_once


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionMode:
    """What an `action_mode` of X-VLA fixes."""

    width: int | None
    """D, the model's action width; None: `policy.max_action_dim`."""
    real: int | None
    """Dims that carry meaning; None: the width of the `action` feature."""
    groups: tuple[str, ...]
    """`pirl.last_step_std` groups of its network-visible dims."""
    has_gripper_logit: bool


ACTION_MODES: dict[str, ActionMode] = {
    "ee6d": ActionMode(width=20, real=20, groups=("xyz", "rot6d"), has_gripper_logit=True),
    "joint": ActionMode(width=14, real=14, groups=("joint",), has_gripper_logit=True),
    "so101_bimanual": ActionMode(width=20, real=12, groups=("joint",), has_gripper_logit=True),
    "agibot_ee6d": ActionMode(width=20, real=20, groups=("xyz", "rot6d"), has_gripper_logit=False),
    "franka_joint7": ActionMode(width=20, real=7, groups=("joint",), has_gripper_logit=False),
    "auto": ActionMode(width=None, real=None, groups=("other",), has_gripper_logit=False),
}


def check_views(view: View) -> Iterator[FieldError]:
    """The network has as many views as the config says."""
    empty, declared = view.integer("policy.empty_cameras"), view.integer("policy.num_image_views")
    if empty is None or declared is None or declared < 1:
        return
    needed = views_needed(view)
    if declared < needed:
        yield FieldError(
            field="policy.num_image_views",
            value=declared,
            expected=f"{needed} or more: the visual policy.input_features and policy.empty_cameras"
            f" = {empty} are that many views",
            fix=f"set policy.num_image_views={needed} if the policy was trained with them, or fewer"
            " policy.empty_cameras",
        )


def views_needed(view: View) -> int:
    """Views that the features and the empty cameras of a config are, without padding."""
    inputs, empty = (
        view.section("policy.input_features") or {},
        view.integer("policy.empty_cameras"),
    )
    visual = [n for n, f in inputs.items() if isinstance(f, dict) and f.get("type") == "VISUAL"]
    return len(list(counted_once(visual, empty or 0))) + max(empty or 0, 0)


def check_normalization(view: View) -> Iterator[FieldError]:
    """Nothing is normalised by dataset statistics: pirl works in pixels and physical units."""
    mapping = view.section("policy.normalization_mapping") or {}
    for kind in ("VISUAL", "STATE", "ACTION"):
        if mapping.get(kind, "IDENTITY") not in ("IDENTITY", WRONG):
            yield FieldError(
                field=f"policy.normalization_mapping.{kind}",
                value=mapping[kind],
                expected="IDENTITY: pirl gives images ImageNet's mean and std itself, and samples and"
                " stores states and actions in physical units",
                fix=NO_STATISTICS,
            )


def check_action_dims(view: View) -> Iterator[FieldError]:
    """`executed_dims` are sorted, unique and real dims of a known action mode."""
    name = view.text("policy.action_mode")
    if name is None:
        return
    mode = ACTION_MODES.get(name)
    if mode is None:
        hint = nearest(name, ACTION_MODES)
        yield FieldError(
            field="policy.action_mode",
            value=name,
            expected="one of " + ", ".join(ACTION_MODES),
            fix=f"did you mean {hint!r}?" if hint else "set policy.action_mode to one of them",
        )
        return
    dims = view.integers("pirl.executed_dims")
    real = mode.real if mode.real is not None else action_width(view)
    width = mode.width if mode.width is not None else view.integer("policy.max_action_dim")
    bound = min((n for n in (real, width) if n is not None), default=None)
    if dims is not None:
        yield from executed_dims_errors(dims, bound)
    if view.text("pirl.gripper_mode") == "bernoulli" and not mode.has_gripper_logit:
        yield FieldError(
            field="pirl.gripper_mode",
            value="bernoulli",
            expected=f"last_step or none: action mode {name} has no gripper logit",
            fix="set pirl.gripper_mode=last_step",
        )


def check_xvla_features(view: View) -> Iterator[FieldError]:
    """The policy declares its proprioception and the two parts of its Florence-2."""
    inputs = view.section("policy.input_features")
    if inputs and view.flag("policy.use_proprio") and "observation.state" not in inputs:
        yield FieldError(
            field="policy.input_features",
            value=sorted(inputs),
            expected="observation.state, because policy.use_proprio is true",
            fix='add {"observation.state": {"type": "STATE", "shape": [20]}}',
        )
    for part in ("vision_config", "text_config"):
        florence = view.section("policy.florence_config")
        if florence is not None and not isinstance(florence.get(part), dict):
            yield FieldError(
                field=f"policy.florence_config.{part}",
                value=florence.get(part),
                expected="the Florence-2 settings of the policy",
                fix="load the policy with policy.path, or copy a file of configs/",
            )


RULES = (check_views, check_normalization, check_action_dims, check_xvla_features)
