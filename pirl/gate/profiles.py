"""Which environment a gate runs on, and the config that follows from profile, variant and parameters.

The profile `own` has its config, hence policy and environment, from a file of the user's. Owns the profiles, the
choice made by `auto` and the resolution of the gate's one config. Starts one simulator worker, to see whether it
can. Read `pirl.gate.session` next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pirl.audit.outcomes import ASKED_FOR, CANNOT_RUN, OWN_CONFIG
from pirl.audit.records import files
from pirl.config.check import CheckedConfig, check_config, write_resolved
from pirl.config.jsonfile import find_config_file, read_config
from pirl.config.kinds import policy_facts
from pirl.config.recipe import VARIANTS
from pirl.config.sections import env_of, policy_of
from pirl.envs import EnvObservation, load_split, make_vector_env
from pirl.envs.libero_assets import AlteredAssetsError
from pirl.envs.machine import check_libero
from pirl.envs.schedule import plan_episode
from pirl.envs.vector import SlotVectorEnv
from pirl.errors import ConfigError, EnvError, EnvironmentNotReadyError, FieldError
from pirl.files import write_text
from pirl.gate.requirements import require_fit
from pirl.resources import locate

if TYPE_CHECKING:
    from pirl.config.load import LoadedConfig
    from pirl.records import EpisodePlan

BASE_CONFIGS = {
    "libero": Path("configs/train_config_pirl_libero_smoke.json"),
    "embedded": Path("configs/train_config_pirl_gate_embedded.json"),
}
"""Base config of each profile of pirl's."""

REWARDED_CONFIGS = {files.REWARDED: Path("configs/train_config_pirl_gate_libero.json")}
"""Config of the second smoke run of a profile whose own policy earns no reward; no parameter of the gate
reaches it."""

PROFILES = ("auto", *BASE_CONFIGS, files.OWN)

