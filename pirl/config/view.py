"""Typed reading of a checked config tree, so that a rule never trips over a value already refused.

Owns the two markers and `View`. A rule asks for what it needs with the type it needs; None means
"not there, or already reported", and the rule passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast


class _Marker:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


ABSENT = _Marker("absent")
"""The value of a field that is not there."""

WRONG = _Marker("wrong")
"""Stands where a value was refused."""


@dataclass(frozen=True, slots=True)
class View:
    """A config tree, read by dotted name."""

    tree: Mapping[str, Any]

    def get(self, name: str) -> Any:
        """The value, `ABSENT` when a part of the way is missing or null, `WRONG` when refused."""
        node: Any = self.tree
        for part in name.split("."):
            if node is WRONG:
                return WRONG
            if not isinstance(node, Mapping) or part not in node:
                return ABSENT
            node = cast("Mapping[str, Any]", node)[part]
        return node

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null."""
        return self.get(name) is None

    def number(self, name: str) -> float | None:
        """An integer or a float, as it is."""
        value = self.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def integer(self, name: str) -> int | None:
        """An integer."""
        value = self.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, name: str) -> str | None:
        """A text."""
        value = self.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool | None:
        """True or false."""
        value = self.get(name)
        return value if isinstance(value, bool) else None

    def section(self, name: str) -> Mapping[str, Any] | None:
        """An object."""
        value = self.get(name)
        return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None

    def items(self, name: str) -> list[Any] | None:
        """A list."""
        value = self.get(name)
        return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else None

    def integers(self, name: str) -> list[int] | None:
        """A list of integers."""
        items = self.items(name)
        if items is None or not all(isinstance(i, int) and not isinstance(i, bool) for i in items):
            return None
        return items

    def numbers(self, name: str) -> list[float] | None:
        """A list of numbers."""
        items = self.items(name)
        if items is None:
            return None
        good = all(isinstance(i, (int, float)) and not isinstance(i, bool) for i in items)
        return items if good else None
