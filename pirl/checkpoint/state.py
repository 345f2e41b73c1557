"""What a run needs beside its weights to go on: `RunState`, and nested state as JSON plus tensors.

Owns the record and the flattening. Refuses to know files and random generators. Read
`pirl.checkpoint.digests` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from pirl.errors import CheckpointError

_TENSOR = "$tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands. Equal runs have equal states: no clock, no host, no process id."""

    run_id: str
    step: int
    """Updates completed; names the step folder."""
    policy_version: int
    config_path: str
    """`ConfigIdentity.path` of the config that the run started with; for the record only."""
    counters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; totals that go on counting (decisions, episodes, environment steps)."""
    env_cursor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON; which episode each environment slot runs next."""
    generators: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """`torch.Generator.get_state()` of every private generator, by name; uint8."""


def split_tree(tree: object, *, where: str) -> tuple[Any, dict[str, Tensor]]:
    """A nested state as JSON and the tensors taken out of it, by path; `join_tree` is the inverse.

    Tuples become lists. Tensors are moved to the CPU, not copied where they are there already.

    Raises:
        CheckpointError: names the entry that is neither finite JSON, nor a tensor, nor a container.
    """
    tensors: dict[str, Tensor] = {}

    def split(node: object, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node.detach().cpu().contiguous()
            return {_TENSOR: path}
        if isinstance(node, Mapping):
            entries = cast("Mapping[object, object]", node)
            if not all(isinstance(key, str) for key in entries) or _TENSOR in entries:
                raise CheckpointError(f"{where}: {path or 'top'} has a key that is not plain text")
            return {str(key): split(value, f"{path}/{key}") for key, value in entries.items()}
        if isinstance(node, list | tuple):
            items = cast("Sequence[object]", node)
            return [split(value, f"{path}/{index}") for index, value in enumerate(items)]
        if isinstance(node, float) and not math.isfinite(node):
            raise CheckpointError(f"{where}: {path or 'top'} is {node}")
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise CheckpointError(f"{where}: {path or 'top'} is a {type(node).__name__}")

    return split(tree, ""), tensors


def join_tree(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put `tensors` back where `split_tree` took them.

    Raises:
        CheckpointError: a tensor is missing.
    """
    if isinstance(skeleton, dict):
        entries = cast("dict[str, Any]", skeleton)
        if entries.keys() == {_TENSOR}:
            name = entries[_TENSOR]
            if name not in tensors:
                raise CheckpointError(f"algorithm state: no tensor for {name}")
            return tensors[name]
        return {key: join_tree(value, tensors) for key, value in entries.items()}
    if isinstance(skeleton, list):
        return [join_tree(value, tensors) for value in cast("list[Any]", skeleton)]
    return skeleton
