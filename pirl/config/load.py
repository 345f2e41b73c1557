"""From a file and overrides to a valid config: `load_config`.

Owns the order of loading: read, override, resolve `policy.path`, check types, check rules, decode
with draccus, identify. All errors of a file are raised together. One of the doors to LeRobot
(importing it imports torch). Read `pirl.config.schema` and `pirl.config.rules` next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast, get_type_hints

import draccus
from draccus.utils import DecodingError, DraccusException

from pirl.config.identity import ConfigIdentity, config_hash, config_path_identity
from pirl.config.jsonfile import (
    JsonObject,
    find_config_file,
    read_json_object,
    silent_errors,
)
from pirl.config.overrides import apply_overrides, parse_overrides
from pirl.config.policy_path import resolve_policy_path
from pirl.config.rules import check_rules, one_per_field
from pirl.config.schema import check_schema
from pirl.config.train import PiRLTrainConfig, encode_config
from pirl.config.view import WRONG
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.files import write_json
from pirl.secrecy import hide

SECRETS = ("runtime.token",)
"""Never shown in an error and never written by `write_resolved`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A valid config and where it came from."""

    cfg: PiRLTrainConfig
    identity: ConfigIdentity
    source_path: Path


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config of `path` with dotted overrides applied.

    Args:
        path: a JSON file, a `pretrained_model/` folder, or a checkpoint folder that holds one.
        overrides: `--section.field=value` or `--section.field value`, as on a command line.

    Raises:
        ConfigError: every error of the file and the overrides together.
        EnvironmentNotReadyError: the config is right as far as it goes, but `policy.path` names a
        hub
            repository that cannot be reached.
    """
    source = find_config_file(path)
    name = config_path_identity(source)
    raw = read_json_object(source)
    parsed, errors = parse_overrides(overrides)
    apply_overrides(raw, parsed)
    errors.extend(silent_errors(raw))
    not_ready = _resolve_policy(raw, errors)
    has_recipe = raw.get("recipe") is not None
    tree, type_errors = check_schema(PiRLTrainConfig, raw, fill_defaults=has_recipe)
    errors = _merge(errors, type_errors, check_rules(tree), _check_resume(tree, source))
    if errors:
        raise ConfigError(errors, source=name)
    if not_ready is not None:
        raise not_ready
    cfg = _decode(tree, name)
    hide(cfg.runtime.token)
    if has_recipe:
        _check_features(cfg, name)
    if cfg.resume and has_recipe:
        cfg.checkpoint_path = source.parent.parent
        given = cfg.output_dir if any(o.field == "output_dir" for o in parsed) else None
        cfg.output_dir = resumed_output_dir(source, given=given, name=name)
    identity = ConfigIdentity(path=name, hash=config_hash(cfg))
    return LoadedConfig(cfg=cfg, identity=identity, source_path=source)


def write_resolved(cfg: PiRLTrainConfig, path: str | Path) -> Path:
    """Write the resolved config, canonical and without secrets; loading it gives the same hash.

    A run whose `runtime.host` is not loopback needs its token again when the file is loaded.

    Returns:
        `path`.
    """
    tree = encode_config(cfg)
    for name in SECRETS:
        section, _, leaf = name.partition(".")
        tree[section][leaf] = None
    return write_json(Path(path), tree)


def _resolve_policy(raw: JsonObject, errors: list[FieldError]) -> EnvironmentNotReadyError | None:
    """Replace `policy.path` by the config it names; what is wrong goes to `errors`."""
    section = raw.get("policy")
    if not isinstance(section, dict) or "path" not in section:
        return None
    # A path that leads nowhere leaves nothing to judge the rest of the section by.
    raw["policy"] = WRONG
    try:
        raw["policy"] = resolve_policy_path(cast("dict[str, Any]", section))
    except ConfigError as error:
        errors.extend(error.errors)
    except EnvironmentNotReadyError as error:
        return error
    return None


