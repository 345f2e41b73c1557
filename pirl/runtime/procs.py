"""Child processes that cannot outlive their parent and cannot be waited for without a deadline.

Owns spawning, group shutdown, the one way to wait for something that processes bring about, and the words for
how a process ended. Refuses to know what the children do. Read `pirl.runtime.launch` next.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Protocol, Self

from pirl.errors import PirlError
from pirl.files import writing
from pirl.guard import interrupt, stop_signals

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05
_LINE_CHARS = 400
"""More than any message of ours about one simulator episode; a line of a log may be of any length."""
_HEARD_LINES = 200
_TAIL_BYTES = 2**18
_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")
"""How a line of a log begins (`pirl.runtime.entry`); other lines after an error are the rest of it."""
_LIBC = ctypes.CDLL(None, use_errno=True)


STOP_GRACE_S = 60.0
"""How long a process of a run that was told to stop may take to end; then it is killed. Its record is written
in the first moment of it; a learner that is in the middle of an update ends that first."""

_first_acts: list[Callable[[], None]] = []


@contextmanager
def first_act(act: Callable[[], None]) -> Generator[None]:
    """While the block runs, `act` is the first thing that happens when SIGINT or SIGTERM arrives.

    For what must be done however soon the process is killed: its record. It runs in the main thread between two
    instructions of the block, so it may take no lock that the block takes.
    """
    _first_acts.append(act)
    try:
        yield
    finally:
        _first_acts.remove(act)


def run_first_acts() -> None:
    """What a signal handler does first; an act that fails is reported and the stop goes on."""
    for act in list(_first_acts):
        try:
            act()
        except PirlError as error:
            # Not by logging: the handler may have interrupted it.
            os.write(2, f"error: {error}\n".encode(errors="replace"))


def interrupt_on_signals() -> None:
    """SIGTERM ends this process as Ctrl-C does: by an exception, so that every block cleans up.

    SIGINT is set too, because a shell starts background jobs with it ignored.
    """

    def handler(signum: int, frame: FrameType | None) -> None:
        run_first_acts()
        interrupt(signum, frame)

    for signum in stop_signals():
        signal.signal(signum, handler)


def end_with_parent(signum: int = signal.SIGKILL) -> None:
    """From now on the kernel sends `signum` to this process when the thread that forked it ends.

    For a process that somebody else starts and may leave behind. A parent that ended before this call is not
    noticed: nothing tells it from one that is process 1 of a container.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signum)


def _die_with(parent_pid: int) -> Callable[[], None]:
    """A pre-exec hook: the kernel kills the child when the thread that forked it ends."""

    def hook() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have died between fork and prctl.
        if os.getppid() != parent_pid:
            os._exit(1)
        # Shells start background jobs with SIGINT ignored; children must see Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return hook


class Watched(Protocol):
    """A process that somebody waits for or depends on, however it was started."""

    @property
    def role(self) -> str: ...

    def last_words(self) -> str:
        """What it said last (`last_words_of`); empty when nobody listened."""
        ...

    def poll(self) -> int | None:
        """Exit code, or None while it runs. Never blocks."""
        ...


class ProcessDiedError(PirlError):
    """A process ended that was needed; the message says which, of what, and its last words."""

    def __init__(self, what: str, dead: Sequence[Watched]) -> None:
        self.dead = tuple(dead)
        super().__init__(f"{what}: {how_they_ended(dead)}")


class TooLateError(PirlError):
    """Something did not come about within its deadline, while every process lived."""


def wait_until(
    condition: Callable[[], bool],
    *,
    what: str,
    deadline_s: float,
    needs: Sequence[Watched] = (),
    unharmed: Sequence[Watched] = (),
) -> None:
    """Wait for `condition`, for the death of a process that it depends on, or for the deadline.

    A process is looked at before the condition, so that what it did last still counts.

    Args:
        what: what is waited for, for the message of an error: "the first checkpoint".
        needs: the end of any of them, however it went, ends the wait.
        unharmed: may end by themselves; any other exit code than 0 ends the wait.

    Raises:
        ProcessDiedError: a process ended and the condition does not hold.
        TooLateError: the deadline passed.
    """
    end = time.monotonic() + deadline_s
    while True:
        dead = [p for p in needs if p.poll() is not None] + [p for p in unharmed if p.poll()]
        if condition():
            return
        if dead:
            raise ProcessDiedError(f"{what} cannot come any more", dead)
        if time.monotonic() >= end:
            raise TooLateError(f"{what} did not come within {deadline_s:.0f} s")
        time.sleep(_POLL_S)


