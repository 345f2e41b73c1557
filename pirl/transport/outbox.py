"""A bounded queue between an actor and a gRPC upload stream: full means wait, closed means end.

Owns backpressure and order. Knows bytes only. Read `pirl.transport.client` next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from lerobot.transport.utils import send_bytes_in_chunks

from pirl.errors import LinkClosedError

_SLICE_S = 0.5


class Outbox:
    """Messages waiting for their stream; `put` blocks while more than `max_bytes` wait."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def put(
        self,
        message: bytes,
        *,
        timeout_s: float,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Queue `message`; one message always fits an empty queue.

        Args:
            give_up: looked at while there is no room.

        Raises:
            LinkClosedError: the stream took nothing for `timeout_s`, has ended, or `give_up` said so.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting and self._waiting_bytes + len(message) > self._max_bytes:
                left_s = end - time.monotonic()
                if self._is_closed or left_s <= 0 or give_up():
                    break
                self._changed.wait(min(left_s, _SLICE_S))
            if self._is_closed:
                raise LinkClosedError("the link has ended; nothing more can be sent")
            if self._waiting and self._waiting_bytes + len(message) > self._max_bytes:
                if give_up():
                    raise LinkClosedError("told to stop while the learner took nothing")
                raise LinkClosedError(
                    f"the learner took nothing for {timeout_s:g} s; "
                    f"{len(self._waiting)} messages wait"
                )
            self._waiting.append(message)
            self._waiting_bytes += len(message)
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further messages; the stream ends once what waits is sent."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Close and throw away what waits: the stream is broken."""
        with self._changed:
            self._waiting.clear()
            self._waiting_bytes = 0
        self.close()

    def pieces(self, message_class: Any) -> Iterator[Any]:
        """Pieces of every message in order, until closed and empty; gRPC's thread iterates this."""
        while (message := self._take()) is not None:
            yield from send_bytes_in_chunks(message, message_class)

    def _take(self) -> bytes | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                # `close` always notifies; the timeout only bounds the harm of a lost wake-up.
                self._changed.wait(timeout=1.0)
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message)
            self._changed.notify_all()
            return message
