"""piRL for LeRobot's X-VLA, with an auditable phase-2 gate.

The names below are what a notebook or a loop of one's own needs; each is imported when it is first used, so
that `import pirl`, and with it every help text, costs nothing. `examples/collect_and_update.py` uses them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pirl.config.load import load_config
    from pirl.envs import load_split, make_vector_env
    from pirl.evaluation.checkpoint import Protocol, evaluate_checkpoint
    from pirl.runtime.batch import build_batch
    from pirl.runtime.rewards import build_reward
    from pirl.runtime.rollout import Placement, RolloutCollector
    from pirl.runtime.session import build_session

__version__ = "0.1.0"

__all__ = [
    "Placement",
    "Protocol",
    "RolloutCollector",
    "build_batch",
    "build_reward",
    "build_session",
    "evaluate_checkpoint",
    "load_config",
    "load_split",
    "make_vector_env",
]

_HOMES = {
    "load_config": "pirl.config.load",
    "load_split": "pirl.envs",
    "make_vector_env": "pirl.envs",
    "Protocol": "pirl.evaluation.checkpoint",
    "evaluate_checkpoint": "pirl.evaluation.checkpoint",
    "build_batch": "pirl.runtime.batch",
    "build_reward": "pirl.runtime.rewards",
    "Placement": "pirl.runtime.rollout",
    "RolloutCollector": "pirl.runtime.rollout",
    "build_session": "pirl.runtime.session",
}


def __getattr__(name: str) -> Any:
    """One of `__all__`, from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pirl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
