"""One SHA-256 per part of a run's state: equal digests mean equal bits.

Owns what belongs to which part. Refuses to know files. Read `pirl.checkpoint.save` next; the gate
compares interrupted and uninterrupted runs by these digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pirl.algorithm.pi_rl import NOISE_HEAD_PREFIX, PiRLAlgorithm
from pirl.checkpoint.manifest import canonical
from pirl.checkpoint.rng import read_rng
from pirl.checkpoint.state import RunState
from pirl.contract.flow_policy import FlowPolicy

COMPONENTS = (
    "policy",
    "trained",
    "frozen",
    "critic",
    "noise_head",
    "optimizer",
    "scheduler",
    "rng",
    "counters",
)
"""Keys of `state_digests`, in the order in which differences are reported."""

_DEVICE_RNG = ("torch_cuda_rng_state", "torch_mps_rng_state")
"""LeRobot's names."""


def state_digests(
    flow_policy: FlowPolicy, algorithm: PiRLAlgorithm, run_state: RunState
) -> dict[str, str]:
    """SHA-256 (hex) of every part in `COMPONENTS`, from the live objects and this process.

    `policy` covers the whole state dict, `trained` and `frozen` split its parameters; `critic` is
    what the algorithm owns besides the noise head; `scheduler` is all of its training state, value
    buffer included; `rng` the global generators of the CPU and the private ones; `counters` also
    step, policy version and environment cursor. Run id and config path are names, not state, and
    are left out.
    """
    weights = tensor_hashes(flow_policy.module.state_dict())
    owned = tensor_hashes(algorithm.state_dict())
    counters = {
        "step": run_state.step,
        "policy_version": run_state.policy_version,
        "counters": run_state.counters,
        "env_cursor": run_state.env_cursor,
    }
    return {
        "policy": _combine(weights, weights),
        "trained": _combine(weights, flow_policy.trained_parameters()),
        "frozen": _combine(weights, flow_policy.frozen_parameters()),
        "critic": _combine(owned, (n for n in owned if not n.startswith(NOISE_HEAD_PREFIX))),
        "noise_head": _combine(owned, (n for n in owned if n.startswith(NOISE_HEAD_PREFIX))),
        "optimizer": _optimizers_digest(algorithm.get_optimizers()),
        "scheduler": tensors_digest(algorithm.training_state()),
        "rng": tensors_digest(_portable(read_rng(run_state.generators))),
        "counters": hashlib.sha256(canonical(counters).encode()).hexdigest(),
    }


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, whatever the order of the mapping."""
    hashes = tensor_hashes(tensors)
    return _combine(hashes, hashes)


def tensor_hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 (hex) over dtype, shape and bytes of each tensor."""
    return {name: _hash_tensor(tensor) for name, tensor in tensors.items()}


def _portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without accelerators' generators: pirl draws on the CPU, and devices differ between hosts."""
    return {name: value for name, value in tensors.items() if name not in _DEVICE_RNG}


def _hash_tensor(tensor: Tensor) -> str:
    """Dtype, shape and bytes of one tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _combine(hashes: Mapping[str, str], names: Iterable[str]) -> str:
    return hashlib.sha256(canonical({name: hashes[name] for name in names}).encode()).hexdigest()


def _optimizers_digest(optimizers: Mapping[str, Optimizer]) -> str:
    """Moments and step counts of every parameter, and every group's settings."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, entries in state["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in entries.items()}
    text = f"{canonical(groups)}{tensors_digest(tensors)}"
    return hashlib.sha256(text.encode()).hexdigest()
