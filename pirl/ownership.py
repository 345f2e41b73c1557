"""A folder has one owner: the process that holds the kernel's lock on a file in it.

Owns the lock file, the words of a refusal and the question what is in a folder besides the lock. The lock is
taken before anything in the folder is read, moved or written, and the kernel frees it however the owner ends.
Refuses to work where the file system has no locks: two runs in one folder destroy each other's records.
Read `pirl.runtime.learner` for its first user.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psutil

from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError
from pirl.files import write_error
from pirl.secrecy import shown_command

LOCK_NAME = ".pirl-owner"
"""In the owned folder while somebody owns it; a killed owner leaves it behind, without its lock."""

_WRONG_PATH = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT, errno.ELOOP)
"""Answers that mean another path is wanted, not another machine."""

_MAX_SIGNED = 2**16
_READ_S = 1.0
"""An owner writes who it is right after it has the lock; a reader waits this long for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who owns a folder."""

    pid: int
    host: str
    started: str
    """Start of the process, UTC."""
    command: str
    """Without the values of tokens."""

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, started {self.started}: {self.command}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    descriptor: int
    lock: Path
    made: bool
    """Whether the folder did not exist before."""


_held: dict[Path, _Held] = {}
"""By absolute folder; it keeps locks until `disown` or the end of the process."""


def own(folder: Path, *, field: str) -> None:
    """Own `folder` (made if need be) until `disown` or the end of this process.

    Args:
        field: the option or config field that named the folder.

    Raises:
        ConfigError: another process owns it (which one is in the message), or it cannot be a folder.
        EnvironmentNotReadyError: it cannot be written, or the file system has no locks.
    """
    lock = folder / LOCK_NAME
    try:
        made = not folder.exists()
        descriptor = _locked(lock)
        if descriptor is None:
            raise _owned_by(owner_of(folder), folder, field)
        # Before it is signed: what fails from here on is given back at once.
        _held[folder.absolute()] = _Held(descriptor=descriptor, lock=lock, made=made)
        try:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(_myself())).encode(), 0)
        except OSError:
            disown(folder)
            raise
    except OSError as error:
        raise _refusal(folder, error, field) from error


def disown(folder: Path) -> None:
    """Give `folder` back, without the lock file; a folder that `own` made and nobody filled goes too."""
    held = _held.pop(folder.absolute())
    # Gone before the lock is: whoever opened it meanwhile sees that it is no longer the folder's.
    if _is_current(held.descriptor, held.lock):
        held.lock.unlink()
    os.close(held.descriptor)
    if held.made:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def owned(folder: Path, *, field: str) -> Generator[None]:
    """Own `folder` for a block; raises as `own`."""
    own(folder, field=field)
    try:
        yield
    finally:
        disown(folder)


def owner_of(folder: Path) -> Owner | None:
    """What the lock file of `folder` says; None when there is none or nobody signed it.

    It says who owns the folder only while its lock is held.
    """
    deadline = time.monotonic() + _READ_S
    while True:
        try:
            lock = folder / LOCK_NAME
            if not lock.is_file():
                # A pipe of that name would be waited for.
                return None
            with lock.open("rb") as file:
                content: Any = json.loads(file.read(_MAX_SIGNED))
            return Owner(**cast("dict[str, Any]", content))
        except OSError:
            return None
        except (ValueError, TypeError, RecursionError):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)


def contents(folder: Path) -> list[Path]:
    """What is in `folder` besides its lock file; empty when there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name != LOCK_NAME)


def clear(folder: Path) -> None:
    """Remove what is in an owned folder; it stays owned."""
    for path in contents(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _locked(lock: Path) -> int | None:
    """A descriptor that holds the lock on the file now named `lock`; None when another one holds it."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(
                lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode=0o644
            )
        except FileNotFoundError:
            # The folder was given back, and removed, between the two calls.
            if lock.parent.is_dir():
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise EnvironmentNotReadyError(
                f"{lock.parent}: the file system has no file locks ({error.strerror}), so nothing would keep "
                "a second run out of this folder",
                remedy="choose a folder on a local disk and copy it afterwards, or mount with locks "
                "(Lustre: flock, NFS: lockd or local_lock=flock)",
            ) from error
        if _is_current(descriptor, lock):
            return descriptor
        os.close(descriptor)


def _is_current(descriptor: int, lock: Path) -> bool:
    """Whether the open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def _myself() -> Owner:
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    return Owner(
        pid=os.getpid(),
        host=socket.gethostname(),
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=shown_command(),
    )


def _owned_by(owner: Owner | None, folder: Path, field: str) -> ConfigError:
    who = "a process that has not said which" if owner is None else str(owner)
    error = FieldError(
        field=field,
        value=str(folder),
        expected=f"a folder that no running process owns; this one belongs to {who}",
        fix="choose another folder, or wait until that process has ended"
        + ("" if owner is None else f" (`kill {owner.pid}` on {owner.host} ends it)"),
    )
    return ConfigError([error], source="folder in use")


def _refusal(folder: Path, error: OSError, field: str) -> ConfigError | EnvironmentNotReadyError:
    if error.errno in _WRONG_PATH:
        wrong = FieldError(
            field=field,
            value=str(folder),
            expected=f"a folder that exists or can be made ({error.strerror})",
            fix="choose another path",
        )
        return ConfigError([wrong], source="folder")
    found = write_error(folder, error)
    return EnvironmentNotReadyError(f"{field}: {found.what}", remedy=found.remedy)
