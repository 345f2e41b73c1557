"""When a record is written, and what a failed write may cost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pirl.errors import EnvError, EnvironmentNotReadyError
from pirl.files import write_json
from pirl.runtime import learner, record
from pirl.runtime.procs import first_act, interrupt_on_signals
from pirl.runtime.record import RunRecord


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def signals():
    """Handlers of SIGINT and SIGTERM are put back."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    interrupt_on_signals()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_writes_the_record_before_anything_else_happens(tmp_path):
    path = tmp_path / "eval" / "run.json"
    seen: list[dict] = []

    def evaluate() -> None:
        with RunRecord(path, role="eval") as own:
            own.facts["episodes"] = 3
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                # The slow part: whatever the block has to close.
                seen.append(read(path))

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert seen[0] | {"hooks": []} == {
        "role": "eval", "pid": os.getpid(), "hooks": [], "episodes": 3,
        "exit_reason": "interrupted", "complete": False,
    }  # fmt: skip
    assert read(path)["exit_reason"] == "interrupted"


@pytest.mark.usefixtures("signals")
def test_a_late_signal_does_not_undo_a_record(tmp_path):
    def end() -> None:
        with RunRecord(tmp_path / "run.json", role="x") as own:
            own.write("finished", complete=True)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        end()
    assert read(tmp_path / "run.json")["exit_reason"] == "finished"


@pytest.mark.usefixtures("signals")
def test_an_act_that_fails_does_not_keep_the_signal_from_its_work(capfd):
    def fail() -> None:
        raise EnvironmentNotReadyError("cannot write x", remedy="y")

    with pytest.raises(KeyboardInterrupt), first_act(fail):
        os.kill(os.getpid(), signal.SIGTERM)
    assert "cannot write x" in capfd.readouterr().err


def test_an_error_is_the_reason_and_stays_the_error(tmp_path, monkeypatch, caplog):
    with pytest.raises(EnvError), RunRecord(tmp_path / "run.json", role="x"):
        raise EnvError("task 3")
    assert read(tmp_path / "run.json")["exit_reason"] == "EnvError: task 3"

    def full(*_: object) -> None:
        raise EnvironmentNotReadyError("cannot write", remedy="y")

    monkeypatch.setattr(record, "write_json", full)
    with pytest.raises(EnvError), RunRecord(tmp_path / "run.json", role="x"):
        raise EnvError("task 4")
    assert "the record is lost" in caplog.text
    with pytest.raises(EnvironmentNotReadyError), RunRecord(tmp_path / "run.json", role="x") as own:
        own.write("finished")


@pytest.mark.usefixtures("signals")
def test_a_refused_resume_keeps_the_record_of_the_run(tmp_path):
    path = write_json(tmp_path / "run.json", {"exit_reason": "finished"})
    with pytest.raises(EnvError), RunRecord(path, role="learner", keep_earlier=True):
        raise EnvError("no")
    with pytest.raises(KeyboardInterrupt), RunRecord(path, role="learner", keep_earlier=True):
        os.kill(os.getpid(), signal.SIGTERM)
    assert read(path) == {"exit_reason": "finished"}


def test_nobody_writes_into_a_folder_that_is_not_theirs(tmp_path):
    with RunRecord(tmp_path / "run.json", role="launch", is_ours=lambda: False) as own:
        own.write("finished", complete=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "undone",
    [b'{"step": 3}\n', b'{"st', b"\0\0\0\n", b"[]\n", b'{"step": "x"}\n', b'{"step": null}\n'],
)
def test_rows_that_a_crash_undid_or_damaged_are_moved_not_lost(undone, tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(kept + undone)
    learner._set_aside_rows_after(path, 2)
    assert path.read_bytes() == kept
    assert (tmp_path / f"metrics.undone-{os.getpid()}.jsonl").read_bytes() == undone
