"""Where slots live: in this process or in a child process behind a socket pair with deadlines.

Owns starting, asking, waiting for and ending simulator workers. Refuses to know any simulator. Read
`pirl.envs.worker` next: the other end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as ready_connections
from typing import Protocol

from pirl.envs.base import Slot, SlotSettings
from pirl.envs.protocol import (
    Build,
    Built,
    Close,
    Failure,
    NotReady,
    Observations,
    Reply,
    Request,
    Reset,
    Results,
    Step,
)
from pirl.errors import EnvError, EnvironmentNotReadyError

_EXIT_GRACE_S = 5.0
"""A worker that was told to close gets this long before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds a worker may take to answer; generous: cores are shared and GL is in software."""

    start_s: float = 180.0
    """Interpreter start, imports and construction."""
    reset_s: float = 240.0
    """Per slot asked; a first hard reset of LIBERO takes 20 s on an idle core."""
    step_s: float = 120.0
    """Per slot asked and chunk."""


class Host(Protocol):
    """Some slots and the way to talk to them."""

    def ask(self, request: Request, *, deadline_s: float, doing: str) -> None:
        """Send a request without waiting; `doing` describes it in errors (task and seed).

        Requests are carried out and answered one after the other, in the order in which they came.
        """
        ...

    def answer(self) -> Reply:
        """Wait for the reply to the oldest request that has none yet.

        Raises:
            EnvError: a failure, a crash or a missed deadline, with `doing` in the message.
            EnvironmentNotReadyError: the worker's machine lacks something.
        """
        ...

    def close(self) -> None: ...


def serve(slots: list[Slot], request: Reset | Step) -> Reply:
    """Carry out one request on `slots`, slot by slot."""
    if isinstance(request, Reset):
        return Observations(by_slot={i: slots[i].reset(p) for i, p in request.plans.items()})
    return Results(by_slot={i: slots[i].step_chunk(a) for i, a in request.actions.items()})


class LocalHost:
    """Slots in this process; a deadline cannot be enforced here."""

    def __init__(self, settings: SlotSettings, count: int) -> None:
        self._slots = settings.make_slots(count)
        self._open: deque[tuple[Request, str]] = deque()

    def ask(self, request: Request, *, deadline_s: float, doing: str) -> None:
        del deadline_s
        self._open.append((request, doing))

    def answer(self) -> Reply:
        request, doing = self._open.popleft()
        if not isinstance(request, Reset | Step):
            raise EnvError(f"slots in this process cannot answer {type(request).__name__}")
        try:
            return serve(self._slots, request)
        except EnvError as error:
            raise EnvError(f"{error} (while {doing})") from error

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._slots = []


@dataclass(slots=True)
class _Open:
    """A request without an answer."""

    doing: str
    allowed_s: float
    deadline: float
    """On the monotonic clock; of a request that waits for another, set when its turn comes."""


class ProcessHost:
    """Slots in a child process with no standard input that ends when its parent does.

    The kernel ends the child when the *thread* that started it ends, so a vector environment must
    be built by a thread that outlives it.
    """

    def __init__(
        self, settings: SlotSettings, count: int, *, index: int, deadline_s: float
    ) -> None:
        self._index = index
        self._connection, child_end = Pipe(duplex=True)
        try:
            self._process = _start(child_end)
        finally:
            child_end.close()
        self._open: deque[_Open] = deque()
        self.ask(
            Build(settings=settings, count=count),
            deadline_s=deadline_s,
            doing=f"building {count} simulator slots",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def connection(self) -> Connection:
        """Readable when an answer, or the end of the worker, can be read."""
        return self._connection

    @property
    def left_s(self) -> float:
        """Seconds until the deadline of the oldest request without an answer."""
        return max(0.0, self._open[0].deadline - time.monotonic())

    def wait_built(self) -> None:
        """Wait until the slots exist; separate from construction so that workers start together."""
        reply = self.answer()
        if not isinstance(reply, Built):
            raise EnvError(f"simulator worker {self._index} answered {type(reply).__name__}")

    def ask(self, request: Request, *, deadline_s: float, doing: str) -> None:
        self._open.append(_Open(doing, deadline_s, time.monotonic() + deadline_s))
        try:
            # A request (action rows, plans) is far smaller than a socket buffer, and a worker that has
            # another one open was sent a small one: this cannot block.
            self._connection.send(request)
        except OSError as error:
            raise self._crashed() from error

    def answer(self) -> Reply:
        asked = self._open[0]
        if not self._connection.poll(self.left_s):
            self.kill()
            raise EnvError(
                f"simulator worker {self._index} did not answer within {asked.allowed_s:g} s"
                f" while {asked.doing}; it was killed"
            )
        try:
            reply: Reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._crashed() from error
        if isinstance(reply, NotReady):
            raise EnvironmentNotReadyError(reply.what, remedy=reply.remedy)
        if isinstance(reply, Failure):
            raise EnvError(
                f"simulator worker {self._index} failed while {asked.doing}: {reply.message}"
            )
        self._open.popleft()
        if self._open:
            # The worker begins it now at the latest: until now it was busy, or could not hand over its answer.
            self._open[0].deadline = time.monotonic() + self._open[0].allowed_s
        return reply

    def close(self) -> None:
        """Ask the worker to end, then make sure that it did."""
        if self._process.poll() is None and not self._connection.closed:
            # A worker that is on its way out by itself cannot be told.
            with contextlib.suppress(OSError):
                self._connection.send(Close())
        self._connection.close()
        try:
            self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait(_EXIT_GRACE_S)

    def _crashed(self) -> EnvError:
        try:
            code: int | str = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = "none: it closed its pipe and was killed"
        if code == -signal.SIGKILL:
            code = "-9: killed, as the kernel does when memory runs out"
        return EnvError(
            f"simulator worker {self._index} died while {self._open[0].doing} (exit code {code});"
            " its standard error is above"
        )


def as_they_answer[K](hosts: Mapping[K, Host]) -> Iterator[K]:
    """Keys of hosts that were asked, each when `answer` will not wait: a death is seen while others work."""
    waiting = {key: host for key, host in hosts.items() if isinstance(host, ProcessHost)}
    yield from (key for key in hosts if key not in waiting)
    while waiting:
        first_deadline_s = min(host.left_s for host in waiting.values())
        ready = ready_connections([h.connection for h in waiting.values()], first_deadline_s)
        due = [k for k, h in waiting.items() if h.connection in ready or h.left_s <= 0]
        for key in due:
            del waiting[key]
            yield key


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: one thread, headless GL unless the caller chose another."""
    kept = dict(environ)
    if kept.get("CUDA_VISIBLE_DEVICES") == "":
        # robosuite reads this variable as EGL device numbers and cannot parse an empty one.
        del kept["CUDA_VISIBLE_DEVICES"]
    return {
        "MUJOCO_GL": "egl",
        # Mesa's software rasteriser draws in the calling thread; its own threads only add switches.
        "LP_NUM_THREADS": "0",
        **kept,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _start(child_end: Connection) -> subprocess.Popen[bytes]:
    descriptor = child_end.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "pirl.envs.worker", str(descriptor), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        env=worker_environment(os.environ),
        pass_fds=(descriptor,),
    )
