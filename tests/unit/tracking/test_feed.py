"""A tracker that fails, hangs or is slow: the run goes on, one warning says how to mend it, rows are counted."""

from __future__ import annotations

import logging
import threading

import pytest

from pirl.tracking import feed
from pirl.tracking.feed import Feed


class Kept:
    """A tracker that keeps its rows; `fails` are the steps that it does not take."""

    def __init__(self, *, fails: tuple[int, ...] = (), gate: threading.Event | None = None) -> None:
        self.rows: list[tuple[int, dict]] = []
        self.finished: bool | None = None
        self._fails, self._gate = fails, gate

    def write(self, step, metrics):
        if self._gate is not None:
            assert self._gate.wait(10)
        if step in self._fails:
            raise OSError("No space left\non device")
        self.rows.append((step, metrics))

    def video(self, step, path):
        self.write(step, path)

    def close(self, *, finished):
        self.finished = finished


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_every_row_arrives_in_order_and_the_end_is_told(caplog):
    tracker = Kept()
    to = Feed("kept", lambda: tracker, fix="do x")
    to.wait_until_open()
    row = {"a": 1.0}
    for step in (1, 2, 3):
        to.row(step, row)
    row["a"] = 2.0
    assert to.close(finished=True) == {"rows": 3, "lost": 0, "error": ""}
    assert tracker.rows == [(step, {"a": 1.0}) for step in (1, 2, 3)]
    assert tracker.finished is True
    assert warnings(caplog) == []


def test_a_video_arrives_between_its_rows_and_is_no_row(tmp_path):
    tracker = Kept()
    to = Feed("kept", lambda: tracker, fix="do x")
    to.row(1, {})
    to.video(1, tmp_path / "a.mp4")
    to.row(2, {})
    assert to.close(finished=True)["rows"] == 2
    assert tracker.rows == [(1, {}), (1, tmp_path / "a.mp4"), (2, {})]


def test_a_row_that_is_not_taken_is_lost_counted_and_warned_of_once(caplog):
    tracker = Kept(fails=(2, 3))
    to = Feed("kept", lambda: tracker, fix="make room")
    for step in (1, 2, 3, 4):
        to.row(step, {})
    assert to.close(finished=False) == {"rows": 4, "lost": 2, "error": "OSError: No space left"}
    assert [step for step, _ in tracker.rows] == [1, 4]
    assert tracker.finished is False
    assert warnings(caplog) == [
        "tracker kept: OSError: No space left; the run goes on, its rows are in learner/metrics.jsonl. fix: make"
        " room",
        "tracker kept lost 2 of 4 rows",
    ]


def test_a_tracker_that_does_not_open_loses_every_row_and_no_more(caplog):
    def refuses():
        raise RuntimeError("no account")

    to = Feed("kept", refuses, fix="log in")
    to.wait_until_open()
    to.row(1, {})
    assert to.close(finished=True) == {"rows": 1, "lost": 1, "error": "RuntimeError: no account"}
    assert "fix: log in" in warnings(caplog)[0]


def test_a_tracker_that_hangs_holds_nobody_up(caplog, monkeypatch):
    monkeypatch.setattr(feed, "OPEN_S", 0.05)
    monkeypatch.setattr(feed, "CLOSE_S", 0.05)
    monkeypatch.setattr(feed, "ROWS", 3)
    gate = threading.Event()
    opens = threading.Event()

    def slow():
        opens.wait(10)
        return Kept(gate=gate)

    to = Feed("slow", slow, fix="wait")
    to.wait_until_open()
    for step in range(6):
        to.row(step, {})
    found = to.close(finished=True)
    assert (found["rows"], found["lost"]) == (6, 6)
    assert warnings(caplog)[0].startswith("tracker slow: not open after 0.05 s")
    gate.set()
    opens.set()


@pytest.mark.parametrize("finished", [True, False])
def test_a_tracker_that_fails_at_its_end_has_kept_its_rows(caplog, finished):
    class Bad(Kept):
        def close(self, *, finished):
            raise ValueError

    to = Feed("bad", Bad, fix="x")
    to.row(1, {})
    assert to.close(finished=finished) == {"rows": 1, "lost": 0, "error": "ValueError"}
