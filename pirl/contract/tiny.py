"""The former place of `pirl.policies.xvla.tiny`, for scripts from before. It goes with version 0.3."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("pirl.policies.xvla.tiny"), name)
