"""Whoever starts a gate may die or be stopped: the gate notices, and its forked processes go with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

# Stands for DVC: starts the stage's process, says which, and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(child.pid, flush=True)
time.sleep(600)
"""

CHILD = """
import pathlib, signal, sys, time
from pirl.runtime.procs import end_with_parent, interrupt_on_signals
out = pathlib.Path(sys.argv[1])
interrupt_on_signals()
end_with_parent(signal.SIGTERM)
out.write_text("ready")
try:
    time.sleep(600)
except KeyboardInterrupt:
    out.write_text("cleaned up")
    sys.exit(4)
"""

FORKER = """
import pathlib, sys, time
from pirl.gate import forked
forked.PRELOAD.clear()
out = pathlib.Path(sys.argv[1])
if __name__ == "__main__":
    with forked.ForkedGroup() as group:
        child = group.start("sleeper", [str(out)], env={}, log_path=out.with_suffix(".log"))
        time.sleep(600)
"""

SLEEPER = """
import os, pathlib, time
def main(argv):
    pathlib.Path(argv[0]).write_text(str(os.getpid()))
    time.sleep(600)
    return 0
"""


def eventually(condition: Callable[[], bool], *, seconds: float = 120.0) -> bool:
    """Whether the condition holds before the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    """Whether the process ended; one that nobody has reaped counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_stage_whose_dvc_was_killed_is_interrupted_and_cleans_up(tmp_path, signum):
    out = tmp_path / "state"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        pid = int(parent.stdout.readline())
        assert eventually(lambda: out.exists() and out.read_text() == "ready")
        parent.send_signal(signum)
        assert eventually(lambda: is_gone(pid))
        assert out.read_text() == "cleaned up"
    finally:
        parent.kill()
        parent.wait(10)
        parent.stdout.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_forked_process_ends_with_the_gate_that_was_killed(tmp_path, signum):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "forker.py").write_text(FORKER)
    out = tmp_path / "pid.txt"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    gate = subprocess.Popen([sys.executable, str(tmp_path / "forker.py"), str(out)], env=env)
    try:
        assert eventually(lambda: out.exists() and out.read_text() != "")
        child = int(out.read_text())
        assert not is_gone(child)
        gate.send_signal(signum)
        assert eventually(lambda: is_gone(child), seconds=20.0)
    finally:
        gate.kill()
        gate.wait(10)


def test_closed_group_starts_nothing(tmp_path):
    from pirl.gate.forked import ForkedGroup

    with ForkedGroup() as group:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        group.start("sleeper", [], env={}, log_path=tmp_path / "log")
