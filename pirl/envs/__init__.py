"""Simulators behind one vector interface: MetaWorld and LIBERO, rendered at chunk boundaries.

Imports neither torch nor a simulator, because a worker process starts here; and not even NumPy before a name
is used, because a config is judged here too. Read `pirl.envs.base` next, and `pirl.envs.kinds` for an
environment of one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pirl.envs.base import ChunkResult, EnvInfo, EnvObservation, VectorEnv
    from pirl.envs.build import describe_env, make_vector_env
    from pirl.envs.split import StateSplit, load_split

__all__ = [
    "ChunkResult",
    "EnvInfo",
    "EnvObservation",
    "StateSplit",
    "VectorEnv",
    "describe_env",
    "load_split",
    "make_vector_env",
]

_HOMES = {
    "ChunkResult": "base",
    "EnvInfo": "base",
    "EnvObservation": "base",
    "VectorEnv": "base",
    "describe_env": "build",
    "make_vector_env": "build",
    "StateSplit": "split",
    "load_split": "split",
}


def __getattr__(name: str) -> Any:
    """One of `__all__`, from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
