"""SHA-256 over what a policy is (names, shapes, dtypes, spec) and over what its weights hold.

Owns the two byte layouts. Refuses to know which policy it digests. Read `pirl.contract.check` next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from pirl.contract.flow_policy import FlowPolicy


def architecture_digest(policy: FlowPolicy) -> str:
    """Hex digest of sorted (name, shape, dtype) of the state dict and of the action spec.

    Equal digests mean that weights of one policy load into the other and act on the same dims.
    Values and device do not enter.
    """
    tensors = policy.module.state_dict()
    layout = {
        "spec": asdict(policy.spec),
        "tensors": [
            [name, list(tensors[name].shape), str(tensors[name].dtype)] for name in sorted(tensors)
        ],
    }
    return hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest()


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of named tensors: name, dtype, shape and bytes, in the order of sorted names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
