"""From a file and overrides to LeRobot's own config objects: `load_config`.

Owns the decoding into `pirl.config.train` and the proof that it is the config that was checked. One of
the doors to LeRobot (importing it imports torch); whoever needs no objects of LeRobot calls
`pirl.config.check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.rewards import RewardModelConfig
from lerobot.envs.configs import EnvConfig

from pirl.config.check import check_draft, checked_tree, decode, read_draft
from pirl.config.check import write_resolved as write_resolved
from pirl.config.identity import ConfigIdentity, canonical_json, config_hash
from pirl.config.kinds import admit
from pirl.config.lerobot_fields import LEROBOT_VERSION
from pirl.config.sections import encode_config
from pirl.config.train import PiRLTrainConfig
from pirl.errors import EnvironmentNotReadyError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A valid config and where it came from."""

    cfg: PiRLTrainConfig
    identity: ConfigIdentity
    source_path: Path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config of `path` with dotted overrides applied, as LeRobot's objects.

    Without `recipe` it is LeRobot's own config and LeRobot's own classes judge it.

    Args:
        path: a JSON file, a `pretrained_model/` folder, or a checkpoint folder that holds one.
        overrides: `--section.field=value` or `--section.field value`, as on a command line.

    Raises:
        ConfigError: every error of the file and the overrides together.
        EnvironmentNotReadyError: the config is right as far as it goes, but `policy.path` names a
            hub repository that cannot be reached, or this LeRobot has other config fields than pirl
            checks.
    """
    draft = read_draft(path, overrides)
    if not draft.has_recipe:
        cfg = decode(PiRLTrainConfig, checked_tree(PiRLTrainConfig, draft), draft.name)
        identity = ConfigIdentity(path=draft.name, hash=config_hash(cfg))
        return LoadedConfig(cfg=cfg, identity=identity, source_path=draft.source)
    checked = check_draft(draft)
    admit(checked.tree, (PreTrainedConfig, EnvConfig, RewardModelConfig))
    cfg = decode(PiRLTrainConfig, checked.tree, draft.name)
    cfg.checkpoint_path = checked.cfg.checkpoint_path
    cfg.output_dir = checked.cfg.output_dir
    if canonical_json(cfg) != canonical_json(checked.cfg):
        raise _other_lerobot(encode_config(checked.cfg), encode_config(cfg))
    return LoadedConfig(cfg=cfg, identity=checked.identity, source_path=draft.source)


def _other_lerobot(ours: dict[str, Any], theirs: dict[str, Any]) -> EnvironmentNotReadyError:
    """Checked and decoded config differ, so the table of fields is not that of this LeRobot."""
    names = ", ".join(_differences(ours, theirs))
    return EnvironmentNotReadyError(
        f"lerobot {version('lerobot')} makes another config of this file than pirl checked with the"
        f" fields of {LEROBOT_VERSION}: {names}",
        remedy=f"pip install lerobot=={LEROBOT_VERSION}; to support another one, read what changed and"
        " run `python -m pirl.config.snapshot`",
    )


def _differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Dotted names of what only one side has, or both have otherwise."""
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs else [path]
    mine, other = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
    found: list[str] = []
    for key in {**mine, **other}:
        name = f"{path}.{key}".removeprefix(".")
        if key in mine and key in other:
            found += _differences(mine[key], other[key], name)
        else:
            found.append(name)
    return found