def _merge(*groups: Sequence[FieldError]) -> list[FieldError]:
    """All errors, one per field; a rule knows more than a type, and a secret is never shown."""
    errors, types, rules, rest = groups
    merged = one_per_field([*errors, *rules, *types, *rest])
    return [
        dataclasses.replace(error, value="(hidden)") if error.field in SECRETS else error
        for error in merged
    ]


def _check_resume(tree: Mapping[str, Any], source: Path) -> list[FieldError]:
    if tree.get("resume") is not True or tree.get("recipe") is None:
        return []
    if source.absolute().parent.name == "pretrained_model":
        return []
    return [
        FieldError(
            field="resume",
            value=True,
            expected="a config_path inside a checkpoint",
            fix="pass --config_path RUN/checkpoints/last/pretrained_model/train_config.json",
        )
    ]


def resumed_output_dir(source: Path, *, given: Path | None, name: str) -> Path:
    """The run folder that the checkpoint of `source` lies in: a copied run goes on in the copy.

    Args:
        source: `RUN/checkpoints/STEP/pretrained_model/train_config.json`.
        given: `--output_dir`, where the command line has it.

    Raises:
        ConfigError: the command line names another folder, or the checkpoint lies in no run.
    """
    checkpoints = source.absolute().parent.parent.parent
    run = checkpoints.parent
    if checkpoints.name != "checkpoints":
        expected = (
            f"a checkpoint in a run folder, RUN/checkpoints/STEP; this one lies in {checkpoints}"
        )
        fix = "move the step folder to RUN/checkpoints/ and resume from there"
    elif given is not None and given.resolve() != run.resolve():
        expected = f"the run folder that the checkpoint lies in, {run}"
        fix = (
            "remove --output_dir; to go on elsewhere, copy the run folder and resume from the copy"
        )
    else:
        # As it was written down, relative or not; a path inside `checkpoints/last` is the link's.
        return given if given is not None else _shorter(run)
    wrong = FieldError(
        field="output_dir",
        value=None if given is None else str(given),
        expected=expected,
        fix=fix,
    )
    raise ConfigError([wrong], source=name)


def _shorter(path: Path) -> Path:
    """`path` relative to the working directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _decode(tree: Mapping[str, Any], source: str) -> PiRLTrainConfig:
    try:
        return draccus.decode(PiRLTrainConfig, tree)
    except DraccusException as error:
        _refuse_decoding(tree, error, source)


def _refuse_decoding(tree: Mapping[str, Any], error: DraccusException, source: str) -> NoReturn:
    """draccus names the field of a decoding error, but not of a class that refused its
    arguments.
    """
    field = ".".join(error.key_path) if isinstance(error, DecodingError) else ""
    if not field:
        field = _failing_section(tree) or "config"
    reason = str(error.__cause__ or error).strip()
    expected = reason.splitlines()[0] if reason else "a value that LeRobot accepts"
    wrong = FieldError(
        field=field,
        value=tree.get(field),
        expected=expected,
        fix=f"change {field} so that it holds",
    )
    raise ConfigError([wrong], source=source) from error


def _failing_section(tree: Mapping[str, Any]) -> str | None:
    hints = get_type_hints(PiRLTrainConfig)
    for name, value in tree.items():
        try:
            draccus.decode(hints[name], value)
        except DraccusException:
            return name
    return None


def _check_features(cfg: PiRLTrainConfig, source: str) -> None:
    """Ask LeRobot's policy config about its features, on a copy: X-VLA adds its empty cameras
    each time.
    """
    if cfg.policy is None:
        return
    try:
        deepcopy(cfg.policy).validate_features()
    except (ValueError, TypeError) as error:
        wrong = FieldError(
            field="policy.input_features",
            value=sorted(cfg.policy.input_features or {}),
            expected=str(error),
            fix="change policy.input_features so that it holds",
        )
        raise ConfigError([wrong], source=source) from error
