"""The guard of `pirl train`: supervised training goes to LeRobot, the recipe goes to its two
processes.

Owns the decision, from the file and the arguments alone. Refuses to judge anything but `recipe`:
`lerobot-train` reports its own errors.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pirl.config.jsonfile import TRAIN_CONFIG_NAME
from pirl.config.overrides import split_argv
from pirl.config.spelling import recipe_error
from pirl.config.starting import supervised_error, supervised_training
from pirl.config.yamlfile import read_yaml
from pirl.errors import ConfigError, FieldError
from pirl.resources import locate


def lerobot_train_argv(argv: Sequence[str]) -> list[str]:
    """The arguments for `lerobot-train`: `argv`, unchanged.

    Raises:
        ConfigError: file or arguments say `recipe=pi-rl` (the fix names the two commands to run),
        or
            misspell it.
    """
    line = split_argv(argv)
    recipe = _recipe(line.config_path, line.overrides)
    if recipe is None:
        return list(argv)
    misspelt = recipe_error(recipe)
    if misspelt is not None:
        raise ConfigError([misspelt], source="pirl train")
    shown = shlex.join(argv)
    error = FieldError(
        field="recipe",
        value=recipe,
        expected="no recipe: lerobot-train is for supervised training",
        fix="run these two commands, each in its own terminal:\n"
        f"    python -m pirl.learner {shown}\n"
        f"    python -m pirl.actor {shown}",
    )
    raise ConfigError([error], source="pirl train")


def is_pi_rl(argv: Sequence[str]) -> bool:
    """Whether learner and actor should load this command line themselves.

    False only for a readable config, JSON or YAML, that asks for neither recipe nor variant: that
    is LeRobot's own SAC path. Anything unreadable is True, so that `load_config` can say what is
    wrong.

    Raises:
        ConfigError: `recipe` is misspelt, or this is a config of `lerobot-train`.
    """
    line = split_argv(argv)
    recipe = _recipe(line.config_path, line.overrides)
    misspelt = recipe_error(recipe)
    if misspelt is not None:
        raise ConfigError([misspelt], source="command line")
    if recipe is not None or line.config_path is None:
        return True
    config = _read_mapping(Path(line.config_path))
    if config is None:
        return True
    section = config.get("pirl")
    if isinstance(section, Mapping) and "variant" in section:
        return True
    # LeRobot's own learner ends of such a config with a traceback; it may be completed on the command line.
    is_whole = not any(
        o.startswith(("--policy.", "--algorithm", "--mixer")) for o in line.overrides
    )
    told = supervised_training(config) if is_whole else None
    if told is not None:
        raise ConfigError([supervised_error(told, line.config_path)], source="config")
    return False


def _recipe(config_path: str | None, overrides: Sequence[str]) -> object:
    for index, token in enumerate(overrides):
        name, equals, value = token.partition("=")
        if name == "--recipe":
            text = value if equals else "".join(overrides[index + 1 : index + 2])
            return None if text in ("", "null") else text
    if config_path is None:
        return None
    return (_read_mapping(Path(config_path)) or {}).get("recipe")


def _read_mapping(path: Path) -> Mapping[str, Any] | None:
    """What the file holds, JSON or YAML; None when it cannot be read or holds something else."""
    path = locate(path)
    file = path / TRAIN_CONFIG_NAME if path.is_dir() else path
    try:
        value = read_yaml(file)
    except (OSError, ValueError):
        return None
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None
