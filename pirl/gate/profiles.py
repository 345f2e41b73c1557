"""Which environment a gate runs on, and the config that follows from profile, variant and parameters.

Owns the profiles, the choice made by `auto` and the resolution of the gate's one config. Refuses to run
anything. Read `pirl.gate.session` next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.config.load import LoadedConfig, load_config, write_resolved
from pirl.config.recipe import VARIANTS
from pirl.config.train import env_of
from pirl.envs import describe_env
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.files import write_text

BASE_CONFIGS = {
    "libero": Path("configs/train_config_pirl_libero_smoke.json"),
    "embedded": Path("configs/train_config_pirl_embedded.json"),
}
"""Base config of each profile, relative to the repository root."""

PROFILES = ("auto", *BASE_CONFIGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The environment of a gate."""

    name: str
    """`libero` or `embedded`."""
    reason: str
    """Why it is not `libero`; empty for that one."""

    @property
    def base_config(self) -> Path:
        """The config that parameters are applied to."""
        return BASE_CONFIGS[self.name]


def choose_profile(wanted: str) -> Profile:
    """The profile to run; `auto` takes LIBERO when it can run here and says why not otherwise.

    Raises:
        ConfigError: unknown profile.
        EnvironmentNotReadyError: `libero` was asked for by name and cannot run here.
    """
    if wanted not in PROFILES:
        raise ConfigError(
            [
                FieldError(
                    field="--profile",
                    value=wanted,
                    expected=f"one of {', '.join(PROFILES)}",
                    fix="leave it out for auto",
                )
            ],
            source="command line",
        )
    if wanted == "embedded":
        return Profile(name="embedded", reason="the embedded profile was asked for by name")
    try:
        describe_env(env_of(load_config(BASE_CONFIGS["libero"]).cfg))
    except EnvironmentNotReadyError as error:
        if wanted == "libero":
            raise
        return Profile(name="embedded", reason=f"LIBERO cannot run here: {error.what}")
    return Profile(name="libero", reason="")


def resolve_config(
    profile: Profile, *, variant: str, overrides: Sequence[str], target: Path
) -> LoadedConfig:
    """Write the gate's resolved config to `target` and load it from there.

    The base config's section of the other variant is replaced by the defaults of `variant`; `overrides` are
    dotted, as on the command line. Every later step starts its processes with `target`.

    Raises:
        ConfigError: unknown variant, nothing frozen, or whatever the resolved config breaks.
    """
    if variant not in VARIANTS:
        raise ConfigError(
            [
                FieldError(
                    field="--variant",
                    value=variant,
                    expected=f"one of {', '.join(VARIANTS)}",
                    fix="correct the spelling",
                )
            ],
            source="command line",
        )
    raw: dict[str, Any] = json.loads(profile.base_config.read_text(encoding="utf-8"))
    section = variant.replace("-", "_")
    pirl: dict[str, Any] = raw["pirl"]
    if pirl["variant"] != variant:
        for other in VARIANTS:
            pirl.pop(other.replace("-", "_"), None)
        pirl["variant"] = variant
        pirl[section] = {}
    write_text(target, json.dumps(raw))
    resolved = load_config(target, overrides)
    _require_frozen_part(resolved)
    write_resolved(resolved.cfg, target)
    return load_config(target)


def _require_frozen_part(resolved: LoadedConfig) -> None:
    """The criterion that frozen tensors stay must have tensors to look at."""
    scope = resolved.cfg.pirl.train_scope
    if scope == "transformer":
        return
    wrong = FieldError(
        field="pirl.train_scope",
        value=scope,
        expected="transformer: the gate shows that frozen tensors stay, and this scope freezes none",
        fix="run the gate with pirl.train_scope=transformer and train with the other scope",
    )
    raise ConfigError([wrong], source="gate")


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested parameters as dotted overrides: `{"runtime": {"seed": 1}}` to `--runtime.seed=1`."""
    overrides: list[str] = []
    for key, value in parameters.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            overrides += flatten(value, f"{name}.")
        else:
            overrides.append(f"--{name}={json.dumps(value)}")
    return overrides
