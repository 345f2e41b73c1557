"""What a person sees of a launched run: lines, progress with the time left, and logs in the run folder."""

from __future__ import annotations

import io
import json
import sys

import pytest

from pirl.runtime import pace, screen
from pirl.runtime.layout import RunFolder
from pirl.runtime.pace import Pace, duration, left_s
from pirl.runtime.run_log import RunLog
from pirl.runtime.screen import Progress


def row(folder: RunFolder, step: int) -> None:
    folder.learner_metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics = {"rollout/successes": 1.0, "rollout/episodes": 4.0, "update/approx_kl": 0.5}
    with folder.learner_metrics.open("a") as file:
        file.write(json.dumps({"step": step, "metrics": metrics}) + "\n")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_without_a_terminal_each_update_is_a_line_with_the_time_left(tmp_path, monkeypatch, clock):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    folder = RunFolder(tmp_path)
    progress = Progress(folder, 10, quiet=False, has_lines=False)
    for step in (1, 2):
        clock.now += 60
        row(folder, step)
        progress.refresh()
        progress.refresh()
    assert said.getvalue().splitlines() == [
        "update 1 of 10, about 9 min 00 s left: 1/4 episodes, kl 0.5",
        "update 2 of 10, about 8 min 00 s left: 1/4 episodes, kl 0.5",
    ]


@pytest.mark.parametrize(
    "how", [{"quiet": True, "has_lines": False}, {"quiet": False, "has_lines": True}]
)
def test_nothing_is_said_twice_or_to_who_wants_quiet(tmp_path, monkeypatch, how):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    folder = RunFolder(tmp_path)
    progress = Progress(folder, 10, **how)
    row(folder, 1)
    progress.refresh()
    assert said.getvalue() == ""


def test_a_person_is_sent_to_watch_a_run_when_there_is_one_and_once(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    begun = []
    how = {"has_lines": True, "has_begun": lambda: bool(begun)}
    told, hushed = Progress(folder, 10, quiet=False, **how), Progress(folder, 10, quiet=True, **how)
    with caplog.at_level("INFO"):
        # Of the run that this one resumes.
        folder.effective_config("learner").parent.mkdir()
        folder.effective_config("learner").write_text("{}")
        told.refresh()
        assert caplog.messages == []
        begun.append(True)
        for progress in (told, told, hushed):
            progress.refresh()
    assert caplog.messages == [f"from another terminal: pirl watch {tmp_path}"]


def test_a_resumed_run_counts_its_time_from_its_own_start(tmp_path, monkeypatch, clock):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    folder = RunFolder(tmp_path)
    row(folder, 5)
    progress = Progress(folder, 10, quiet=False, has_lines=False)
    progress.refresh()
    clock.now += 30
    row(folder, 6)
    progress.refresh()
    assert said.getvalue().splitlines()[-1].startswith("update 6 of 10, about 2 min 00 s left")


def test_a_terminal_has_a_bar_for_the_whole_run(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = Terminal()
    monkeypatch.setattr(sys, "stderr", said)
    folder = RunFolder(tmp_path)
    progress = Progress(folder, 10, quiet=False, has_lines=False)
    row(folder, 3)
    progress.refresh()
    progress.close()
    assert "3/10" in said.getvalue()
    assert "update 3 of" not in said.getvalue()


def test_the_time_left_is_the_median_of_the_last_updates(clock):
    assert left_s([0, 10, 20, 100], 3) == 30
    # The clock of a row starts anew with a resume.
    assert left_s([50, 60, 0, 10], 2) == 20
    assert left_s([5], 2) is None
    timed = Pace()
    assert timed.left(4) == ""
    clock.now += 5
    timed.note()
    assert timed.left(4) == ", about 0 min 20 s left"
    assert timed.left(0) == ""
    assert duration(3720) == "1 h 02 min"


def test_lines_wait_until_the_learner_has_begun_and_stay_in_the_run_folder(tmp_path):
    begun: list[bool] = []
    log = RunLog(tmp_path / "run", has_begun=lambda: bool(begun))
    log.write("learner", "first")
    assert not (tmp_path / "run").exists()
    begun.append(True)
    log.write("actor-0", "second")
    log.write("learner", "third")
    log.close()
    assert (tmp_path / "run/logs/learner.log").read_text() == "first\nthird\n"
    assert (tmp_path / "run/logs/actor-0.log").read_text() == "second\n"


def test_nothing_is_written_into_a_folder_that_the_run_never_had(tmp_path):
    log = RunLog(tmp_path / "run", has_begun=lambda: False)
    log.write("learner", "error: another process has the folder")
    log.close()
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, caplog):
    (tmp_path / "logs").touch()
    log = RunLog(tmp_path, has_begun=lambda: True)
    log.write("learner", "first")
    log.write("learner", "second")
    log.close()
    assert len([r for r in caplog.records if "no more logs" in r.getMessage()]) == 1
    assert screen.RunLog is RunLog
