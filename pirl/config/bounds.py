"""What a single field may hold, said at its declaration: `gamma: float = bounded(0.99, Range(0, 1))`.

Owns the three kinds of bound and how one is found at a field. Checks, help texts and the JSON Schema read
these and nothing else. Refuses to know any field. Read `pirl.config.recipe`, then `pirl.config.rules_fields`.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of a number, or of each item of a list; `low_open` and `high_open` leave its ends out."""

    low: float
    high: float = math.inf
    unit: str = ""
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside and is finite."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{self.low:g} {'<' if self.low_open else '<='} value"
        high = "" if self.high == math.inf else f" {'<' if self.high_open else '<='} {self.high:g}"
        return low + high + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True, slots=True)
class Words:
    """The words that a text, or each item of a list, may be."""

    words: tuple[str, ...]
    has_rule: bool = False
    """Whether a rule refuses the others, because it can say more about them."""

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True, slots=True)
class FilledPath:
    """A path, or null: an empty text comes from an unset variable of a shell."""

    def __str__(self) -> str:
        return ""


type Bound = Range | Words | FilledPath


_BOUND = "bound"
"""Key of a field's metadata. Not `Annotated`: draccus cannot encode a list that is annotated."""


def bounded[T](default: T, bound: Bound) -> T:
    """The default of a dataclass field that has a bound."""
    return field(default=default, metadata={_BOUND: bound})


def bound_at(declared: Field[Any]) -> Bound | None:
    """The bound that a field was declared with, if any."""
    return declared.metadata.get(_BOUND)
