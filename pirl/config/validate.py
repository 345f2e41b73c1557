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
from pirl.config.overrides import split_argv
from pirl.config.routing import split_config_path
from pirl.config.rules import rule_outcomes
from pirl.errors import ConfigError, EnvironmentNotReadyError, ExitCode, FieldError


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code.

    Raises:
        ConfigError: without `--json`, every error of the config.
        EnvironmentNotReadyError: without `--json`, the hub cannot be reached.
    """
    line = split_argv(argv, flags=("--json", "--help", "-h"))
    if line.flags & {"--help", "-h"}:
        validate_parser().print_help(sys.stdout)
        return int(ExitCode.OK)
    try:
        config_path, overrides = split_config_path([t for t in argv if t != "--json"])
        answer, text = _valid(config_path, overrides)
        code = ExitCode.OK
    except ConfigError as error:
        if "--json" not in line.flags:
            raise
        text, code = "", error.exit_code
        answer = {"valid": False, "errors": [_error_row(e) for e in error.errors]}
    except EnvironmentNotReadyError as error:
        if "--json" not in line.flags:
            raise
        text, code = "", error.exit_code
        row = {"field": "policy.path", "value": None, "expected": error.what, "fix": error.remedy}
        answer = {"valid": False, "errors": [row]}
    shown = json.dumps(answer, indent=2) if "--json" in line.flags else text
    sys.stdout.write(shown + "\n")
    return int(code)


def _valid(config_path: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    # Only now: neither the usage text nor a missing argument needs the tables.
    from pirl.config.check import check_draft, read_draft
    from pirl.config.preflight import preflight_summary
    from pirl.config.sections import encode_config
    from pirl.config.starting import read_start, start_table

    draft = read_draft(config_path, overrides)
    if draft.has_recipe:
        valid = check_draft(draft)
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
        "start": start_table(policy, read_start(policy)) if recipe and policy else None,
        "rules": [{"rule": o.rule, "meaning": o.meaning, "held": not o.errors} for o in outcomes],
    }
    return answer, text


def _error_row(error: FieldError) -> dict[str, Any]:
    value = error.value
    plain = value is None or isinstance(value, (bool, int, float, str))
    return {
        "field": error.field,
        "value": value if plain else repr(value),
        "expected": error.expected,
        "fix": error.fix,
    }
