"""What must never be shown or written: the shared token of a run, and the secrets of the environment.

Owns what counts as a secret. Knows nothing of configs: whoever reads a secret says so with `hide`.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

HIDDEN = "(hidden)"
_NAME = r"(?:token|secret|password|passwd|api[_-]?key)"
_VARIABLE = re.compile(rf"{_NAME}$", re.IGNORECASE)
_OPTION = re.compile(rf"^--?(?:[\w.-]*[._-])?{_NAME}$", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?i)(?<![a-z])({_NAME}[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;)}}\]]+)"
)
_SHORTEST = 4
"""Shorter values would blot out half a text and are no secrets."""

_known: set[str] = set()


def hide(secret: str | None) -> None:
    """From now on `without_secrets` removes this value."""
    if secret and len(secret) >= _SHORTEST:
        _known.add(secret)


def without_secrets(text: str, *, guess: bool = False) -> str:
    """`text` without known secrets and those of the environment and the command line.

    Args:
        guess: also remove the value of everything that looks like `token = ...`.
    """
    named = [value for name, value in os.environ.items() if _VARIABLE.search(name)]
    found = _known | {v for v in (*named, *_on_command_line()) if len(v) >= _SHORTEST}
    for secret in sorted(found, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text) if guess else text


def _on_command_line() -> Iterator[str]:
    """Values of options that are secrets, as this process was given them."""
    yield from secret_values(sys.orig_argv)


def secret_values(argv: Sequence[str]) -> Iterator[str]:
    """Values of the options in `argv` that are secrets, in both forms of writing them."""
    for part, following in pairwise((*argv, "")):
        name, equals, value = part.partition("=")
        if _OPTION.match(name):
            yield value if equals else following


def shown_command(argv: Sequence[str] | None = None) -> str:
    """The command line of this process, or `argv`, for a message: quoted, values of tokens hidden."""
    return without_secrets(shlex.join(shown_arguments(sys.orig_argv if argv is None else argv)))


def shown_arguments(argv: Sequence[str]) -> list[str]:
    """`argv` with the values of options that are secrets hidden, in both forms of writing them."""
    shown: list[str] = []
    is_value = False
    for part in argv:
        name, equals, _ = part.partition("=")
        is_secret = _OPTION.match(name) is not None
        if is_value:
            shown.append(HIDDEN)
        else:
            shown.append(f"{name}={HIDDEN}" if is_secret and equals else part)
        is_value = is_secret and not equals
    return shown