BLANK_STD = 1.0
"""A frame whose pixels vary less than this shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The environment of a gate."""

    name: str
    """`libero`, `embedded` or `own`."""
    reason: str
    """Why it is not `libero`; empty for that one."""
    config: Path | None = None
    """The user's file of `own`."""

    @property
    def base_config(self) -> Path:
        """The config that parameters are applied to."""
        return find_config_file(BASE_CONFIGS[self.name] if self.config is None else self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """An episode that has begun in a worker: shows that the simulator runs, and step 1 goes on with it."""

    env: SlotVectorEnv
    plan: EpisodePlan
    observation: EnvObservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A profile that can run here, with its resolved config."""

    profile: Profile
    loaded: LoadedConfig
    look: FirstLook


def choose_profile(
    wanted: str,
    *,
    variant: str | None,
    overrides: Sequence[str],
    target: Path,
    config: Path | None = None,
) -> Ready:
    """The profile to run: `auto` takes LIBERO when it can run here and says why not otherwise.

    "Can run" is packages, assets, memory and one drawn frame of the first episode, in this order; the first
    thing that fails is the reason.

    Args:
        variant, overrides, target: as `resolve_config`.
        config: the file of `own`, which has no other.

    Raises:
        ConfigError: unknown profile, `own` without a file, another one with it, or whatever the resolved
            config breaks.
        AlteredAssetsError: a file of LIBERO's assets is not LIBERO's; `auto` does not step over it.
        EnvironmentNotReadyError: the profile asked for by name, or the fallback, cannot run here.
    """
    _require_known(wanted, config)

    def ready(name: str, reason: str) -> Ready:
        profile = Profile(name=name, reason=reason, config=config)
        if name == "libero":
            check_libero()
        loaded = resolve_config(profile, variant=variant, overrides=overrides, target=target)
        return Ready(profile=profile, loaded=loaded, look=first_look(loaded))

    if wanted == files.OWN:
        return ready(files.OWN, OWN_CONFIG)
    if wanted == "embedded":
        return ready("embedded", ASKED_FOR)
    try:
        return ready("libero", "")
    except AlteredAssetsError:
        raise
    except EnvironmentNotReadyError as error:
        if wanted == "libero":
            raise
        return ready("embedded", f"{CANNOT_RUN}{error.what}")


def _require_known(wanted: str, config: Path | None) -> None:
    """`own` and a file come together."""
    is_own = wanted == files.OWN
    if wanted in PROFILES and is_own == (config is not None):
        return
    field, value, expected, fix = (
        "--profile",
        wanted,
        f"one of {', '.join(PROFILES)}",
        "leave it out",
    )
    if is_own:
        field, value = "--config", None
        expected = "the train config that --profile own runs"
        fix = "add --config FILE; `pirl validate --config_path FILE` says whether it holds"
    elif wanted in PROFILES:
        expected = f"own: {wanted} brings a config of its own, and --config {config} names another"
        fix = "leave out --profile, or --config"
    wrong = FieldError(field=field, value=value, expected=expected, fix=fix)
    raise ConfigError([wrong], source="command line")


def first_look(loaded: LoadedConfig) -> FirstLook:
    """Start one worker and the first episode of the run's own schedule, and look at its frame.

    Raises:
        ConfigError: the policy's cameras are not the environment's.
        EnvironmentNotReadyError: the simulator does not start, or draws nothing.
    """
    cfg = loaded.cfg
    env_cfg = env_of(cfg)
    split = load_split(env_cfg.type, mode=cfg.runtime.split, split_file=cfg.runtime.split_file)
    cameras = policy_facts(policy_of(cfg).type).cameras(policy_of(cfg))
    try:
        env = make_vector_env(env_cfg, num_envs=1, num_workers=1, image_keys=cameras, split=split)
    except EnvError as error:
        raise _does_not_run(env_cfg.type, error) from error
    plan = plan_episode(
        seed=cfg.seed or 0,
        policy_version=0,
        rank=0,
        env_index=0,
        episode_index=0,
        task_names=env.task_names,
        split=split,
        num_envs=1,
    )
    try:
        observation = env.reset({0: plan})[0]
    except EnvError as error:
        env.close()
        raise _does_not_run(env_cfg.type, error) from error
    spread = frame_spread(observation)
    if spread <= BLANK_STD:
        env.close()
        raise _does_not_run(env_cfg.type, f"its frame is blank (std {spread:.1f} of 255)")
    return FirstLook(env=env, plan=plan, observation=observation)


def frame_spread(observation: EnvObservation) -> float:
    """Standard deviation of the first camera's pixels, 0 to 255."""
    frame = next(iter(observation.images.values()))
    return float(np.asarray(frame, dtype=np.float64).std())


def _does_not_run(environment: str, what: object) -> EnvironmentNotReadyError:
    lines = str(what).splitlines()
    return EnvironmentNotReadyError(
        f"{environment} does not run here: {lines[0] if lines else what}",
        remedy="`pirl doctor` says what this machine lacks",
    )


def resolve_config(
    profile: Profile, *, variant: str | None, overrides: Sequence[str], target: Path
) -> LoadedConfig:
    """Write the gate's resolved config to `target` and load it from there.

    The base config's section of the other variant is replaced by the defaults of `variant`, where one is asked
    for; `overrides` are dotted, as on the command line. Every later step starts its processes with `target`.

    Raises:
        ConfigError: unknown variant, a setting that no gate can run with, or whatever the resolved config breaks.
    """
    if variant not in (None, *VARIANTS):
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
    resolved = _resolve(profile.base_config, variant=variant, overrides=overrides, target=target)
    require_fit(resolved.cfg)
    # Only now: LeRobot costs seconds, and a config that is wrong needs none of it.
    from pirl.config.load import load_config

    return load_config(target)


def resolve_rewarded(profile: str, *, variant: str, target: Path) -> CheckedConfig | None:
    """The config of the profile's second smoke run, written to `target`; None where there is none.

    Raises:
        ConfigError: whatever the resolved config breaks.
    """
    base = REWARDED_CONFIGS.get(profile)
    return base and _resolve(locate(base), variant=variant, overrides=(), target=target)


def _resolve(
    base: Path, *, variant: str | None, overrides: Sequence[str], target: Path
) -> CheckedConfig:
    source = base if variant is None else _of_variant(base, variant, target)
    resolved = check_config(source, overrides)
    write_resolved(resolved.cfg, target)
    return replace(resolved, source_path=target)


def _of_variant(base: Path, variant: str, target: Path) -> Path:
    """`base` where it has this variant; else its text with the variant's defaults, written to `target`."""
    raw = read_config(base)
    pirl: Any = raw.get("pirl")
    if not isinstance(pirl, dict) or pirl.get("variant") == variant:
        return base
    for other in VARIANTS:
        pirl.pop(other.replace("-", "_"), None)
    pirl |= {"variant": variant, variant.replace("-", "_"): {}}
    write_text(target, json.dumps(raw))
    return target


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
