"""Reads what `torch.save` wrote without running one instruction of it.

Owns the pickle stream, interpreted as data: the only things that come out are dicts, lists,
tuples, str, int, float, bool, None and CPU tensors. Refuses to know what they mean. No unpickler is
involved (ADR 0013). Read `pirl.transport.storage` next.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pirl.errors import TransportError
from pirl.transport.archive import Member, read_directory
from pirl.transport.storage import DTYPES, NO_HOOKS, Storages, rebuild_tensor

_FORMAT_MEMBERS = 16
"""Room for the members that carry no tensor (version, byte order, ...)."""

_STEPS_PER_TENSOR = 64
"""Opcodes that describe one tensor and its share of the lists and dicts around it: about 40."""
_FEWEST_STEPS = 1024


class _Symbol:
    """A name in the stream that stands for itself and is never called."""


_MARK, _REBUILD, _ORDERED_DICT = _Symbol(), _Symbol(), _Symbol()


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
    max_steps = _FEWEST_STEPS + _STEPS_PER_TENSOR * max_tensors
    return _Reader(message, members, max_steps=max_steps).read(stream)


class _Reader:
    """A stack machine over the few opcodes that plain tensors need. It calls nothing by name.

    An opcode outside its table is refused before its argument is looked at.
    """

    def __init__(self, message: bytearray, members: dict[str, Member], *, max_steps: int) -> None:
        self._max_steps = max_steps
        self._storages = Storages(message, members)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: bytes) -> object:
        """The one object of the stream."""
        try:
            end = self._run(stream)
        except (ValueError, OverflowError, RuntimeError, struct.error) as error:
            # RuntimeError: torch refuses a storage or a shape that passed every check of ours.
            raise TransportError(f"data.pkl is not a readable stream: {error!s:.120}") from error
        except (IndexError, KeyError) as error:
            raise TransportError("data.pkl ends early or refers to what it never said") from error
        if len(self._stack) != 1 or end != len(stream):
            raise TransportError("data.pkl does not describe exactly one object")
        return self._stack[0]

    def _run(self, stream: bytes) -> int:
        """Execute the stream; returns where it stopped.

        One byte can make an object of 64, so the number of steps is bounded and not only the length.
        """
        stack, memo, position = self._stack, self._memo, 0
        for _ in range(self._max_steps):
            code = stream[position]
            position += 1
            if code == _STOP:
                return position
            if (number := _NUMBERS.get(code)) is not None:
                stack.append(number.unpack_from(stream, position)[0])
                position += number.size
            elif (index := _PUTS.get(code)) is not None:
                memo[index.unpack_from(stream, position)[0]] = stack[-1]
                position += index.size
            elif (index := _GETS.get(code)) is not None:
                stack.append(memo[index.unpack_from(stream, position)[0]])
                position += index.size
            elif (make := _VALUES.get(code)) is not None:
                stack.append(make())
            elif (build := _BUILDERS.get(code)) is not None:
                build(self)
            elif (parse := _PARSERS.get(code)) is not None:
                value, position = parse(stream, position)
                stack.append(value)
            elif code == _PROTO:
                position += 1
            else:
                raise TransportError(f"data.pkl holds opcode {code:#04x}; tensors never need it")
        raise TransportError(f"data.pkl takes more than {self._max_steps} steps")

    def take(self, count: int) -> list[Any]:
        """The topmost `count` values, lowest first."""
        if len(self._stack) < count:
            raise TransportError("data.pkl takes more than it put")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def take_to_mark(self) -> list[Any]:
        """Everything above the latest mark, lowest first; the mark goes as well."""
        taken: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            taken.append(item)
        taken.reverse()
        return taken

    def push_tuple(self, items: list[Any]) -> None:
        """A tuple of `items`."""
        self._stack.append(tuple(items))

    def set_items(self, pairs: list[Any]) -> None:
        """Text-to-value pairs into the dict on top of the stack."""
        target = self._stack[-1]
        keys = pairs[::2]
        if type(target) is not dict or len(pairs) % 2 or any(type(key) is not str for key in keys):
            raise TransportError("data.pkl sets items that are not text-to-value pairs of a dict")
        target.update(zip(keys, pairs[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        """`items` to the list on top of the stack."""
        if type(self._stack[-1]) is not list:
            raise TransportError("data.pkl appends to something that is not a list")
        self._stack[-1].extend(items)

    def reduce(self) -> None:
        """The one call that exists: rebuilding a tensor (and its empty dict of hooks)."""
        function, arguments = self.take(2)
        if function is _ORDERED_DICT and type(arguments) is tuple and not arguments:
            self._stack.append(NO_HOOKS)
        elif function is _REBUILD and type(arguments) is tuple and len(arguments) == 6:
            self._stack.append(rebuild_tensor(*arguments))
        else:
            raise TransportError(
                "data.pkl calls something other than the rebuilding of a plain tensor"
            )

    def refer(self) -> None:
        """Replace a persistent id by the storage it names, in bounds and as long as its member."""
        self._stack.append(self._storages.of(self._stack.pop()))


def _text(stream: bytes, position: int) -> tuple[object, int]:
    """BINUNICODE: four bytes of length, then UTF-8."""
    (length,) = _UINT4.unpack_from(stream, position)
    start = position + _UINT4.size
    if start + length > len(stream):
        raise ValueError("text is cut off")
    return stream[start : start + length].decode(), start + length


def _long(stream: bytes, position: int) -> tuple[object, int]:
    """LONG1: one byte of length, then a little-endian signed integer of at most nine bytes."""
    length, start = stream[position], position + 1
    if length > _MAX_LONG_BYTES or start + length > len(stream):
        raise ValueError("a number is too long or cut off")
    return int.from_bytes(stream[start : start + length], "little", signed=True), start + length


def _global(stream: bytes, position: int) -> tuple[object, int]:
    """GLOBAL: two lines; stands for a dtype or one of two callables, never for the thing itself."""
    middle = stream.index(b"\n", position)
    end = stream.index(b"\n", middle + 1)
    return _symbol(
        f"{stream[position:middle].decode()} {stream[middle + 1 : end].decode()}"
    ), end + 1


def _symbol(name: str) -> object:
    """What a global of the stream stands for; three kinds exist."""
    if name == "torch._utils _rebuild_tensor_v2":
        return _REBUILD
    if name == "collections OrderedDict":
        return _ORDERED_DICT
    module, _, attribute = name.partition(" ")
    if module == "torch" and attribute in DTYPES:
        return DTYPES[attribute]
    raise TransportError(f"data.pkl names the global {name[:80]!r}; only tensors may travel")


_UINT1, _UINT2, _UINT4 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I")
_MAX_LONG_BYTES = 9
_PROTO, _STOP = 0x80, ord(".")
_NUMBERS = {
    ord("J"): struct.Struct("<i"),
    ord("K"): _UINT1,
    ord("M"): _UINT2,
    ord("G"): struct.Struct(">d"),
}
_PUTS = {ord("q"): _UINT1, ord("r"): _UINT4}
_GETS = {ord("h"): _UINT1, ord("j"): _UINT4}
_VALUES: dict[int, Callable[[], object]] = {
    ord("("): lambda: _MARK,
    ord("}"): dict,
    ord("]"): list,
    ord(")"): tuple,
    ord("N"): lambda: None,
    0x88: lambda: True,
    0x89: lambda: False,
}
_PARSERS = {ord("X"): _text, 0x8A: _long, ord("c"): _global}
_BUILDERS: dict[int, Callable[[_Reader], None]] = {
    ord("t"): lambda r: r.push_tuple(r.take_to_mark()),
    0x85: lambda r: r.push_tuple(r.take(1)),
    0x86: lambda r: r.push_tuple(r.take(2)),
    0x87: lambda r: r.push_tuple(r.take(3)),
    ord("s"): lambda r: r.set_items(r.take(2)),
    ord("u"): lambda r: r.set_items(r.take_to_mark()),
    ord("a"): lambda r: r.append(r.take(1)),
    ord("e"): lambda r: r.append(r.take_to_mark()),
    ord("R"): _Reader.reduce,
    ord("Q"): _Reader.refer,
}
