"""JSON that programs wrote: bounded, no key twice, no number that is not finite. The door for all but configs.

Owns the bounds. Refuses to name a field: a caller knows what its file is for and words the error. Configs,
which people write, have their own door with all errors at once (`pirl.config.jsonfile`).
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Any: whatever JSON can hold.

    Raises:
        ValueError: not JSON, not UTF-8, a key twice, a number that is not finite, or nested too deeply.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    require_depth(value, MAX_DEPTH)
    return value


def read_json(file: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a file.

    Any: whatever JSON can hold.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`, or no regular file, or larger than `max_bytes`.
    """
    return parse_json(read_bytes(file, max_bytes=max_bytes))


def read_json_object(file: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises as `read_json`, and ValueError for any other value."""
    value = read_json(file, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, not {type(value).__name__}")
    return cast("dict[str, Any]", value)


def read_bytes(file: Path, *, max_bytes: int) -> bytes:
    """The content of a regular file: a pipe or a device would be waited for, or never end.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file, or larger than `max_bytes`.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("not a regular file")
    with file.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return data


def require_depth(value: object, limit: int) -> None:
    """Refuse what code that walks the value could not walk.

    Raises:
        ValueError: objects and lists nested more than `limit` deep.
    """
    level = [value]
    for _ in range(limit):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ValueError(f"nested more than {limit} deep")


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return cast("dict[str, Any]", node).values()
    return cast("list[Any]", node) if isinstance(node, list) else ()


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond a float64")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
