"""One way for every entry point to end: one message on stderr and an exit code, never a traceback.

Owns the edge between pirl and the shell. A deliberate error keeps its code, a foreign one of a known kind is
translated (`pirl.foreign`), anything else ends with 1 and a report file. Nothing can prompt: standard input
reads as empty.
"""

from __future__ import annotations

import io
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

from pirl.errors import ExitCode
from pirl.foreign import as_pirl_error
from pirl.secrecy import shown_command, without_secrets
from pirl.terminal import VERBOSE, cut_message, is_terminal


def run_guarded(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; whatever it raises becomes one message on stderr and an exit code.

    `SystemExit` passes: it is how argparse ends. A process that is stopped before it has begun, while it still
    imports, has no folder yet and so no record: it ends with the line `interrupted`.
    """
    _end_in_order_when_stopped()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name from a damaged file may hold what no encoding can carry.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _no_prompt():
            code = int(command(argv))
            # Here and not when the interpreter ends, where a broken pipe could only be shown as a traceback.
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return _end("interrupted", ExitCode.INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the one place that may catch everything, panics of Rust too
        found = as_pirl_error(error)
        if found is None:
            return _end(_unexpected(error), ExitCode.CHECK_FAILED)
        message = f"error: {found}"
        is_cut = is_terminal() and VERBOSE not in argv
        return _end(cut_message(message) if is_cut else message, found.exit_code)


def _end_in_order_when_stopped() -> None:
    """As Ctrl-C does, until the command has a handler of its own; then importing has taken half a minute."""
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in stop_signals():
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, signal.default_int_handler)


def stop_signals() -> list[signal.Signals]:
    """What asks a process to end in order: Ctrl-C, a manager, a terminal that closes.

    `nohup` has the last one ignored, and that stays.
    """
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


def _end(message: str, code: ExitCode) -> int:
    _settle_stdout()
    # Without a reader for it there is nobody to tell.
    with suppress(OSError):
        sys.stderr.write(without_secrets(message) + "\n")
        sys.stderr.flush()
    return int(code)


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


def _settle_stdout() -> None:
    """What cannot be written goes nowhere: at its end the interpreter would try again and show a traceback."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, sys.stdout.fileno())
            os.close(descriptor)


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
