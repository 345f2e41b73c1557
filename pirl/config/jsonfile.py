"""A config file, JSON or YAML, read without mercy: what parsers let pass in silence is an error here.

Owns finding the file, its size, depth, duplicate keys and numbers that are not finite. Refuses to
know what any key means. Read `pirl.config.yamlconfig` and `pirl.config.overrides` next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

from pirl.config.strictjson import read_bytes
from pirl.errors import ConfigError, FieldError
from pirl.resources import locate

TRAIN_CONFIG_NAME = "train_config.json"
"""LeRobot's name of the config inside `pretrained_model/`."""

_COMPLETE = "manifest.json"
"""Written last into a checkpoint (`pirl.checkpoint.manifest`)."""

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
"""Nesting of objects and lists; LeRobot's deepest config has 7."""


@dataclass(frozen=True, slots=True)
class NotFinite:
    """Stands for `NaN`, `Infinity`, `-Infinity` or a number beyond float64 in a JSON text."""

    text: str

    def __repr__(self) -> str:
        return self.text


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which keys its text gave twice."""

    duplicates: tuple[str, ...] = ()


def find_config_file(path: str | Path) -> Path:
    """The config file behind `path`: the file itself, or `train_config.json` of a checkpoint
    folder.

    Raises:
        ConfigError: nothing is there.
    """
    if str(path) == "" or "\0" in str(path):
        _refuse(path, "the path of a config file", "pass --config_path FILE")
    given = follow_last(locate(path))
    if given.is_dir():
        for candidate in (
            given / TRAIN_CONFIG_NAME,
            given / "pretrained_model" / TRAIN_CONFIG_NAME,
        ):
            if candidate.is_file():
                return candidate
        _refuse(
            str(path),
            f"a JSON or YAML file, or a folder that holds {TRAIN_CONFIG_NAME}",
            "pass the file, or the pretrained_model folder of a checkpoint",
        )
    if not given.exists():
        _refuse(
            str(path), "an existing config file", "check the path; it is relative to where you are"
        )
    return given


def follow_last(path: Path) -> Path:
    """`path` with `checkpoints/last` replaced by the newest complete step, where there is no such link.

    Copies lose the link, and file systems without symbolic links never have one.
    """
    parts = path.parts
    places = [i for i, pair in enumerate(pairwise(parts)) if pair == ("checkpoints", "last")]
    if not places or path.exists():
        return path
    checkpoints = Path(*parts[: places[-1] + 1])
    if (checkpoints / "last").exists() or not checkpoints.is_dir():
        return path
    steps = [p for p in checkpoints.iterdir() if p.name.isdecimal() and (p / _COMPLETE).is_file()]
    if not steps:
        return path
    return max(steps, key=lambda p: int(p.name)).joinpath(*parts[places[-1] + 2 :])


def read_config(file: Path) -> JsonObject:
    """The object in `file`, with `NotFinite` and `JsonObject.duplicates` in place of silence.

    Raises:
        ConfigError: unreadable, too large, not UTF-8, not JSON, not an object, or nested too
        deeply.
    """
    try:
        text = read_bytes(file, max_bytes=MAX_BYTES).decode("utf-8")
    except OSError as error:
        _refuse(str(file), "a readable file", f"{error.strerror}: check its kind and permissions")
    except UnicodeDecodeError as error:
        _refuse(str(file), "UTF-8 text", f"save the file as UTF-8 ({error.reason})")
    except ValueError as error:
        _refuse(
            str(file), f"a regular file of at most {MAX_BYTES} bytes", f"{error}; check the path"
        )
    if not text.strip():
        _refuse(str(file), "a config", "the file is empty; start from a file in configs/")
    value = _parse_yaml(text, str(file)) if _is_yaml(file) else _parse(text, str(file))
    if not isinstance(value, JsonObject):
        fix = "give it the sections of a config" if _is_yaml(file) else "wrap them in braces"
        _refuse(str(file), "an object of settings at the top", fix)
    return value


def parse_json_value(text: str) -> Any:
    """A JSON value given on the command line.

    Raises:
        ValueError: `text` is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=NotFinite,
            parse_float=_number,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _too_deep(value):
        raise ValueError("nested too deeply")
    return value


def silent_errors(value: Any, path: str = "") -> Iterator[FieldError]:
    """Duplicate keys and numbers that are not finite, anywhere below `value`."""
    if isinstance(value, NotFinite):
        yield FieldError(
            field=path,
            value=value,
            expected="a finite number",
            fix=f"write {path} as a plain number that float64 can hold",
        )
    elif isinstance(value, dict):
        for key in getattr(value, "duplicates", ()):
            name = join(path, key)
            yield FieldError(
                field=name,
                value=value[key],
                expected="each key once",
                fix=f"the file gives {name} more than once; keep one",
            )
        for key, item in cast("dict[str, Any]", value).items():
            yield from silent_errors(item, join(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from silent_errors(item, join(path, str(index)))


def join(path: str, key: str) -> str:
    """The dotted name of `key` below `path`; an empty key is shown as `""`."""
    shown = key or '""'
    return f"{path}.{shown}" if path else shown


def _parse(text: str, source: str) -> Any:
    try:
        return parse_json_value(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        _refuse(source, "JSON", f"mend {where}")
    except ValueError as error:
        _refuse(source, f"JSON, nested at most {MAX_DEPTH} deep", f"mend the file: {error}")


def _is_yaml(file: Path) -> bool:
    return file.suffix in (".yaml", ".yml")


def _parse_yaml(text: str, source: str) -> Any:
    # Only now: most configs are JSON.
    from pirl.config.yamlconfig import parse_yaml_config

    try:
        return parse_yaml_config(text)
    except ValueError as error:
        _refuse(source, "YAML of plain values", f"mend the file: {error}")


def _object(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
    result = JsonObject(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice: dict[str, None] = {}
        for key, _ in pairs:
            if key in seen:
                twice[key] = None
            seen.add(key)
        result.duplicates = tuple(twice)
    return result


def _number(text: str) -> float | NotFinite:
    value = float(text)
    return value if math.isfinite(value) else NotFinite(text)


def _too_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (
                cast("dict[str, Any]", node).values()
                if isinstance(node, dict)
                else cast("list[Any]", node)
            )
        ]
        if not level:
            return False
    return True


def _refuse(value: object, expected: str, fix: str) -> NoReturn:
    raise ConfigError([FieldError(field="config_path", value=value, expected=expected, fix=fix)])
