"""Tensors over a received message's own memory: every bound is checked, nothing is copied.

Owns dtypes, storages and views. Refuses to know streams and what tensors mean. Read
`pirl.transport.wire` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pirl.errors import TransportError
from pirl.transport.archive import Member

DTYPES = {
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}
"""dtype of each storage class that `torch.save` names and that may travel."""

NO_HOOKS = object()
"""Stands for the empty ordered dict of backward hooks that every saved tensor carries."""

_MAX_NDIM = 8
_MAX_EXTENT = 2**62
"""Product of a shape's lengths, zeros left out: torch multiplies them for an empty tensor too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A flat piece of the message's memory."""

    dtype: torch.dtype
    values: Tensor


class Storages:
    """The storages of one message, each opened once, so that sharing survives."""

    def __init__(self, message: bytearray, members: Mapping[str, Member]) -> None:
        self._message = message
        self._members = members
        self._open: dict[str, Storage] = {}

    def of(self, reference: object) -> Storage:
        """The storage that a persistent id of `torch.save` names.

        Raises:
            TransportError: not a plain CPU storage, or its member has another length or alignment.
            KeyError: the message has no such member.
        """
        match reference:
            case ("storage", torch.dtype() as dtype, str() as key, "cpu", int() as count):
                member = self._members[f"data/{key}"]
            case _:
                raise TransportError("data.pkl names a storage that is not a plain CPU one")
        if count < 0 or member.size != count * dtype.itemsize or member.start % dtype.itemsize:
            raise TransportError(
                f"storage {key[:20]!r} has {member.size} bytes at {member.start}, "
                f"but {count} of {dtype} are announced"
            )
        if key not in self._open:
            self._open[key] = Storage(dtype=dtype, values=self._values(member, dtype, count))
        if self._open[key].dtype != dtype:
            raise TransportError(f"storage {key[:20]!r} is announced with two dtypes")
        return self._open[key]

    def _values(self, member: Member, dtype: torch.dtype, count: int) -> Tensor:
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if dtype == torch.bool:
            raw = torch.frombuffer(
                self._message, dtype=torch.uint8, count=count, offset=member.start
            )
            if int(raw.max()) > 1:
                raise TransportError("a bool storage holds bytes other than 0 and 1")
        return torch.frombuffer(self._message, dtype=dtype, count=count, offset=member.start)


def rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object
) -> Tensor:
    """A row-major view of a storage; requires_grad and hooks do not travel.

    The arguments are those of `torch._utils._rebuild_tensor_v2`, as the sender stated them.

    Raises:
        TransportError: not plain, not row-major, or outside the storage.
    """
    if not isinstance(storage, Storage) or grad is not False or hooks is not NO_HOOKS:
        raise TransportError("a tensor is not plain (storage, gradient flag or hooks)")
    shape, strides = _whole_numbers(size), _whole_numbers(stride)
    if type(offset) is not int or len(shape) != len(strides) or len(shape) > _MAX_NDIM:
        raise TransportError("a tensor has an unusable shape, stride or offset")
    if math.prod(max(1, length) for length in shape) > _MAX_EXTENT:
        raise TransportError(f"a tensor of shape {shape} cannot exist")
    count = math.prod(shape)
    if offset < 0 or offset + count > storage.values.numel():
        raise TransportError(f"a tensor of shape {shape} lies outside its storage")
    expected = 1
    for length, step in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and count and step != expected:
            raise TransportError(f"a tensor of shape {shape} is not row-major")
        expected *= length
    return storage.values[offset : offset + count].view(shape)


def _whole_numbers(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or any(type(v) is not int or v < 0 or v >> 62 for v in value):
        raise TransportError("a tensor's shape or stride is not a tuple of whole numbers")
    return value
