"""Frozen dataclasses as JSON and back, strict in both directions.

Owns the one layout of a bundle's JSON. What a record may hold is its class and nothing else: an unknown, missing
or repeated key, another type, a number that is not finite is refused with the place where it stands. An integer is
neither true nor a float. Read `pirl.audit.records` next.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from pirl.config.strictjson import parse_json
from pirl.errors import EvidenceError

_SCALARS = (bool, int, float, str, type(None))


def dump_json(value: Any) -> str:
    """The layout of a file with one object: sorted keys, one line per entry, no NaN."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def dump_line(value: Any) -> str:
    """The layout of one line of a file with many objects."""
    return json.dumps(value, sort_keys=True, allow_nan=False) + "\n"


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON values.

    Any: an instance of a frozen dataclass.

    Raises:
        EvidenceError: a value is not what its field says; nothing is converted but an int of a float field.
    """
    return _convert(type(record), record, type(record).__name__, _encode)


def from_json[T](kind: type[T], value: object, *, where: str) -> T:
    """The record of class `kind` that `to_json` gave.

    Args:
        where: what an error calls the value.

    Raises:
        EvidenceError: with the path of the first field that is not what the class says.
    """
    return _convert(kind, value, where, _decode)


def parse_object(text: str, *, where: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        EvidenceError: no JSON, a key twice, a number that is not finite, or no object.
    """
    try:
        value = parse_json(text)
    except ValueError as error:
        raise EvidenceError(f"{where}: {error}") from error
    if not isinstance(value, dict):
        raise EvidenceError(f"{where}: a JSON object is expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


@cache
def hints(kind: type) -> dict[str, Any]:
    """Type of every field of a record class."""
    found = get_type_hints(kind)
    return {field.name: found[field.name] for field in fields(kind)}


def _convert(kind: Any, value: Any, where: str, leaf: Any) -> Any:
    """`value` in the other form; the walk is one for both directions, `leaf` handles what differs."""
    if kind in _SCALARS:
        return _scalar(kind, value, where, widen=leaf is _encode)
    if is_dataclass(kind):
        return leaf(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, where, leaf)
    if origin is tuple:
        return _sequence(arguments[0], value, where, leaf)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise EvidenceError(f"{where}: an object is expected, not {_name(value)}")
        items = cast("Mapping[Any, Any]", value).items()
        return {
            _scalar(str, k, where): _convert(arguments[1], v, f"{where}.{k}", leaf)
            for k, v in items
        }
    return _scalar(kind, value, where, widen=leaf is _encode)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str, leaf: Any) -> Any:
    if type(value) in kinds and type(value) in _SCALARS:
        return _scalar(type(value), value, where)
    named = [kind for kind in kinds if kind is not type(None)]
    records = [kind for kind in named if kind not in _SCALARS]
    if not records and len(named) > 1:
        raise EvidenceError(
            f"{where}: {value!r} is {_name(value)}, and no such type may stand there"
        )
    return _convert((records or named)[0], value, where, leaf)


def _sequence(kind: Any, value: Any, where: str, leaf: Any) -> Any:
    wanted = tuple if leaf is _encode else list
    if not isinstance(value, wanted):
        raise EvidenceError(f"{where}: a list is expected, not {_name(value)}")
    items = [_convert(kind, v, f"{where}[{i}]", leaf) for i, v in enumerate(cast("Any", value))]
    return items if leaf is _encode else tuple(items)


def _scalar(kind: Any, value: Any, where: str, *, widen: bool = False) -> Any:
    if widen and kind is float and type(value) is int:
        value = float(value)
    if kind not in _SCALARS or type(value) is not kind:
        raise EvidenceError(f"{where}: {value!r} is {_name(value)}, not {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise EvidenceError(f"{where}: {value!r} is not a finite number")
    return value


def _encode(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if type(value) is not kind:
        raise EvidenceError(f"{where}: {_name(value)} where {kind.__name__} is expected")
    return {
        name: _convert(hint, getattr(value, name), f"{where}.{name}", _encode)
        for name, hint in hints(kind).items()
    }


def _decode(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise EvidenceError(f"{where}: an object is expected, not {_name(value)}")
    given, wanted = cast("Mapping[str, Any]", value), hints(kind)
    for name in sorted(given.keys() - wanted.keys()):
        raise EvidenceError(f"{where}: unknown field {name!r}")
    for name in sorted(wanted.keys() - given.keys()):
        raise EvidenceError(f"{where}: field {name!r} is missing")
    return kind(
        **{n: _convert(hint, given[n], f"{where}.{n}", _decode) for n, hint in wanted.items()}
    )


def _name(value: object) -> str:
    return type(value).__name__