def how_they_ended(processes: Sequence[Watched]) -> str:
    """How each process ended, those that a signal killed first: the others may have ended because of them."""
    killed_first = sorted(processes, key=lambda process: (process.poll() or 0) >= 0)
    return "; ".join(how_it_ended(process) for process in killed_first)


def how_it_ended(process: Watched) -> str:
    """`actor-0 was killed by SIGKILL, its last line: ...`."""
    code = process.poll()
    if code is None:
        return f"{process.role} still runs"
    ended = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    line = process.last_words()
    return f"{process.role} {ended}" + (f", its last line: {line}" if line else "")


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def logged_lines(log_path: Path | None) -> list[str]:
    """The last lines of a log, which can be of any size; none when there is no log."""
    if log_path is None or not log_path.is_file():
        return []
    with log_path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()


def last_words_of(lines: Iterable[str]) -> str:
    """The message that a process of ours ends with (`pirl.guard`), or else its last line."""
    said = [line.rstrip() for line in lines if line.strip()]
    starts = [place for place, line in enumerate(said) if line.startswith("error: ")]
    if not starts:
        return (said or [""])[-1].strip()[:_LINE_CHARS]
    first, *rest = said[starts[-1] :]
    more = itertools.takewhile(lambda line: not _LOG_LINE.match(line), rest)
    return " ".join(line.strip() for line in (first, *more))[:_LINE_CHARS]


@dataclass(slots=True, kw_only=True)
class Child:
    """One child process in its own session, with the log it writes."""

    role: str
    argv: tuple[str, ...]
    log_path: Path | None
    process: subprocess.Popen[bytes]
    heard: deque[str] = field(default_factory=lambda: deque(maxlen=_HEARD_LINES))
    """Its last lines, where this process reads its output."""
    started_unix: float = field(default_factory=time.time)
    ended_unix: float | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        return last_words_of([*logged_lines(self.log_path), *self.heard])

    def poll(self) -> int | None:
        """Exit code, or None while it runs. Never blocks."""
        code = self.process.poll()
        if code is not None and self.ended_unix is None:
            self.ended_unix = time.time()
        return code

    def wait(self, timeout_s: float) -> int | None:
        """Exit code, or None when the deadline passes first."""
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)
        return code

    def signal_group(self, signum: int) -> None:
        """Send `signum` to the child's whole session; a group that is gone is no error."""
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return

    def stop(self, grace_s: float = 5.0) -> int:
        """TERM the group, wait `grace_s`, then KILL it; returns the exit code."""
        if self.poll() is None:
            self.signal_group(signal.SIGTERM)
            self.wait(grace_s)
        # The leader may have ended and left members of its group behind.
        self.signal_group(signal.SIGKILL)
        code = self.wait(5.0)
        return -signal.SIGKILL if code is None else code


def spawn(
    role: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    log_path: Path | None = None,
    cwd: Path | None = None,
    stdout: int | IO[bytes] | None = None,
) -> Child:
    """Start `argv` in its own session with no standard input.

    With `log_path`, stdout and stderr go there; with `stdout`, both go to that stream or pipe.
    """
    full_env = {**os.environ, **(env or {})}
    stream: int | IO[bytes] | None = stdout
    opened: IO[bytes] | None = None
    if log_path is not None:
        with writing(log_path):
            log_path.parent.mkdir(parents=True, exist_ok=True)
            opened = log_path.open("ab")
        stream = opened
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT if stream is not None else None,
            env=full_env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )
    finally:
        if opened is not None:
            opened.close()
    return Child(role=role, argv=tuple(argv), log_path=log_path, process=process)


class ProcessGroup:
    """Children that end together: leaving the block stops whatever still runs."""

    def __init__(self, *, grace_s: float = 8.0) -> None:
        self.children: list[Child] = []
        self._grace_s = grace_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def add(self, child: Child) -> Child:
        """Own `child` until the block ends."""
        self.children.append(child)
        return child

    def stop(self) -> None:
        """TERM all groups at once, then KILL what is left after the grace period."""
        for child in self.children:
            if child.poll() is None:
                child.signal_group(signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        for child in self.children:
            child.wait(max(0.0, deadline - time.monotonic()))
        for child in self.children:
            child.stop(grace_s=0.0)
