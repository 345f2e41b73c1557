"""From a file and overrides to a validated config: `load_config`.

Owns the order of loading; one of the doors to LeRobot (importing it imports torch). Refuses to know the
rules themselves. Read `pirl.config.rules` next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import draccus

from pirl.config.identity import ConfigIdentity, config_hash, config_path_identity
from pirl.config.train import PiRLTrainConfig, encode_config


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A valid config and where it came from."""

    cfg: PiRLTrainConfig
    identity: ConfigIdentity
    source_path: Path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config of `path` with dotted overrides applied."""
    source = Path(path)
    if source.is_dir():
        source = source / "train_config.json"
    if overrides:
        with draccus.config_type("json"):
            cfg = draccus.parse(PiRLTrainConfig, str(source), args=list(overrides))
    else:
        cfg = draccus.decode(PiRLTrainConfig, json.loads(source.read_text(encoding="utf-8")))
    identity = ConfigIdentity(path=config_path_identity(source), hash=config_hash(cfg))
    return LoadedConfig(cfg=cfg, identity=identity, source_path=source)


def write_resolved(cfg: PiRLTrainConfig, path: str | Path) -> Path:
    """Write the resolved config so that loading it gives the same hash; returns the path."""
    target = Path(path)
    text = json.dumps(encode_config(cfg), indent=2, sort_keys=True, allow_nan=False)
    target.write_text(text + "\n", encoding="utf-8")
    return target
