"""`pirl validate --config_path F [--json] [--section.field=value ...]`: is this config right?

Owns the command and its JSON shape. A valid config prints its preflight summary on stdout and
ends with 0; an invalid one prints every error on stderr (with `--json`: on stdout, as JSON) and
ends with 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pirl.config.arguments import validate_parser
from pirl.config.command_line import parse
from pirl.config.rules import rule_outcomes
from pirl.errors import (
    ConfigError,
    EnvironmentNotReadyError,
    ExitCode,
    FieldError,
    UsageError,
)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code.

    Raises:
        UsageError, ConfigError: without `--json`, what is wrong with command line or config.
        EnvironmentNotReadyError: without `--json`, the hub cannot be reached.
    """
    as_json = "--json" in argv
    try:
        args, overrides = parse(validate_parser(), argv)
        answer, text = _valid(args.config_path, overrides)
        code = ExitCode.OK
    except (UsageError, ConfigError, EnvironmentNotReadyError) as error:
        if not as_json:
            raise
        text, code = "", error.exit_code
        answer = {"valid": False, "errors": _error_rows(error)}
    sys.stdout.write((json.dumps(answer, indent=2) if as_json else text) + "\n")
    return int(code)


def _valid(config_path: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    # Only now: neither the usage text nor a missing argument needs the tables.
    from pirl.config.check import check_draft, no_recipe, read_draft
    from pirl.config.demonstrations import require_demonstrations
    from pirl.config.kinds import policy_facts
    from pirl.config.preflight import preflight_summary
    from pirl.config.sections import encode_config
    from pirl.config.starting import supervised_training

    draft = read_draft(config_path, overrides)
    if draft.has_recipe:
        valid = check_draft(draft)
        require_demonstrations(valid.cfg, source=valid.identity.path)
    elif supervised_training(draft.raw) is not None:
        raise ConfigError([no_recipe(draft)], source=draft.name)
    else:
        # LeRobot's own config is LeRobot's to judge.
        from pirl.config.load import load_config

        valid = load_config(config_path, overrides)
    policy: Any = valid.cfg.policy
    recipe, text = valid.cfg.recipe, preflight_summary(valid)
    outcomes = rule_outcomes(encode_config(valid.cfg)) if recipe else []
    answer = {
        "valid": True,
        "errors": [],
        "recipe": recipe,
        "variant": valid.cfg.pirl.variant,
        "config_path": valid.identity.path,
        "config_hash": valid.identity.hash,
        "summary": text.splitlines(),
        "start": policy_facts(policy.type).start_table(policy) if recipe and policy else None,
        "rules": [{"rule": o.rule, "meaning": o.meaning, "held": not o.errors} for o in outcomes],
    }
    return answer, text


def _error_rows(
    error: UsageError | ConfigError | EnvironmentNotReadyError,
) -> list[dict[str, Any]]:
    if isinstance(error, UsageError):
        fix = "`pirl validate --help` lists the options"
        return [{"field": "command line", "value": None, "expected": str(error), "fix": fix}]
    if isinstance(error, EnvironmentNotReadyError):
        return [
            {"field": "policy.path", "value": None, "expected": error.what, "fix": error.remedy}
        ]
    return [_error_row(one) for one in error.errors]


def _error_row(error: FieldError) -> dict[str, Any]:
    value = error.value
    plain = value is None or isinstance(value, (bool, int, float, str))
    return {
        "field": error.field,
        "value": value if plain else repr(value),
        "expected": error.expected,
        "fix": error.fix,
    }
