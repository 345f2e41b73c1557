"""Simulators behind one vector interface: MetaWorld and LIBERO, rendered at chunk boundaries.

Imports neither torch nor a simulator, because a worker process starts here. Read `pirl.envs.base`
next.
"""

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
