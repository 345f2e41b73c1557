"""Builders of config files for the config tests: start from a valid file, break one thing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pirl.config.load import load_config
from pirl.config.train import encode_config
from pirl.errors import ConfigError, FieldError

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
EMBEDDED = CONFIGS / "train_config_pirl_embedded.json"
FLOW_NOISE = CONFIGS / "train_config_pirl_embedded_flow_noise.json"
LIBERO = CONFIGS / "train_config_pirl_libero_smoke.json"
XVLA_LIBERO = CONFIGS / "train_config_pirl_xvla_libero.json"


def raw(file: Path = EMBEDDED) -> dict[str, Any]:
    """The parsed file, free to change."""
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def _resolved_text(file: Path) -> str:
    return json.dumps(encode_config(load_config(file).cfg))


def resolved(file: Path = EMBEDDED) -> dict[str, Any]:
    """The resolved config as JSON values, free to change."""
    return json.loads(_resolved_text(file))


def with_value(tree: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy of `tree` with the dotted field `name` set; sections on the way are made."""
    changed = deepcopy(tree)
    node = changed
    *sections, leaf = name.split(".")
    for section in sections:
        if not isinstance(node.get(section), dict):
            node[section] = {}
        node = node[section]
    node[leaf] = value
    return changed


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything that is not an object."""
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from leaves(value, name)
        else:
            yield name, value


def write(folder: Path, content: Any, name: str = "config.json") -> Path:
    """A file with `content`: text and bytes as they are, anything else as JSON."""
    file = folder / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_text(text, encoding="utf-8")
    return file


def refused(file: Path, overrides: Sequence[str] = ()) -> dict[str, FieldError]:
    """The errors of a config that must be refused, by field; each one teaches."""
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    errors = caught.value.errors
    assert errors
    for error in errors:
        assert error.field
        assert error.expected
        assert error.fix
    by_field = {error.field: error for error in errors}
    assert len(by_field) == len(errors), "one error per field"
    return by_field
