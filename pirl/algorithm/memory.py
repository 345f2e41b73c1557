"""What one decision costs an update in memory, measured on one: its context, and what autograd keeps of it.

Owns the count of saved tensors. Refuses to know how much there is; `pirl.runtime.memory` compares. Read
`pirl.algorithm.networks` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pirl.algorithm.networks import Networks, encode_rows, replay
from pirl.algorithm.recording import read_steps
from pirl.records import Context, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBytes:
    """Bytes of one decision on the policy's device."""

    context: int
    """Kept for the whole update."""
    predictions: int
    """Calls of the network that the row needs."""
    activations: int
    """Kept of all of them from the forward to the backward pass, unless they are computed again."""


def row_bytes(
    nets: Networks, *, observation: Observation, recorded: Mapping[str, Tensor]
) -> RowBytes:
    """Bytes of the only row of `observation`, whose replay fields are `recorded`; changes nothing.

    Counted are the storages that autograd saves in one pass, each once and parameters never: a pass of
    n rows saves n times as much, but for what does not depend on the rows.
    """
    rows = torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        context = encode_rows(nets.policy, observation, rows)
    own = {p.untyped_storage().data_ptr() for p in nets.policy.module.parameters()}
    own |= {p.untyped_storage().data_ptr() for p in nets.parameters().values()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    steps = read_steps(nets.policy.spec, nets.pirl, recorded)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        # Held until all is counted: an address that was freed would be another tensor's.
        replayed = replay(
            replace(nets, pirl=replace(nets.pirl, recompute_activations=0)),
            context,
            {name: value.to(nets.policy.device) for name, value in recorded.items()},
            rows=rows.to(nets.policy.device),
            observation=observation,
        )
    total = sum(saved.values())
    del replayed
    return RowBytes(
        context=_bytes(context),
        predictions=steps.step.shape[1] + (steps.x_last is not None),
        activations=total,
    )


def _bytes(context: Context) -> int:
    tensors = (*context.tensors.values(), context.critic_features)
    return sum(t.numel() * t.element_size() for t in tensors)
