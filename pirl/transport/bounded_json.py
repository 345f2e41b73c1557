"""JSON from a peer: size, depth and number of containers are known before anything is parsed.

Owns the bounds. Refuses to know what the text means. Read `pirl.transport.messages` next.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
"""Text as a whole, so that brackets in it do not count. Possessive and with an optional end: linear."""


def parse_json(
    raw: bytes | bytearray, *, max_bytes: int, max_depth: int, max_containers: int
) -> object:
    """The value in `raw`; no NaN, no infinity.

    Raises:
        ValueError: not UTF-8, not JSON, or beyond a bound; says which.
    """
    if len(raw) > max_bytes:
        raise ValueError(f"{len(raw)} bytes of JSON, at most {max_bytes} may be")
    text = raw.decode()
    depth = deepest = containers = 0
    for match in _STRUCTURE.finditer(text):
        first = match[0][0]
        if first in "[{":
            depth, containers = depth + 1, containers + 1
            deepest = max(deepest, depth)
        elif first in "]}":
            depth -= 1
        if deepest > max_depth or containers > max_containers:
            raise ValueError(
                f"JSON is nested deeper than {max_depth} or has more than {max_containers} "
                "objects and lists"
            )
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
