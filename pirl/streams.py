"""Standard streams that may go away: a terminal closes, a reader leaves, the disk under a log is full.

Owns what that costs: nothing, for a command and the run under it, except that an answer which nobody got is no
success. Refuses to know what is written. Read `pirl.guard` for its one user.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

IN, OUT, ERR = 0, 1, 2


class Surviving(io.RawIOBase):
    """Writes to a descriptor; what it does not take is dropped, and the first refusal remembered."""

    def __init__(self, descriptor: int, *, in_place_of: object = None) -> None:
        """
        Args:
            in_place_of: kept alive, because collecting it would close the descriptor.
        """
        self._descriptor = descriptor
        self._given = in_place_of
        self.refusal: OSError | None = None

    @property
    def name(self) -> int:
        """As a raw file that was opened by number has it."""
        return self._descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self.refusal = self.refusal or error
        return size


def outlive_streams() -> None:
    """From now on no standard stream of this process can fail; one that was closed goes nowhere.

    A closed descriptor is worse than a full disk: the next file that is opened gets its number, and with it
    whatever a library writes to "standard error". Streams that are not the process's own (a test's) stay.
    """
    for number in (IN, OUT, ERR):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _outliving(sys.stdout, OUT)
    sys.stderr = _outliving(sys.stderr, ERR)


def lost_answer() -> OSError | None:
    """Why standard output did not take all that was written to it."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    return buffer.refusal if isinstance(buffer, Surviving) else None


def _outliving(stream: TextIO | None, number: int) -> TextIO:
    encoding = "utf-8"
    if stream is not None:
        if not _writes_to(stream, number) or isinstance(stream.buffer, Surviving):
            return stream
        with suppress(OSError):
            stream.flush()
        encoding = stream.encoding
    raw = Surviving(number, in_place_of=stream)
    return io.TextIOWrapper(
        raw,
        encoding=encoding,
        # A name from a damaged file may hold what no encoding can carry.
        errors="backslashreplace",
        line_buffering=number == ERR or raw.isatty(),
    )


def _writes_to(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False
