"""Waiting for something that processes bring about: the condition, a death or the deadline ends it, in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pirl.runtime import procs
from pirl.runtime.entry import stop_on_signals
from pirl.runtime.procs import ProcessDiedError, TooLateError, how_they_ended, wait_until


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
    role: str = "actor-0"
    code: int = 0
    ends_at: float = float("inf")
    log_path: Path | None = None
    polls: list[float] = field(default_factory=list)

    def last_words(self) -> str:
        return procs.last_words_of(procs.logged_lines(self.log_path))

    def poll(self) -> int | None:
        self.polls.append(self.clock.now)
        return self.code if self.clock.now >= self.ends_at else None


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(procs, "time", clock)
    return clock


def wait(clock: Clock, *, holds_at: float = float("inf"), **options) -> None:
    wait_until(
        lambda: clock.now >= holds_at, what="the checkpoint", **{"deadline_s": 100.0} | options
    )


def test_condition_that_holds_ends_the_wait_with_every_process_alive(clock):
    wait(clock, holds_at=3.0, needs=[Process(clock)], unharmed=[Process(clock)])
    assert clock.now == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("code", [0, 1, -9])
def test_end_of_a_needed_process_ends_the_wait_at_once_whatever_its_code(clock, code):
    with pytest.raises(ProcessDiedError, match="the checkpoint cannot come any more: actor-0"):
        wait(clock, needs=[Process(clock), Process(clock, code=code, ends_at=2.0)])
    assert clock.now == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("code", [1, 4, -9])
def test_failure_of_a_companion_ends_the_wait_at_once(clock, code):
    with pytest.raises(ProcessDiedError):
        wait(clock, unharmed=[Process(clock), Process(clock, code=code, ends_at=2.0)])
    assert clock.now == pytest.approx(2.0, abs=0.1)


def test_companion_that_finished_harms_nothing(clock):
    wait(clock, holds_at=5.0, unharmed=[Process(clock, ends_at=2.0)])
    assert clock.now == pytest.approx(5.0, abs=0.1)


def test_what_a_process_did_last_still_counts(clock):
    wait(clock, holds_at=2.0, needs=[Process(clock, code=-9, ends_at=2.0)])


def test_deadline_ends_a_wait_in_which_nothing_dies(clock):
    with pytest.raises(TooLateError, match="the checkpoint did not come within 7 s"):
        wait(clock, deadline_s=7.0, needs=[Process(clock)])
    assert clock.now == pytest.approx(7.0, abs=0.1)


def test_error_of_the_condition_is_not_swallowed(clock):
    def refuses() -> bool:
        raise LookupError("refused")

    with pytest.raises(LookupError):
        wait_until(refuses, what="it", deadline_s=1.0)


def test_it_is_said_which_process_ended_of_what_and_what_it_said_last(clock, tmp_path):
    log = tmp_path / "actor-0.log"
    log.write_text(
        "linked\nerror: simulator worker 0 died\n  fix: see its log\n12:00:00 actor-0 INFO link: closed\n\n"
    )
    plain = tmp_path / "learner.log"
    plain.write_text("starting\nupdate 2/3\n")
    dead = [
        Process(clock, code=1, ends_at=0.0, log_path=log),
        Process(clock, role="learner", code=-9, ends_at=0.0, log_path=plain),
        Process(clock, role="actor-1", code=-11, ends_at=0.0, log_path=tmp_path / "none.log"),
    ]
    assert how_they_ended(dead) == (
        "learner was killed by SIGKILL, its last line: update 2/3; "
        "actor-1 was killed by SIGSEGV; "
        "actor-0 ended with exit code 1, its last line: error: simulator worker 0 died "
        "fix: see its log"
    )


def test_a_signal_number_without_a_name_is_shown_as_a_number(clock):
    assert how_they_ended([Process(clock, code=-50, ends_at=0.0)]).endswith("killed by signal 50")


def test_last_line_of_any_length_stays_readable(clock, tmp_path):
    log = tmp_path / "log"
    log.write_text("x" * 100_000)
    assert len(how_they_ended([Process(clock, ends_at=0.0, log_path=log)])) < 1000


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_or_a_closing_terminal_does_the_first_acts_and_sets_the_event(signum):
    before = {known: signal.getsignal(known) for known in SIGNALS}
    done: list[str] = []
    try:
        for known in SIGNALS:
            signal.signal(known, signal.SIG_DFL)
        stop = stop_on_signals()
        with procs.first_act(lambda: done.append("record")):
            signal.raise_signal(signum)
        assert stop.is_set()
        assert done == ["record"]
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
