"""From a file and overrides to a checked config without LeRobot: `check_config`.

Owns the order of checking: read, override, resolve `policy.path`, check types, check rules, decode with
draccus into `pirl.config.lerobot_fields`, identify. All errors of a file are raised together. Costs no
torch; a process that needs LeRobot's objects calls `pirl.config.load`. Read `pirl.config.schema` and
`pirl.config.rules` next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast, get_type_hints

import draccus
from draccus.utils import DecodingError, DraccusException

from pirl.config.demonstrations import require_demonstrations
from pirl.config.identity import ConfigIdentity, config_hash, config_path_identity
from pirl.config.jsonfile import (
    JsonObject,
    find_config_file,
    read_config,
    silent_errors,
)
from pirl.config.kinds import admit, policy_facts
from pirl.config.lerobot_fields import PiRLTrainConfig
from pirl.config.overrides import apply_overrides, discover_packages, parse_overrides
from pirl.config.policy_path import resolve_policy_path
from pirl.config.recipe import RECIPE
from pirl.config.rules import check_rules, one_per_field
from pirl.config.schema import check_schema
from pirl.config.sections import encode_config
from pirl.config.starting import lerobot_training_fix, supervised_error, supervised_training
from pirl.config.view import WRONG
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.files import write_json
from pirl.secrecy import hide

SECRETS = ("runtime.token",)
"""Never shown in an error and never written by `write_resolved`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedConfig:
    """A valid config of the recipe and where it came from."""

    cfg: PiRLTrainConfig
    """LeRobot's fields without LeRobot; `policy.device` is as the file has it."""
    tree: dict[str, Any]
    """What LeRobot's own classes are decoded from, defaults filled in."""
    identity: ConfigIdentity
    source_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A config file with overrides applied and `policy.path` resolved, not yet checked."""

    source: Path
    name: str
    """As `config_path_identity`."""
    raw: JsonObject
    errors: tuple[FieldError, ...]
    """What is wrong with the text itself."""
    not_ready: EnvironmentNotReadyError | None
    """Why `policy.path` could not be read, when the hub is to blame."""
    has_output_dir: bool
    """Whether the command line names the output folder."""

    @property
    def has_recipe(self) -> bool:
        """Whether anything but null stands in `recipe`."""
        return self.raw.get("recipe") is not None


def check_config(path: str | Path, overrides: Sequence[str] = ()) -> CheckedConfig:
    """The config of `path` with dotted overrides applied; it must say `recipe=pi-rl`.

    Args:
        path: a JSON file, a `pretrained_model/` folder, or a checkpoint folder that holds one.
        overrides: `--section.field=value` or `--section.field value`, as on a command line.

    Raises:
        ConfigError: every error of the file and the overrides together.
        EnvironmentNotReadyError: the config is right as far as it goes, but `policy.path` names a
            hub repository that cannot be reached.
        CheckpointError: a file of the starting checkpoint is damaged.
    """
    checked = check_draft(read_draft(path, overrides))
    require_demonstrations(checked.cfg, source=checked.identity.path)
    return checked


def read_draft(path: str | Path, overrides: Sequence[str] = ()) -> Draft:
    """The file's own text, overrides and `policy.path` included.

    Raises:
        ConfigError: there is no file, or it holds no JSON object.
    """
    source = find_config_file(path)
    raw = read_config(source)
    parsed, errors = parse_overrides(discover_packages(overrides))
    apply_overrides(raw, parsed)
    errors.extend(silent_errors(raw))
    not_ready = _resolve_policy(raw, errors)
    admit(raw)
    return Draft(
        source=source,
        name=config_path_identity(source),
        raw=raw,
        errors=tuple(errors),
        not_ready=not_ready,
        has_output_dir=any(override.field == "output_dir" for override in parsed),
    )


def check_draft(draft: Draft) -> CheckedConfig:
    """The rest of `check_config`."""
    if not draft.has_recipe:
        errors = [*draft.errors, *check_rules(draft.raw), no_recipe(draft)]
        raise ConfigError(one_per_field(errors), source=draft.name)
    tree = checked_tree(PiRLTrainConfig, draft)
    cfg = decode(PiRLTrainConfig, tree, draft.name)
    hide(cfg.runtime.token)
    _check_start(cfg, draft.name)
    if cfg.resume:
        cfg.checkpoint_path = draft.source.parent.parent
        given = cfg.output_dir if draft.has_output_dir else None
        cfg.output_dir = resumed_output_dir(draft.source, given=given, name=draft.name)
    identity = ConfigIdentity(path=draft.name, hash=config_hash(cfg))
    return CheckedConfig(cfg=cfg, tree=tree, identity=identity, source_path=draft.source)


def checked_tree(declared: type, draft: Draft) -> dict[str, Any]:
    """The values of a draft after every check of types and rules, ready to be decoded.

    Args:
        declared: the dataclass whose fields the values must fit.

    Raises:
        ConfigError, EnvironmentNotReadyError: as `check_config`.
    """
    tree, types = check_schema(declared, draft.raw, fill_defaults=draft.has_recipe)
    rules = check_rules(tree)
    errors = _merge([*draft.errors, *rules, *types, *_check_resume(tree, draft.source)])
    if errors:
        raise ConfigError(errors, source=draft.name)
    if draft.not_ready is not None:
        raise draft.not_ready
    return tree


def decode[T](declared: type[T], tree: Mapping[str, Any], source: str) -> T:
    """The object that `tree` describes.

    Raises:
        ConfigError: a class refuses its arguments; the error names the section.
    """
    try:
        return draccus.decode(declared, tree)
    except DraccusException as error:
        _refuse_decoding(declared, tree, error, source)


def write_resolved(cfg: Any, path: str | Path) -> Path:
    """Write the resolved config, canonical and without secrets; loading it gives the same hash.

    A run whose `runtime.host` is not loopback needs its token again when the file is loaded.

    Args:
        cfg: `PiRLTrainConfig` of `pirl.config.train` or of `pirl.config.lerobot_fields`.

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


