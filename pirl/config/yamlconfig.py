"""A train config in YAML, read as strictly as one in JSON: the same values, and comments besides.

Owns what a plain scalar means: what JSON reads as null, a truth value or a number is that, all else is text.
YAML's own rules would make text of `1e-6`, a truth value of `no` and a date of `2026-01-01`, and would keep
the last of two equal keys in silence. Read `pirl.config.jsonfile` next.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from pirl.config.jsonfile import JsonObject, NotFinite
from pirl.config.yamlfile import compose_yaml

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_NOT_FINITE = re.compile(r"[+-]?\.(inf|nan)|NaN|-?Infinity", re.IGNORECASE)
_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ["null", "bool", "int", "float", "str", "timestamp", "value", "merge", "map", "seq"]
)


def parse_yaml_config(text: str) -> Any:
    """The value in `text`; objects are `JsonObject`, numbers beyond float64 `NotFinite`.

    Raises:
        ValueError: not YAML, too deep, a bomb of aliases, a tag, or a key that is no text.
    """
    node = compose_yaml(text)
    return None if node is None else _value(node)


def _value(node: yaml.Node) -> Any:
    line = node.start_mark.line + 1
    if node.tag not in _PLAIN_TAGS:
        raise ValueError(f"line {line}: the tag {node.tag!r}; a config holds plain values only")
    if isinstance(node, yaml.MappingNode):
        return _object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child) for child in node.value]
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return _scalar(node.value) if is_plain else node.value


def _object(node: yaml.MappingNode) -> JsonObject:
    found = JsonObject()
    twice: dict[str, None] = {}
    for key, child in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {key.start_mark.line + 1}: a key that is no text")
        name = str(key.value)
        if name in found:
            twice[name] = None
        found[name] = _value(child)
    found.duplicates = tuple(twice)
    return found


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return NotFinite(text) if _NOT_FINITE.fullmatch(text) else text
    if number[2] is None and number[3] is None:
        return int(text)
    value = float(text)
    return value if math.isfinite(value) else NotFinite(text)
