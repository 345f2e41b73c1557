"""One way for every entry point to end: one message on stderr and an exit code, never a traceback.

Owns the edge between pirl and the shell. A deliberate error keeps its code, a foreign one of a known kind is
translated (`pirl.foreign`), anything else ends with 1 and a report file. Nothing can prompt: standard input
reads as empty. Nothing fails because its terminal went away (`pirl.streams`).
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pirl.errors import ExitCode
from pirl.foreign import as_pirl_error
from pirl.secrecy import shown_command, without_secrets
from pirl.streams import lost_answer, outlive_streams
from pirl.terminal import VERBOSE, cut_message, is_terminal

_stopped = threading.Event()
"""Whether a signal interrupted the command."""


def run_guarded(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; whatever it raises becomes one message on stderr and an exit code.

    `SystemExit` passes: it is how argparse ends. A process that is stopped before it has begun, while it still
    imports, has no folder yet and so no record: it ends with the line `interrupted`.
    """
    _stopped.clear()
    _end_in_order_when_stopped()
    outlive_streams()
    _tell_tries_once()
    try:
        with _no_prompt():
            code = int(command(argv))
        return _delivered(code)
    except KeyboardInterrupt:
        return _end("interrupted", ExitCode.INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the one place that may catch everything, panics of Rust too
        if _stopped.is_set():
            # A library that catches everything made something else of the interrupt.
            return _end("interrupted", ExitCode.INTERRUPTED)
        found = as_pirl_error(error)
        if found is None:
            return _end(_unexpected(error), ExitCode.CHECK_FAILED)
        message = f"error: {found}"
        is_cut = is_terminal() and VERBOSE not in argv
        return _end(cut_message(message) if is_cut else message, found.exit_code)


class _OnceEach(logging.Filter):
    """The hub's client says the same two lines at each of its five tries: each is told once."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """As `logging.Filter.filter`."""
        text = record.getMessage()
        what = "Retrying" if text.startswith("Retrying") else text
        is_new = what not in self._told
        self._told.add(what)
        return is_new


def _tell_tries_once() -> None:
    hub = logging.getLogger("huggingface_hub.utils._http")
    hub.filters[:] = [f for f in hub.filters if not isinstance(f, _OnceEach)]
    hub.addFilter(_OnceEach())


def _end_in_order_when_stopped() -> None:
    """As Ctrl-C does, until the command has a handler of its own; then importing has taken half a minute."""
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in stop_signals():
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, interrupt)


def interrupt(_signum: int, _frame: FrameType | None) -> NoReturn:
    """A signal handler: end as Ctrl-C does, whatever becomes of the exception on its way."""
    _stopped.set()
    raise KeyboardInterrupt


def stop_signals() -> list[signal.Signals]:
    """What asks a process to end in order: Ctrl-C, a manager, a terminal that closes.

    `nohup` has the last one ignored, and that stays.
    """
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def _end(message: str, code: int) -> int:
    sys.stderr.write(without_secrets(message) + "\n")
    return int(code)


def _delivered(code: int) -> int:
    """`code`, or 3 for a success whose answer nobody got; 1 would say that a check failed."""
    lost = lost_answer()
    if lost is None:
        return code
    return _end(
        f"error: standard output did not take the answer: {lost.strerror}\n"
        "  fix: ask again with another output; files that the command wrote are complete",
        code or ExitCode.NOT_READY,
    )


@contextmanager
def _no_prompt() -> Generator[None]:
    """Whoever asks on standard input gets the end of the file; a program that replaces this one has it again."""
    given = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = given


def _unexpected(error: BaseException) -> str:
    """The message for an error of no known kind; its traceback goes to a file."""
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    report = _write_report(error)
    where = "no report could be written" if report is None else f"report: {report}"
    title = f"unexpected {type(error).__name__}"
    body = "" if report is None else f" --body-file {report}"
    return (
        f"error: unexpected {what}\n"
        f"  this is a fault of pirl, or of a library it uses; {where}\n"
        f'  fix: report it: gh issue create --title "{title}"{body}'
    )


def _write_report(error: BaseException) -> Path | None:
    """Traceback, versions and command, without secrets, in a temporary file of this user's own."""
    lines = [
        f"command: {shown_command()}",
        f"pirl {_version('pirl')}, lerobot {_version('lerobot')}, torch {_version('torch')}",
        f"python {platform.python_version()}, {platform.platform()}",
        "",
        *traceback.format_exception(error),
    ]
    text = without_secrets("\n".join(lines), guess=True)
    with suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="pirl-report-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return Path(name)
    return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
