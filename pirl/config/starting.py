"""What a config without the recipe is, told from the file and what lies beside it.

Owns the two questions that a person asks who took a config of `lerobot-train` for one of RL. What a starting
checkpoint says is its policy's to read (`PolicyFacts.start_errors`). Needs no LeRobot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pirl.config.recipe import RECIPE
from pirl.config.weights_header import WEIGHTS_FILE
from pirl.errors import FieldError


def lerobot_training_fix(config: Path) -> str | None:
    """What to do with a config without the recipe that lies beside weights; None where none are beside it."""
    if not (config.parent / WEIGHTS_FILE).is_file():
        return None
    return (
        f"this {config.name} is that of the LeRobot training which made the weights beside it: `pirl init"
        f" --from {config.parent} --env TYPE --task TASK` writes a pi-rl config for them; pass that one with"
        " --config_path"
    )


def supervised_training(raw: Mapping[str, Any]) -> str | None:
    """What a config of `lerobot-train` trains, in words; None where it is another kind of config.

    LeRobot's RL configs have a `dataset` too, and fields of their own that this one has not.
    """
    data, policy = raw.get("dataset"), raw.get("policy")
    if not isinstance(data, Mapping) or {"recipe", "algorithm", "mixer"} & {*raw}:
        return None
    kind = cast("Mapping[str, Any]", policy).get("type") if isinstance(policy, Mapping) else None
    if kind == "gaussian_actor":
        return None
    return (
        f"supervised training of policy {kind} on {cast('Mapping[str, Any]', data).get('repo_id')}"
    )


def supervised_error(what: str, config: str | Path) -> FieldError:
    """What is wrong with such a config, where one of the recipe is needed."""
    return FieldError(
        field="recipe",
        value=None,
        expected=f"{RECIPE!r}: this is a config of lerobot-train: {what}",
        fix=f"`pirl train --config_path {config}` runs it; for RL on a checkpoint that it made, write a"
        " config with `pirl init --from CHECKPOINT --env TYPE --task TASK`",
    )