def _merge(errors: Sequence[FieldError]) -> list[FieldError]:
    """One error per field, the first: a rule knows more than a type. A secret is never shown."""
    return [
        dataclasses.replace(error, value="(hidden)") if error.field in SECRETS else error
        for error in one_per_field(errors)
    ]


def no_recipe(draft: Draft) -> FieldError:
    """What a config without the recipe is, and what to do with it."""
    beside, supervised = lerobot_training_fix(draft.source), supervised_training(draft.raw)
    if supervised is not None:
        error = supervised_error(supervised, draft.source)
        return error if beside is None else dataclasses.replace(error, fix=beside)
    what = "without it the config is LeRobot's own"
    fix = f"add recipe={RECIPE}, or run LeRobot's own commands"
    return FieldError(field="recipe", value=None, expected=f"{RECIPE!r}: {what}", fix=beside or fix)


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


def _refuse_decoding(
    declared: type, tree: Mapping[str, Any], error: DraccusException, source: str
) -> NoReturn:
    """draccus names the field of a decoding error, but not of a class that refused its
    arguments.
    """
    field = ".".join(error.key_path) if isinstance(error, DecodingError) else ""
    if not field:
        field = _failing_section(declared, tree) or "config"
    reason = str(error.__cause__ or error).strip()
    expected = reason.splitlines()[0] if reason else "a value that LeRobot accepts"
    wrong = FieldError(
        field=field,
        value=tree.get(field),
        expected=expected,
        fix=f"change {field} so that it holds",
    )
    raise ConfigError([wrong], source=source) from error


def _failing_section(declared: type, tree: Mapping[str, Any]) -> str | None:
    hints = get_type_hints(declared)
    for name, value in tree.items():
        try:
            draccus.decode(hints[name], value)
        except DraccusException:
            return name
    return None


def _check_start(cfg: PiRLTrainConfig, source: str) -> None:
    """What the decoded policy config and the starting checkpoint's own files say against each other."""
    if cfg.policy is None:
        return
    errors = policy_facts(cfg.policy.type).start_errors(cfg.policy)
    if errors:
        raise ConfigError(one_per_field(errors), source=source)
