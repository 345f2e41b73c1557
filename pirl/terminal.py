"""Messages cut to what a terminal can show; whoever writes a log file gets them whole.

Owns the lengths. A program that looks for both values of a mismatch reads a log, never a terminal.
"""

from __future__ import annotations

import sys

VERBOSE = "--verbose"
"""Has every message whole on a terminal too."""

LINE = 240
"""Characters."""
LINES = 24


def is_terminal() -> bool:
    """Whether standard error is a terminal that is still there."""
    return not sys.stderr.closed and sys.stderr.isatty()


def cut_line(line: str) -> str:
    """`line` with its middle left out where it is too long: a mismatch has the other value at the end."""
    half = LINE // 2
    return line if len(line) <= LINE else f"{line[:half]} ... {line[-half:]}"


def cut_message(message: str) -> str:
    """`message` in short lines, and not too many; the last line says how to have it whole."""
    lines = message.splitlines()
    shown = [cut_line(line) for line in lines[:LINES]]
    if shown == lines:
        return message
    left_out = len(lines) - len(shown)
    more = [f"  and {left_out} lines more"] if left_out else []
    return "\n".join([*shown, *more, f"  whole with {VERBOSE}"])
