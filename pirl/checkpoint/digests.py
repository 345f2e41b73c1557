"""One SHA-256 per part of a run's state: equal digests mean equal bits.

Owns what belongs to which part. Refuses to know files. Read `pirl.checkpoint.save` next; the gate
compares interrupted and uninterrupted runs by these digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from pirl.algorithm.pi_rl import PiRLAlgorithm
from pirl.checkpoint.manifest import canonical
from pirl.checkpoint.rng import read_rng
from pirl.checkpoint.state import RunState, split_tree
from pirl.contract.flow_policy import FlowPolicy

NOISE_HEAD_PREFIX = "noise_head."
"""In `PiRLAlgorithm.state_dict()`; everything else there is the critic."""

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


def state_digests(
    flow_policy: FlowPolicy, algorithm: PiRLAlgorithm, run_state: RunState
) -> dict[str, str]:
    """SHA-256 (hex) of every part in `COMPONENTS`, from the live objects and this process.

    `policy` covers the whole state dict, `trained` and `frozen` split its parameters; `scheduler`
    is all of `PiRLAlgorithm.training_state()`; `rng` the global and private generators; `counters`
    also step, policy version and environment cursor. Run id and config path are names, not state,
    and are left out.
    """
    weights = _hash_each(flow_policy.module.state_dict())
    owned = _hash_each(algorithm.state_dict())
    counters = {
        "step": run_state.step,
        "policy_version": run_state.policy_version,
        "counters": run_state.counters,
        "env_cursor": run_state.env_cursor,
    }
    optimizers = {name: opt.state_dict() for name, opt in algorithm.get_optimizers().items()}
    return {
        "policy": _combine(weights, weights),
        "trained": _combine(weights, flow_policy.trained_parameters()),
        "frozen": _combine(weights, flow_policy.frozen_parameters()),
        "critic": _combine(owned, (n for n in owned if not n.startswith(NOISE_HEAD_PREFIX))),
        "noise_head": _combine(owned, (n for n in owned if n.startswith(NOISE_HEAD_PREFIX))),
        "optimizer": _hash_tree(_text_keys(optimizers), "optimizer"),
        "scheduler": _hash_tree(algorithm.training_state(), "training_state"),
        "rng": tensors_digest(read_rng(run_state.generators)),
        "counters": _hash_tree(counters, "run state"),
    }


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, whatever the order of the mapping."""
    hashes = _hash_each(tensors)
    return _combine(hashes, hashes)


def _hash_each(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: _hash_tensor(tensor) for name, tensor in tensors.items()}


def _hash_tensor(tensor: Tensor) -> str:
    """Dtype, shape and bytes of one tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _combine(hashes: Mapping[str, str], names: Iterable[str]) -> str:
    return hashlib.sha256(canonical({name: hashes[name] for name in names}).encode()).hexdigest()


def _hash_tree(tree: Mapping[str, Any], where: str) -> str:
    skeleton, tensors = split_tree(tree, where=where)
    return hashlib.sha256(f"{canonical(skeleton)}{tensors_digest(tensors)}".encode()).hexdigest()


def _text_keys(tree: Any) -> Any:
    """`Optimizer.state_dict()` numbers its parameters; JSON has no number keys."""
    if isinstance(tree, dict):
        entries = cast("dict[object, Any]", tree)
        return {str(key): _text_keys(value) for key, value in entries.items()}
    return tree
