"""Where the shared secret of a run comes from; it is never an argument of a process that pirl starts.

Owns the three sources and their order. Refuses to know who compares tokens. Read
`pirl.config.rules_runtime` for what a token looks like.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pirl.config.recipe import RuntimeConfig
from pirl.errors import ConfigError, FieldError
from pirl.secrecy import hide

TOKEN_VARIABLE = "PIRL_TOKEN"
MIN_TOKEN_LENGTH = 16
_OPTION = "--runtime.token"
_MAX_FILE_BYTES = 4096


def with_token(runtime: RuntimeConfig) -> RuntimeConfig:
    """`runtime` with its token: `runtime.token`, else `PIRL_TOKEN`, else the text of `token_file`.

    Raises:
        ConfigError: the file cannot be read, others may read it, or the token is none.
    """
    if runtime.token:
        return runtime
    where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if not token and runtime.token_file:
        where, token = "runtime.token_file", _read(Path(runtime.token_file))
    if not token:
        return runtime
    if not is_token(token):
        raise _wrong(where, "(hidden)", TOKEN_FORM, f"make one with: {MAKE_TOKEN}")
    hide(token)
    return replace(runtime, token=token)


def without_token(overrides: Sequence[str]) -> list[str]:
    """`overrides` without the token, in both forms of writing it.

    In its place stands that there is none, so that one in the config file does not come back.
    """
    kept: list[str] = []
    is_value = False
    for part in overrides:
        name, equals, _ = part.partition("=")
        if not is_value:
            kept.append(f"{_OPTION}=null" if name == _OPTION else part)
        is_value = not is_value and name == _OPTION and not equals
    return kept


def token_environment(runtime: RuntimeConfig, env: Mapping[str, str] | None) -> dict[str, str]:
    """`env` with the token of `runtime`, for processes that are started with `without_token`."""
    token = with_token(runtime).token
    return {**(env or {}), **({} if token is None else {TOKEN_VARIABLE: token})}


def has_token_elsewhere(token_file: object) -> bool:
    """Whether a token comes from a file or from the environment."""
    return bool(token_file) or bool(os.environ.get(TOKEN_VARIABLE))


TOKEN_FORM = f"{MIN_TOKEN_LENGTH} or more printable ASCII characters without blanks"
MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def is_token(token: str) -> bool:
    """Whether `token` can travel as metadata and is long enough not to be guessed."""
    printable = token.isascii() and token.isprintable() and " " not in token
    return printable and len(token) >= MIN_TOKEN_LENGTH


def _read(path: Path) -> str:
    """The first line of a regular file that only its owner can read."""
    field = "runtime.token_file"
    try:
        # Not blocking: a FIFO would wait for a writer. The mode is that of what is open, not of a name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _wrong(field, path.name, "a regular file", "write the token into a file")
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                mode = f"{path.name} with mode {stat.S_IMODE(found.st_mode):03o}"
                raise _wrong(field, mode, "a file of mode 600 or 400", f"chmod 600 {path.name}")
            raw = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        wanted = f"a readable file ({error.strerror})"
        raise _wrong(field, path.name, wanted, "check path and owner") from error
    token = raw.decode("ascii", "replace").strip()
    if not token:
        raise _wrong(field, path.name, "a file that holds a token", f"make one with: {MAKE_TOKEN}")
    return token


def _wrong(field: str, value: str, expected: str, fix: str) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="runtime")
