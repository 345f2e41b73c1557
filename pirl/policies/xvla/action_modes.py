"""Which model action dims mean what, per X-VLA action mode, and the spec that follows from it.

Owns the table of `algorithm.md` 2 and the validation of `executed_dims`. Refuses to know any
network. Read `pirl.policies.xvla.build` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pirl.errors import ConfigError, ContractError, FieldError
from pirl.records import ActionSpec

_EE6D_ARM = ("xyz",) * 3 + ("rot6d",) * 6
_SO101_ARM = ("joint",) * 5 + ("gripper_logit",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionMode:
    """One row of the action-space table."""

    groups: tuple[str, ...]
    """Per model dim; its length is D."""
    real_dims: int
    """Dims 0..real_dims-1 exist on the robot; the rest pads up to D."""
    env_dim: int
    """Width after `postprocess`."""
    hides_grippers: bool
    """Whether `preprocess` zeroes the gripper channels before the network."""

    @property
    def hidden_gripper_dims(self) -> tuple[int, ...]:
        """Gripper channels that the network never sees."""
        if not self.hides_grippers:
            return ()
        return tuple(d for d, group in enumerate(self.groups) if group == "gripper_logit")


ACTION_MODES = {
    "ee6d": ActionMode(
        groups=(*_EE6D_ARM, "gripper_logit") * 2, real_dims=20, env_dim=20, hides_grippers=True
    ),
    "joint": ActionMode(
        groups=(("joint",) * 6 + ("gripper_logit",)) * 2,
        real_dims=14,
        env_dim=14,
        hides_grippers=True,
    ),
    "so101_bimanual": ActionMode(
        groups=_SO101_ARM * 2 + ("other",) * 8, real_dims=12, env_dim=12, hides_grippers=True
    ),
    # MSE-trained gripper in action units: an ordinary flow dim, not a logit.
    "agibot_ee6d": ActionMode(
        groups=(*_EE6D_ARM, "other") * 2, real_dims=20, env_dim=20, hides_grippers=False
    ),
    "franka_joint7": ActionMode(
        groups=("joint",) * 7 + ("other",) * 13, real_dims=7, env_dim=7, hides_grippers=False
    ),
}
"""The modes with a fixed layout; `auto` is made by `action_mode_of`."""


def action_mode_of(name: str, *, auto_real_dim: int, auto_model_dim: int) -> ActionMode:
    """The table row of an action mode; the two `auto_*` widths serve `auto` only.

    Raises:
        ContractError: X-VLA has a mode of this name that the table does not know.
    """
    if name == "auto":
        return ActionMode(
            groups=("other",) * auto_model_dim,
            real_dims=auto_real_dim,
            env_dim=auto_real_dim,
            hides_grippers=False,
        )
    if name not in ACTION_MODES:
        raise ContractError(
            [
                FieldError(
                    field="spec: policy.action_mode",
                    value=name,
                    expected=f"one of {', '.join([*ACTION_MODES, 'auto'])}",
                    fix="choose a mode whose channels pirl knows, or add its row to the table",
                )
            ]
        )
    return ACTION_MODES[name]


def make_action_spec(
    name: str,
    mode: ActionMode,
    *,
    chunk_size: int,
    executed_steps: int,
    denoising_steps: int,
    executed_dims: Sequence[int] | None,
) -> ActionSpec:
    """The spec of a policy; `executed_dims=None` means all real dims of the mode.

    Raises:
        ConfigError: `executed_dims` is empty, unsorted, repeated, or names a dim that no robot has.
    """
    dims = tuple(range(mode.real_dims)) if executed_dims is None else tuple(executed_dims)
    if not dims or list(dims) != sorted(set(dims)) or dims[0] < 0 or dims[-1] >= mode.real_dims:
        raise ConfigError(
            [
                FieldError(
                    field="pirl.executed_dims",
                    value=list(dims),
                    expected=f"rising dims within 0..{mode.real_dims - 1} (action_mode={name})",
                    fix="list the model action dims that the robot executes, grippers included",
                )
            ]
        )
    return ActionSpec(
        action_mode=name,
        chunk_size=chunk_size,
        executed_steps=executed_steps,
        model_dim=len(mode.groups),
        env_dim=mode.env_dim,
        denoising_steps=denoising_steps,
        executed_dims=dims,
        hidden_gripper_dims=mode.hidden_gripper_dims,
        group_of_dim=mode.groups,
    )
