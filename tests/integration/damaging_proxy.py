"""A TCP connection that damages what it carries, or breaks, when it is told to."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class DamagingProxy:
    """Forwards one TCP port to another."""

    def __init__(self, target: int, *, seed: int) -> None:
        self.rng = random.Random(seed)
        self.flips = 0
        """Bits still to flip, one in each piece that passes."""
        self.flipped = 0
        self.resets = 0
        """Connections that were broken."""
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.ends: set[socket.socket] = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                with self.lock:
                    self.ends |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.forward, args=pair, daemon=True).start()

    def forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(2**16)):
                if self.flips > 0:
                    self.flips -= 1
                    self.flipped += 1
                    data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
                sink.sendall(data)
        self.end(source, sink)

    def reset(self) -> None:
        """Break every connection without a farewell."""
        with self.lock:
            ends = list(self.ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.end(*ends)
        self.resets += len(ends) // 2

    def end(self, *ends: socket.socket) -> None:
        for end in ends:
            # A shutdown wakes the thread that reads; the close alone would not.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RD)
            end.close()
            with self.lock:
                self.ends.discard(end)

    def close(self) -> None:
        with self.lock:
            ends = list(self.ends)
        self.end(self.listener, *ends)
