"""A process that is stopped while it still imports: one line, its exit code, and nothing in the run's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/train_config_pirl_embedded.json"
DEADLINE_S = 120.0
SLOW_TORCH = """
import os, pathlib, time
pathlib.Path(os.environ["IMPORTING"], str(os.getpid())).touch()
time.sleep(600)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    ("command", "importing"),
    [(["pirl.learner"], 1), (["pirl.actor"], 1), (["pirl.cli", "launch", "--actors", "1"], 2)],
    ids=["learner", "actor", "launch"],
)
def test_a_stop_during_the_imports_is_a_line_and_an_exit_code(
    tmp_path: Path, command: list[str], importing: int, signum: int
):
    seen, site, run = (tmp_path / name for name in ("seen", "site", "run"))
    seen.mkdir()
    site.mkdir()
    (site / "torch.py").write_text(SLOW_TORCH)
    settings = ["--config_path", CONFIG, f"--output_dir={run}", "--runtime.port=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, *settings],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": f"{site}:{REPO}", "IMPORTING": str(seen)},
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background, or under nohup, hands on that the signal is ignored.
        preexec_fn=lambda: signal.signal(signum, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: len(list(seen.iterdir())) == importing or process.poll() is not None)
        process.send_signal(signum)
        _, said = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 4, said
    assert "Traceback" not in said
    assert "interrupted" in said
    assert not run.exists()
    assert not any(psutil.pid_exists(int(path.name)) for path in seen.iterdir())


def test_under_nohup_a_closed_terminal_stops_nobody():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code += "from pirl.guard import stop_signals; print(*map(int, stop_signals()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.stdout.split() == [str(int(s)) for s in (signal.SIGINT, signal.SIGTERM)]
