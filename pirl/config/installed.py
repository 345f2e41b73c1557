"""Which config fields the installed LeRobot has that pirl does not know, found without importing it.

Owns the reading of LeRobot's source files. Names fields only; `pirl.config.snapshot` compares the classes
themselves.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pirl.config import lerobot_fields


def lerobot_note() -> str | None:
    """How the installed LeRobot's config differs from the one that pirl checks; None where it does not."""
    if lerobot_folder() is None:
        return "not installed"
    unknown = unknown_fields()
    if not unknown:
        return None
    return (
        f"{_version()} has config fields that pirl, made for {lerobot_fields.LEROBOT_VERSION}, does not"
        f" know: {', '.join(unknown)}"
    )


@cache
def unknown_fields() -> tuple[str, ...]:
    """Fields in LeRobot's files that are not in `lerobot_fields`, as `Class.field`, in order.

    A class that is no longer where it was counts whole, as `Class`.
    """
    root = lerobot_folder()
    if root is None:
        return ()
    found: dict[str, None] = {}
    for name, places in lerobot_fields.SOURCES.items():
        known = set(vars(lerobot_fields)[name].__dataclass_fields__)
        for place in places:
            file, _, declared = place.partition(":")
            names = _declared(root / file).get(declared)
            if names is None:
                found[declared] = None
                continue
            found |= {f"{declared}.{field}": None for field in names if field not in known}
    return tuple(found)


@cache
def _declared(file: Path) -> dict[str, list[str]]:
    """Annotated names of every class of a module, by class; empty when it cannot be read."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return {}
    return {
        node.name: [
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        ]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def lerobot_folder() -> Path | None:
    """The folder that holds the package `lerobot`; None when it is not installed."""
    spec = importlib.util.find_spec("lerobot")
    return Path(spec.origin).parent.parent if spec is not None and spec.origin else None


def _version() -> str:
    try:
        return f"lerobot {version('lerobot')}"
    except PackageNotFoundError:
        return "lerobot"
