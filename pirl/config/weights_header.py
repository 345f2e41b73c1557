"""Names, dtypes and shapes of a weights file: the header of safetensors is JSON and needs no torch.

Owns the reading and what the names give away. Refuses to read values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pirl.config.strictjson import parse_json
from pirl.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
"""LeRobot's name of it."""

WRAPPERS = ("module.", "_orig_mod.")
"""What distributed training and `torch.compile` put before the names of a policy that is saved wrapped."""

_MAX_HEADER = 100 * 10**6
"""The bound that safetensors itself sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What a header says of a tensor."""

    dtype: str
    """As safetensors spells it: F32, BF16, ..."""
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, TensorHeader]:
    """The tensors of a weights file, by name.

    Raises:
        CheckpointError: it cannot be read, is cut short or is no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: Any = parse_json(stream.read(length))
        tensors, end = _tensors(header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged weights file", parts=[str(error)]) from error
    if 8 + length + end > size:
        missing = 8 + length + end - size
        raise CheckpointError(f"{file}: damaged weights file", parts=[f"{missing} bytes missing"])
    return tensors


def dtypes(tensors: Mapping[str, TensorHeader]) -> dict[str, int]:
    """How many tensors have each dtype."""
    return dict(Counter(tensor.dtype for tensor in tensors.values()).most_common())


def wrapper_of(tensors: Mapping[str, TensorHeader]) -> str | None:
    """The prefix that a wrapper put before the names, such as `module.`; None when there is none."""
    for name in tensors:
        for prefix in WRAPPERS:
            if name.removeprefix("model.").startswith(prefix):
                return prefix
    return None


def wrapped_message(folder: str, prefix: str) -> tuple[str, str]:
    """What is expected instead of names with a wrapper's prefix, and the fix."""
    rename = f"k.replace({prefix!r}, '', 1)"
    return (
        f"the names of a plain policy; these begin with {prefix!r}, as a policy that is saved while it is"
        " wrapped by torch.compile or for distributed training",
        'save the unwrapped policy, or rename its tensors: python -c "from safetensors.torch import'
        f" load_file, save_file; save_file({{{rename}: v for k, v in"
        f" load_file('{folder}/{WEIGHTS_FILE}').items()}}, '{folder}/renamed')\" && mv"
        f" {folder}/renamed {folder}/{WEIGHTS_FILE}",
    )


def _tensors(header: Any) -> tuple[dict[str, TensorHeader], int]:
    """Every tensor, and where the last one ends after the header."""
    found: dict[str, TensorHeader] = {}
    end = 0
    for name, entry in cast("dict[str, Any]", header).items():
        if name == "__metadata__":
            continue
        shape = tuple(int(n) for n in entry["shape"])
        found[name] = TensorHeader(dtype=str(entry["dtype"]), shape=shape)
        end = max(end, int(entry["data_offsets"][1]))
    return found, end
