"""YAML read with bounds: size, depth, and what aliases and merges expand to. The one door to a YAML file.

Owns the bounds and the words of a refusal. Refuses tags that make objects, as `yaml.safe_load` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from pirl.config.strictjson import read_bytes
from pirl.errors import ConfigError, FieldError

MAX_BYTES = 256 * 2**10
MAX_DEPTH = 32
MAX_NODES = 100_000
"""Values after every alias is written out: nine lists of nine aliases each, nine deep, are 10^9."""


def read_yaml(file: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a YAML file; None for an empty one.

    Any: whatever YAML can hold.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file, too large, not UTF-8, not YAML, nested too deeply, or a bomb.
    """
    text = read_bytes(file, max_bytes=max_bytes).decode("utf-8")
    node = compose_yaml(text)
    if node is None:
        return None
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def compose_yaml(text: str) -> yaml.Node | None:
    """The tree of a YAML text, not yet built into values; None for an empty one.

    Raises:
        ValueError: not YAML, nested too deeply, or a bomb.
    """
    try:
        node: yaml.Node | None = yaml.SafeLoader(text).get_single_node()
        if node is not None:
            # Before anything is built: merged keys are written out while building.
            _require_bounds(node)
        return node
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_section(file: Path, section: str, *, field: str) -> dict[str, Any]:
    """One section of a YAML file of parameters; empty when the file does not have it.

    Args:
        field: the option that named the file.

    Raises:
        ConfigError: the file cannot be read as what it should be; file and reason are in the message.
    """
    try:
        document = read_yaml(file)
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise _refusal(field, file, reason) from error
    if not isinstance(document, Mapping):
        found = "nothing" if document is None else type(document).__name__
        raise _refusal(field, file, f"it holds {found}, not sections")
    value = cast("Mapping[str, Any]", document).get(section)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refusal(field, file, f"the section `{section}` is {type(value).__name__}, not keys")
    return dict(cast("Mapping[str, Any]", value))


def _refusal(field: str, file: Path, reason: str) -> ConfigError:
    wrong = FieldError(
        field=field,
        value=str(file),
        expected=f"a YAML file of parameters ({reason})",
        fix=f"restore it (git checkout {file.name}), or run from the repository root",
    )
    return ConfigError([wrong], source=file.name)


def _require_bounds(root: yaml.Node) -> None:
    """Refuse a tree that is too deep, contains itself, or grows too large when its aliases are written out."""
    sizes: dict[int, int] = {}
    _size(root, sizes, depth=0)
    if sizes[id(root)] > MAX_NODES:
        raise ValueError(f"more than {MAX_NODES} values once its aliases are written out")


def _size(node: yaml.Node, sizes: dict[int, int], *, depth: int) -> int:
    """Values below `node`, aliases counted as often as they appear."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep, or an alias of itself")
    if id(node) not in sizes:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = list(node.value)
        sizes[id(node)] = 1 + sum(_size(child, sizes, depth=depth + 1) for child in children)
    return sizes[id(node)]
