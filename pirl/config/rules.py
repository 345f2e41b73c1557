"""Rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pirl.errors import FieldError


def check_rules(tree: Mapping[str, Any]) -> list[FieldError]:
    """Every rule that the tree breaks."""
    return []
