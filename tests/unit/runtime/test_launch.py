"""How a launched run is watched: what ends it, with which exit code, and how soon."""

from __future__ import annotations

import errno
import io
import sys
import threading
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from pirl.errors import ExitCode
from pirl.runtime import launch, procs
from pirl.runtime.screen import LogPump

NEVER = float("inf")


@dataclass
class Clock:
    """Time that passes only when somebody sleeps."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Process:
    """Ends with `code` at `ends_at`."""

    clock: Clock
    role: str
    code: int
    ends_at: float

    def last_words(self) -> str:
        return ""

    def poll(self) -> int | None:
        return self.code if self.clock.now >= self.ends_at else None

    def wait(self, timeout_s: float) -> int | None:
        self.clock.sleep(timeout_s)
        return self.poll()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(procs, "time", clock)
    return clock


def watch(clock, learner, *actors, stop=None, deadline_s=None):
    """Exit code and reason of a run whose processes end with (code, seconds)."""
    processes = [
        Process(clock, role, *end)
        for role, end in zip(("learner", "actor-0", "actor-1"), (learner, *actors), strict=False)
    ]
    progress = SimpleNamespace(refresh=lambda: None)
    return launch._watch(
        processes[0], processes[1:], stop or threading.Event(), progress, deadline_s
    )


@pytest.mark.parametrize(
    ("learner", "first", "second", "code", "within_s"),
    [
        pytest.param((0, 9.0), (0, 9.5), (0, 8.0), ExitCode.OK, 9.6, id="all finish"),
        pytest.param((-9, 3.0), (1, 4.0), (0, NEVER), ExitCode.CHECK_FAILED, 3.1, id="learner killed"),
        pytest.param((5, 3.0), (0, NEVER), (0, NEVER), ExitCode.MISMATCH, 3.1, id="learner refuses"),
        pytest.param((0, NEVER), (-9, 2.0), (0, NEVER), ExitCode.CHECK_FAILED, 3.1, id="actor killed"),
        pytest.param((0, NEVER), (0, NEVER), (5, 2.0), ExitCode.MISMATCH, 3.1, id="actor refuses"),
        pytest.param((0, 2.0), (0, 3.0), (-9, 3.0), ExitCode.CHECK_FAILED, 4.1, id="actor dies last"),
        pytest.param((0, 2.0), (3, 1.9), (0, 2.0), ExitCode.NOT_READY, 3.1, id="actor fails, learner not"),
    ],
)  # fmt: skip
def test_run_ends_with_the_code_of_what_ended_it_and_soon(
    clock, learner, first, second, code, within_s
):
    assert watch(clock, learner, first, second)[0] is code
    assert clock.now <= within_s


def test_an_actor_that_does_not_end_after_its_learner_fails_the_run(clock):
    code, reason = watch(clock, (0, 5.0), (0, 5.0), (0, NEVER))
    assert (code, clock.now) == (ExitCode.CHECK_FAILED, pytest.approx(35.0, abs=0.2))
    assert reason == "the end of the other processes after their learner's did not come within 30 s"


def test_a_run_that_is_told_to_stop_is_interrupted_at_once(clock):
    stop = threading.Event()
    stop.set()
    assert watch(clock, (0, NEVER), (0, NEVER), stop=stop) == (
        ExitCode.INTERRUPTED,
        "told to stop",
    )
    assert clock.now == 0.0


def test_a_run_that_outlives_its_deadline_says_so(clock):
    code, reason = watch(clock, (0, NEVER), (0, NEVER), deadline_s=40.0)
    assert (code, reason) == (ExitCode.CHECK_FAILED, "the end of the run did not come within 40 s")


class Unread(io.StringIO):
    """A pipe whose reader is gone, as after `| head`."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_output_that_nobody_reads_any_more_holds_no_process_up(monkeypatch):
    """A process that writes into a full pipe waits, and a learner that waits for its log waits for ever."""
    monkeypatch.setattr(sys, "stderr", Unread())
    stream = io.BytesIO(b"one\n" * 1000 + b"x" * 10**6 + b"\nerror: the last\n")
    child = SimpleNamespace(role="learner", heard=deque(maxlen=20))
    LogPump(None, quiet=False)._copy(child, stream)
    assert stream.read() == b""
    assert child.heard[-1] == "error: the last"
    assert max(len(line) for line in child.heard) <= 2**16
