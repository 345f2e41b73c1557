"""Forked processes: their exit codes are read once, whoever asks and whatever starts meanwhile."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import wait as sentinels_ready

import pytest

from pirl.gate import forked

pytestmark = pytest.mark.integration


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that ends with the exit code it is given; nothing else is imported by the fork server."""
    (tmp_path / "quick_end.py").write_text("def main(argv):\n    return int(argv[0])\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forked, "PRELOAD", [])
    return "quick_end"


def test_exit_code_survives_another_start_at_the_moment_it_is_read(module, tmp_path, monkeypatch):
    read = forkserver.read_signed

    def slow_read(fd: int) -> int:
        # Widens the window in which a second reader finds an empty pipe: 255 instead of the code.
        time.sleep(0.3)
        return read(fd)

    monkeypatch.setattr(forkserver, "read_signed", slow_read)
    with ForkedGroupOf(module, tmp_path) as start, ThreadPoolExecutor(1) as pool:
        first = start(5)
        assert sentinels_ready([first.sentinel], 60.0)
        waiting = pool.submit(forked.wait, first, 60.0)
        time.sleep(0.1)
        second = start(2)
        assert waiting.result(timeout=60.0) == 5
        assert forked.exit_code(first) == 5
        assert forked.wait(second, 60.0) == 2


def test_exit_code_stays_known_while_the_fork_server_has_not_closed_its_pipe(
    module, tmp_path, monkeypatch
):
    with ForkedGroupOf(module, tmp_path) as start:
        process = start(5)
        assert forked.wait(process, 60.0) == 5
        # What a reader sees between the server's write and its close, after the code was read.
        monkeypatch.setattr(forked, "sentinels_ready", lambda *_: [])
        assert process.poll() == 5


def test_process_that_outlives_its_deadline_is_killed_and_has_no_exit_code(tmp_path, monkeypatch):
    (tmp_path / "sleeper.py").write_text(
        "import time\n\ndef main(argv):\n    time.sleep(600)\n    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forked, "PRELOAD", [])
    with ForkedGroupOf("sleeper", tmp_path) as start:
        process = start(0)
        assert forked.wait(process, 0.2) is None
        assert forked.exit_code(process, 10.0) == -9


class ForkedGroupOf:
    """A group that starts one module over and over."""

    def __init__(self, module: str, folder) -> None:
        self._module = module
        self._folder = folder
        self._group = forked.ForkedGroup()

    def __enter__(self):
        self._group.__enter__()
        return self._start

    def __exit__(self, *error) -> None:
        self._group.__exit__(*error)

    def _start(self, code: int):
        return self._group.start(
            self._module, [str(code)], env={}, log_path=self._folder / "log.txt"
        )
