"""Builders of config files for the config tests: start from a valid file, break one thing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import fields
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pirl.config import validate
from pirl.config.bounds import Bound, Range, bound_at
from pirl.config.load import load_config
from pirl.config.recipe import (
    FlowNoiseConfig,
    FlowSDEConfig,
    LastStepStd,
    ParallelismConfig,
    PiRLConfig,
    RuntimeConfig,
)
from pirl.config.train import encode_config
from pirl.errors import ConfigError, FieldError
from pirl.guard import run_guarded

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
EMBEDDED = CONFIGS / "train_config_pirl_embedded.json"
FLOW_NOISE = CONFIGS / "train_config_pirl_embedded_flow_noise.json"
LIBERO = CONFIGS / "train_config_pirl_libero_smoke.json"
SECTIONS: dict[str, Any] = {
    "pirl": PiRLConfig,
    "pirl.flow_sde": FlowSDEConfig,
    "pirl.flow_noise": FlowNoiseConfig,
    "pirl.last_step_std": LastStepStd,
    "runtime": RuntimeConfig,
    "parallelism": ParallelismConfig,
}
"""The classes of `pirl.config.recipe`, by the section that they are."""
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


def bounds() -> dict[str, tuple[Bound, str]]:
    """Bound and type of every field of pirl's own classes that declares one, by dotted name."""
    found: dict[str, tuple[Bound, str]] = {}
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for field in fields(cls):
            bound = bound_at(field)
            if bound is not None:
                found[f"{section}.{field.name}"] = (bound, str(hints[field.name]))
    return found


def outside(allowed: Range) -> Iterator[tuple[str, float]]:
    """The nearest whole numbers that a range leaves out."""
    yield "below", allowed.low if allowed.low_open else allowed.low - 1
    if allowed.high != math.inf:
        yield "above", allowed.high if allowed.high_open else allowed.high + 1


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
    return _by_field(caught.value)


def refused_by_command(file: Path, overrides: Sequence[str] = ()) -> dict[str, FieldError]:
    """The same through `pirl validate`: it ends with 2 and tells each error, without a traceback."""
    caught: list[ConfigError] = []

    def command(argv: Sequence[str]) -> int:
        try:
            return validate.main(argv)
        except ConfigError as error:
            caught.append(error)
            raise

    with redirect_stderr(StringIO()) as text:
        code = run_guarded(command, [f"--config_path={file}", *overrides])
    said = text.getvalue()
    assert code == 2, said
    assert "Traceback" not in said
    (refusal,) = caught
    assert all(error.field in said for error in refusal.errors)
    assert said.count("expected: ") >= len(refusal.errors) <= said.count("fix: ")
    return _by_field(refusal)


def _by_field(refusal: ConfigError) -> dict[str, FieldError]:
    errors = refusal.errors
    assert errors
    for error in errors:
        assert error.field
        assert error.expected
        assert error.fix
    by_field = {error.field: error for error in errors}
    assert len(by_field) == len(errors), "one error per field"
    return by_field
