"""What the embedded environment needs of a config: known tasks, and a policy of its shape.

Owns MetaWorld's names; tests compare them with the library. Refuses to import it. Read
`pirl.envs.metaworld_kind` next.
"""

from __future__ import annotations

from collections.abc import Iterator

from pirl.config.kinds import action_of
from pirl.config.spelling import nearest
from pirl.config.view import View
from pirl.errors import FieldError

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


def check_metaworld(view: View) -> Iterator[FieldError]:
    """The embedded environment: known tasks, and a policy of its shape."""
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
    action = action_of(view)
    if action is None:
        return
    if action.space not in (None, "auto"):
        yield FieldError(
            field=action.field,
            value=action.space,
            expected="auto: MetaWorld takes 4 numbers (xyz displacement and gripper)",
            fix=f"set {action.field}=auto and policy.max_action_dim=4",
        )
    elif action.width not in (None, 4):
        yield FieldError(
            field="policy.output_features",
            value=action.width,
            expected="an action of width 4, as MetaWorld takes",
            fix="set the shape of the feature `action` to [4]",
        )


RULES = (check_metaworld,)
