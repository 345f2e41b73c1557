"""Reads what `torch.save` wrote without running one instruction of it.

Owns the pickle stream, interpreted as data: the only things that come out are dicts, lists,
tuples, str, int, float, bool, None and CPU tensors. Refuses to know what they mean. No unpickler is
involved (ADR 0013). Read `pirl.transport.wire` next.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pirl.errors import TransportError
from pirl.transport.archive import Member, read_directory

_STORAGES = {
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}
_MAX_NDIM = 8
_FORMAT_MEMBERS = 16
"""Room for the members that carry no tensor (version, byte order, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storage:
    dtype: torch.dtype
    values: Tensor
    """Flat view of the message's own memory."""


class _Symbol:
    """A name in the stream that stands for itself and is never called."""


_MARK, _REBUILD, _ORDERED_DICT, _NO_HOOKS = _Symbol(), _Symbol(), _Symbol(), _Symbol()


def read_archive(message: bytearray, *, max_tensors: int, max_pickle_bytes: int) -> object:
    """The object in `message`; its tensors share `message`'s memory, none is copied.

    Args:
        message: the whole archive; already bounded by the receiver.
        max_tensors: most storages in the container.
        max_pickle_bytes: longest object description.

    Raises:
        TransportError: anything but the plain subset of `torch.save`'s format; says what.
    """
    members = read_directory(message, max_entries=max_tensors + _FORMAT_MEMBERS)
    pickle = members.get("data.pkl")
    if pickle is None:
        raise TransportError("archive has no data.pkl: not written by torch.save")
    if pickle.size > max_pickle_bytes:
        raise TransportError(f"data.pkl has {pickle.size} bytes, at most {max_pickle_bytes} may be")
    order = members.get("byteorder")
    if order is None or bytes(message[order.start : order.start + order.size]) != b"little":
        raise TransportError("archive is not little-endian")
    stream = bytes(message[pickle.start : pickle.start + pickle.size])
    return _Reader(message, members).read(stream)


class _Reader:
    """A stack machine over the opcodes of a plain `torch.save` stream. It calls nothing by name."""

    def __init__(self, message: bytearray, members: dict[str, Member]) -> None:
        self._message = message
        self._members = members
        self._storages: dict[str, _Storage] = {}
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: bytes) -> object:
        """The one object of the stream."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
        except ValueError as error:
            raise TransportError(
                f"data.pkl is not a readable stream: {str(error)[:120]}"
            ) from error
        except (IndexError, KeyError) as error:
            raise TransportError("data.pkl refers to something it never defined") from error
        if len(self._stack) != 1:
            raise TransportError("data.pkl does not describe exactly one object")
        return self._stack[0]

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSH_ARGUMENT:
            self._stack.append(argument)
        elif name in _PUSH_NEW:
            self._stack.append(_PUSH_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "GLOBAL":
            self._stack.append(_symbol(argument))
        elif name == "BINPERSID":
            self._stack.append(self._storage(self._stack.pop()))
        elif name in _TAKES:
            self._build(name, self._take(_TAKES[name]))
        elif name in _TAKES_TO_MARK:
            self._build(name, self._take_to_mark())
        elif name != "PROTO":
            raise TransportError(f"data.pkl holds the opcode {name}, which tensors never need")

    def _build(self, name: str, items: list[Any]) -> None:
        if name.startswith("TUPLE"):
            self._push_tuple(items)
        elif name.startswith("SETITEM"):
            self._set_items(items)
        elif name.startswith("APPEND"):
            self._append(items)
        else:
            self._reduce(*items)

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise TransportError("data.pkl takes more than it put")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _take_to_mark(self) -> list[Any]:
        taken: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            taken.append(item)
        taken.reverse()
        return taken

    def _push_tuple(self, items: list[Any]) -> None:
        # Deep nesting has no use and would make later recursion the sender's choice.
        if any(isinstance(i, tuple) and any(isinstance(j, tuple) for j in i) for i in items):
            raise TransportError("data.pkl nests tuples more than two deep")
        self._stack.append(tuple(items))

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        keys = pairs[::2]
        if type(target) is not dict or len(pairs) % 2 or any(type(key) is not str for key in keys):
            raise TransportError("data.pkl sets items that are not text-to-value pairs of a dict")
        target.update(zip(keys, pairs[1::2], strict=True))

    def _append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise TransportError("data.pkl appends to something that is not a list")
        self._stack[-1].extend(items)

    def _reduce(self, function: Any, arguments: Any) -> None:
        if function is _ORDERED_DICT and type(arguments) is tuple and not arguments:
            self._stack.append(_NO_HOOKS)
        elif function is _REBUILD and type(arguments) is tuple and len(arguments) == 6:
            self._stack.append(_rebuild(*arguments))
        else:
            raise TransportError(
                "data.pkl calls something other than the rebuilding of a plain tensor"
            )

    def _storage(self, reference: object) -> _Storage:
        """The storage that a persistent id names, in bounds and as long as its member."""
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
        known = self._storages.get(key)
        if known is None:
            known = _Storage(dtype=dtype, values=self._values(member, dtype, count))
            self._storages[key] = known
        if known.dtype != dtype:
            raise TransportError(f"storage {key[:20]!r} is announced with two dtypes")
        return known

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


_PUSH_ARGUMENT = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
_PUSH_NEW: dict[str, Callable[[], object]] = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "SETITEM": 2, "APPEND": 1, "REDUCE": 2}
_TAKES_TO_MARK = frozenset({"TUPLE", "SETITEMS", "APPENDS"})


def _symbol(name: str) -> object:
    """What a global of the stream stands for; three kinds exist."""
    if name == "torch._utils _rebuild_tensor_v2":
        return _REBUILD
    if name == "collections OrderedDict":
        return _ORDERED_DICT
    module, _, attribute = name.partition(" ")
    if module == "torch" and attribute in _STORAGES:
        return _STORAGES[attribute]
    raise TransportError(f"data.pkl names the global {name[:80]!r}; only tensors may travel")


def _rebuild(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object
) -> Tensor:
    """A row-major view of a storage; requires_grad and hooks do not travel."""
    if not isinstance(storage, _Storage) or grad is not False or hooks is not _NO_HOOKS:
        raise TransportError("a tensor is not plain (storage, gradient flag or hooks)")
    shape, strides = _whole_numbers(size), _whole_numbers(stride)
    if type(offset) is not int or len(shape) != len(strides) or len(shape) > _MAX_NDIM:
        raise TransportError("a tensor has an unusable shape, stride or offset")
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
