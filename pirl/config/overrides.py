"""Dotted overrides from a command line: `--pirl.gamma=0.95` or `--pirl.gamma 0.95`.

Owns their syntax and how they are laid over the file. What a text means depends on the field's
type, so it stays an `OverrideText` until `pirl.config.schema` knows the type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pirl import doors
from pirl.config.jsonfile import JsonObject, parse_json_value
from pirl.errors import FieldError

KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w/-]+)*")


class OverrideText(str):
    """The text of an override whose type is not known yet."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One override: a dotted field name and what it is set to."""

    field: str
    value: Any
    """`OverrideText`, None, or a parsed JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A command line taken apart: LeRobot's `--config_path`, and the rest."""

    config_path: str | None
    overrides: tuple[str, ...]


def split_argv(argv: Sequence[str]) -> CommandLine:
    """Take `--config_path` (both spellings) out, for who may pass the rest on unread."""
    config_path: str | None = None
    rest: list[str] = []
    index = 0
    while index < len(argv):
        token = argv[index]
        if token.startswith("--config_path="):
            config_path = token.partition("=")[2]
        elif token == "--config_path" and index + 1 < len(argv):
            index += 1
            config_path = argv[index]
        else:
            rest.append(token)
        index += 1
    return CommandLine(config_path=config_path, overrides=tuple(rest))


def discover_packages(tokens: Sequence[str]) -> list[str]:
    """Import what LeRobot's `--policy.discover_packages_path=PACKAGE` and its like name; the rest is left.

    Raises:
        ConfigError: a package cannot be imported.
    """
    rest: list[str] = []
    index = 0
    while index < len(tokens):
        name, equals, package = tokens[index].partition("=")
        if not name.startswith("--") or not name.endswith(doors.DISCOVER):
            rest.append(tokens[index])
        elif equals:
            doors.discover(package)
        elif index + 1 < len(tokens):
            index += 1
            doors.discover(tokens[index])
        index += 1
    return rest


def parse_overrides(tokens: Sequence[str]) -> tuple[list[Override], list[FieldError]]:
    """The overrides in `tokens`, and what is wrong with the others."""
    parsed: list[Override] = []
    errors: list[FieldError] = []
    index = 0
    while index < len(tokens):
        name, equals, text = tokens[index].removeprefix("--").partition("=")
        if not tokens[index].startswith("--") or not KEY.fullmatch(name):
            errors.append(_syntax(tokens[index], "--section.field=value"))
            index += 1
            continue
        if not equals:
            index += 1
            if index == len(tokens) or tokens[index].startswith("--"):
                errors.append(_syntax(f"--{name}", f"a value: --{name}=VALUE"))
                continue
            text = tokens[index]
        index += 1
        if any(other.field == name for other in parsed):
            errors.append(_syntax(f"--{name}", "each override once"))
            continue
        try:
            parsed.append(Override(field=name, value=_value(text)))
        except ValueError as error:
            errors.append(_syntax(text, f"a JSON object for --{name} ({error})"))
    return parsed, errors


def apply_overrides(raw: JsonObject, overrides: Sequence[Override]) -> None:
    """Lay `overrides` over `raw`, in order; missing or null sections on the way become objects."""
    for override in overrides:
        *sections, leaf = override.field.split(".")
        node: dict[str, Any] = raw
        for section in sections:
            child = node.get(section)
            if not isinstance(child, dict):
                child = JsonObject()
                node[section] = child
            node = cast("dict[str, Any]", child)
        node[leaf] = override.value


def _value(text: str) -> Any:
    if text == "null":
        return None
    if text.lstrip().startswith("{"):
        return parse_json_value(text)
    return OverrideText(text)


def _syntax(value: str, expected: str) -> FieldError:
    return FieldError(
        field="command line",
        value=value,
        expected=expected,
        fix="write overrides as --section.field=value, for example --pirl.gamma=0.95",
    )
