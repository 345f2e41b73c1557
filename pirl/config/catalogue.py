"""Names and sizes that a config can be judged by without any simulator or network.

Owns the suites, tasks and cameras that pirl drives and the action modes of X-VLA (`algorithm.md`
2). Tests compare each table with the library it describes. Refuses rules: those are in its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

ENVIRONMENTS = ("libero", "pirl_metaworld")
"""Environments that pirl drives."""

LIBERO_SUITES = {
    "libero_spatial": 10,
    "libero_object": 10,
    "libero_goal": 10,
    "libero_10": 10,
    "libero_90": 90,
}
"""Tasks per suite."""

LIBERO_CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
METAWORLD_CAMERAS = (
    "corner",
    "corner2",
    "corner3",
    "corner4",
    "topview",
    "behindGripper",
    "gripperPOV",
)

METAWORLD_MAX_STEPS = 500

METAWORLD_TASKS = tuple(
    f"{name}-v3"
    for name in [
        "assembly",
        "basketball",
        "bin-picking",
        "box-close",
        "button-press",
        "button-press-topdown",
        "button-press-topdown-wall",
        "button-press-wall",
        "coffee-button",
        "coffee-pull",
        "coffee-push",
        "dial-turn",
        "disassemble",
        "door-close",
        "door-lock",
        "door-open",
        "door-unlock",
        "drawer-close",
        "drawer-open",
        "faucet-close",
        "faucet-open",
        "hammer",
        "hand-insert",
        "handle-press",
        "handle-press-side",
        "handle-pull",
        "handle-pull-side",
        "lever-pull",
        "peg-insert-side",
        "peg-unplug-side",
        "pick-out-of-hole",
        "pick-place",
        "pick-place-wall",
        "plate-slide",
        "plate-slide-back",
        "plate-slide-back-side",
        "plate-slide-side",
        "push",
        "push-back",
        "push-wall",
        "reach",
        "reach-wall",
        "shelf-place",
        "soccer",
        "stick-pull",
        "stick-push",
        "sweep",
        "sweep-into",
        "window-close",
        "window-open",
    ]
)


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
