"""Rules of the `env` section that every environment keeps, and of policy and environment together.

Owns which environments there are, and that cameras fit. What LIBERO or another one needs is its
kind's to say (`pirl.config.kinds`). Refuses to import a simulator: whether one can run here is the
preflight's question.
"""

from __future__ import annotations

from collections.abc import Iterator

from pirl import doors
from pirl.config.kinds import (
    EnvFacts,
    PolicyFacts,
    facts_of_env,
    facts_of_policy,
    fitting_cameras,
)
from pirl.config.spelling import nearest
from pirl.config.view import WRONG, View
from pirl.errors import FieldError


def check_env_type(view: View) -> Iterator[FieldError]:
    """The environment is one that pirl drives."""
    kind = view.get("env.type")
    if view.get("env") is WRONG or kind is WRONG or doors.is_installed(doors.ENVS, kind):
        return
    known = doors.installed(doors.ENVS)
    hint = nearest(kind, known) if isinstance(kind, str) else None
    yield FieldError(
        field="env.type",
        value=kind,
        expected="one of " + ", ".join(known),
        fix=f"did you mean env.type={hint}?" if hint else "set env.type=libero or pirl_metaworld",
    )


def check_cameras(view: View) -> Iterator[FieldError]:
    """Every camera of the policy exists in the environment, under the same name."""
    policy, env = facts_of_policy(view), facts_of_env(view)
    if policy is None or env is None:
        return
    offered = env.cameras(view)
    missing = [name for name in policy.seen(view) if name not in offered]
    if offered and missing:
        yield FieldError(
            field="policy.input_features",
            value=missing,
            expected="cameras of the environment: " + ", ".join(offered),
            fix=_camera_fix(view, policy=policy, env=env),
        )


def _camera_fix(view: View, *, policy: PolicyFacts, env: EnvFacts) -> str:
    """What makes policy and environment look through the same cameras."""
    seen, offered = policy.seen(view), env.cameras(view)
    kept = fitting_cameras(seen, offered)
    steps = []
    where = ""
    if kept != seen:
        steps.append(policy.leave_out(view, [name for name in seen if name not in kept]))
        where = "; `pirl eval` reads policy.* in the checkpoint's config.json"
    if not set(kept) <= set(offered):
        renamed = f"rename the cameras of the policy: {', '.join(kept)}"
        steps.append(env.name_cameras(view, kept) or renamed)
    if None in steps:
        return "use an environment that has these cameras"
    return " and ".join(str(step) for step in steps) + where


ENV_RULES = (check_env_type,)
"""Before those of the environment's type."""

CAMERA_RULES = (check_cameras,)
"""After them."""
