"""One way for every entry point to end: a deliberate error is one message on stderr and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pirl.errors import ExitCode, PirlError


def run_guarded(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; every deliberate error becomes one message on stderr and its exit code.

    An unexpected exception is not caught: Python prints its traceback and the process ends with code 1.
    """
    try:
        return int(command(argv))
    except PirlError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return int(ExitCode.INTERRUPTED)
