"""What a person sees of a run that `pirl launch` started: the lines of its processes and how far it is.

Owns prefixes, cuts and the progress bar. Nobody who does not read holds a process up.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pirl.journal.metric_log import read_json_lines
from pirl.runtime.layout import RunFolder
from pirl.runtime.pace import Pace
from pirl.runtime.procs import Child, spawn
from pirl.runtime.run_log import RunLog
from pirl.terminal import cut_line

logger = logging.getLogger(__name__)

_LINE_BYTES = 2**16


class LogPump:
    """Gives every child its log: a file each, or its lines on stderr behind its role and in the run folder."""

    def __init__(
        self,
        log_dir: Path | None,
        log: RunLog | None = None,
        *,
        quiet: bool,
        is_cut: bool = False,
    ) -> None:
        self._log_dir = log_dir
        self._log = log
        self._is_cut = is_cut
        self._quiet = quiet
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> LogPump:
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        if self._log is not None:
            self._log.close()

    def drain(self) -> None:
        """Read what processes that have ended still said."""
        for thread in self._threads:
            thread.join(timeout=5.0)

    def spawn(self, role: str, argv: Sequence[str], env: Mapping[str, str] | None) -> Child:
        if self._log_dir is not None:
            return spawn(role, argv, env=env, log_path=self._log_dir / f"{role}.log")
        child = spawn(role, argv, env=env, stdout=subprocess.PIPE)
        stream = child.process.stdout
        if stream is not None:
            thread = threading.Thread(target=self._copy, args=(child, stream), daemon=True)
            thread.start()
            self._threads.append(thread)
        return child

    def _copy(self, child: Child, stream: IO[bytes]) -> None:
        # In pieces: whoever writes without a newline must not fill this process.
        for raw in iter(lambda: stream.readline(_LINE_BYTES), b""):
            line = raw.decode(errors="replace").rstrip()
            child.heard.append(line)
            if self._log is not None:
                self._log.write(child.role, line)
            if self._quiet:
                continue
            # Without a reader for it (`| head`, a terminal that closed) the process must not wait for one either.
            with self._lock, suppress(OSError, ValueError):
                shown = cut_line(line) if self._is_cut else line
                tqdm.write(f"[{child.role}] {shown}", file=sys.stderr)


class Progress:
    """Updates done and the time that is left, on stderr: a bar on a terminal, elsewhere a line for each update."""

    def __init__(
        self,
        folder: RunFolder,
        total_updates: int,
        *,
        quiet: bool,
        has_lines: bool,
        has_begun: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            has_begun: whether the learner works in the folder: then a person is told how to watch.
            has_lines: the learner's own lines appear on stderr, and say the same.
        """
        self._root, self._config = folder.root, folder.effective_config("learner")
        self._has_begun = has_begun
        self._is_told = quiet
        self._path = folder.learner_metrics
        self._pace = Pace()
        self._says = not (quiet or has_lines or sys.stderr.isatty())
        self._bar = tqdm(
            total=total_updates,
            unit="update",
            file=sys.stderr,
            disable=quiet or not sys.stderr.isatty(),
            initial=self._done(),
            mininterval=1.0,
        )
        self._size = -1

    def _done(self) -> int:
        """Updates before this start of the run."""
        found = self._path.exists()
        rows = read_json_lines(self._path, allow_torn_tail=True) if found else []
        return int(rows[-1]["step"]) if rows else 0

    def refresh(self) -> None:
        """Show the last row; a file that has not grown is not read again."""
        if not self._is_told and self._has_begun() and self._config.exists():
            # Only now: before, there is nothing to watch, and `pirl watch` would say so.
            self._is_told = True
            logger.info("from another terminal: pirl watch %s", self._root)
        size = self._path.stat().st_size if self._path.exists() else -1
        if size == self._size:
            return
        self._size = size
        rows = read_json_lines(self._path, allow_torn_tail=True)
        if rows:
            last, done = rows[-1]["metrics"], int(rows[-1]["step"])
            told = (
                f"{last.get('rollout/successes', 0):.0f}/{last.get('rollout/episodes', 0):.0f} episodes, "
                f"kl {last.get('update/approx_kl', 0):.3g}"
            )
            if done > self._bar.n:
                self._pace.note()
            with suppress(OSError, ValueError):
                if self._says:
                    left = self._pace.left(self._bar.total - done)
                    sys.stderr.write(f"update {done} of {self._bar.total}{left}: {told}\n")
                self._bar.set_postfix_str(told, refresh=False)
                self._bar.n = done
                self._bar.refresh()

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        with suppress(OSError):
            self._bar.close()
