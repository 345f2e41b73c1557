"""The random state of a process and of its private generators, exact to the bit.

Owns reading and restoring it. Refuses to know files. Read `pirl.checkpoint.save` next. The names
and shapes are those of LeRobot's `rng_state.safetensors`, which LeRobot can still read.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from lerobot.utils.random_utils import deserialize_rng_state, serialize_rng_state
from torch import Tensor

_GENERATOR = "generator/"
_PYTHON_PENDING = "py_rng_gauss_next"
_NUMPY_PENDING = "np_rng_cached_gaussian"


def read_rng(generators: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of Python's, NumPy's and torch's global generators, and the given private ones.

    LeRobot keeps NumPy's pending normal deviate in float32 and drops Python's; either would change
    the next draw, so both are kept here in float64.
    """
    tensors = serialize_rng_state()
    numpy_state = np.random.get_state(legacy=False)
    python_pending = random.getstate()[2]
    tensors[_NUMPY_PENDING] = torch.tensor([numpy_state["gauss"]], dtype=torch.float64)
    tensors[_PYTHON_PENDING] = torch.tensor(
        [] if python_pending is None else [python_pending], dtype=torch.float64
    )
    return tensors | {f"{_GENERATOR}{name}": value for name, value in generators.items()}


def restore_rng(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set the global generators to a state of `read_rng`; returns the private ones by name.

    Raises:
        KeyError: an entry is missing.
    """
    deserialize_rng_state(dict(tensors))
    pending = tensors[_PYTHON_PENDING].tolist()
    version, words, _ = random.getstate()
    random.setstate((version, words, pending[0] if pending else None))
    return {
        name.removeprefix(_GENERATOR): value
        for name, value in tensors.items()
        if name.startswith(_GENERATOR)
    }
