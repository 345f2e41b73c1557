"""Writing that ends complete or in one error: a full disk never leaves half a file or a traceback.

Owns the replacing of small files, the appending of lines, the words of a failed write, and the question
whether there is room. Refuses to know what is written. Read `pirl.ownership` next.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pirl.errors import EnvironmentNotReadyError, PirlError

_MIB = 2**20
_SPELT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How safetensors and tokenizers spell what the kernel answered, and how `shutil.copytree` does: theirs carry
no number."""

_REMEDIES = {
    errno.ENOSPC: "free space there or choose a folder on another disk; what was written before is intact, "
    "and a run is resumed from its last checkpoint",
    errno.EDQUOT: "free some of your quota there or choose a folder elsewhere; what was written before is "
    "intact, and a run is resumed from its last checkpoint",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f); what was written before is intact",
    errno.EACCES: "make the folder writable for this user, or choose another",
    errno.EPERM: "make the folder writable for this user, or choose another",
    errno.EROFS: "the file system is mounted read-only; choose a folder elsewhere",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}

_numbers = itertools.count()


def os_error_number(error: BaseException) -> int | None:
    """`errno` of what the kernel answered, from an `OSError` or from the text of another error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _SPELT.search(str(error))
    return int(found.group(1) or found.group(2)) if found else None


def write_error(
    path: Path, error: BaseException, *, need: int | None = None
) -> EnvironmentNotReadyError:
    """The one error of a write that failed: path, reason, need, free space, remedy."""
    number = os_error_number(error)
    reason = os.strerror(number) if number else (str(error) or type(error).__name__)
    free = free_bytes(path)
    facts = [f"cannot write {path}: {reason}"]
    if need is not None:
        facts.append(f"needs {human_bytes(need)}")
    if free is not None:
        facts.append(f"{human_bytes(free)} free there")
    remedy = _REMEDIES.get(number or 0, "check the path and the file system behind it")
    return EnvironmentNotReadyError("; ".join(facts), remedy=remedy)


class writing:  # noqa: N801 - reads as a statement: `with writing(path):`
    """What the kernel refuses inside the block leaves it as `EnvironmentNotReadyError` about `path`.

    A class and not a generator, because Rust libraries raise a plain `Exception` for a full disk.
    """

    def __init__(self, path: Path, *, need: int | None = None) -> None:
        """
        Args:
            need: bytes about to be written, where that is known.
        """
        self._path = path
        self._need = need

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, PirlError):
            return
        if not isinstance(error, OSError) and os_error_number(error) is None:
            return
        raise write_error(self._path, error, need=self._need) from error


def write_bytes(path: Path, data: bytes) -> Path:
    """Replace `path` by `data`, flushed; a crash or a full disk leaves the old file or the new one.

    Raises:
        EnvironmentNotReadyError: the file system refused; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    with writing(path, need=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    return path


def write_text(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    """`write_bytes` of a text."""
    return write_bytes(path, text.encode(encoding))


def write_json(path: Path, value: Any, *, indent: int = 2, sort_keys: bool = True) -> Path:
    """`write_bytes` of a value as JSON; a number that is not finite raises ValueError.

    Any: whatever JSON can hold.
    """
    text = json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    return write_text(path, text + "\n")


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a folder to a place where there is none; links are followed, so that none is needed there.

    Raises:
        EnvironmentNotReadyError: the file system refused, and what was copied is gone again; or there is something
            at `target`, which stays as it is.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Before the cleanup below may remove it: what somebody else made is not ours to remove.
        target.mkdir()
        try:
            shutil.copytree(source, target, dirs_exist_ok=True)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return target


class Appender:
    """Appends whole lines to a file; a line that does not fit is taken back, so that no torn one stays."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending; its folder is made.

        Raises:
            EnvironmentNotReadyError: the file system refused.
        """
        self._path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a buffer still held after a failed write would be tried again at the end.
            self._file = path.open("ab", buffering=0)

    def write(self, line: bytes) -> None:
        """Append one line at once.

        Raises:
            EnvironmentNotReadyError: the file system refused; the file ends as it did before.
        """
        with writing(self._path, need=len(line)):
            before = os.fstat(self._file.fileno()).st_size
            rest = memoryview(line)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(before)
                raise

    def sync(self) -> None:
        """Flush to the device."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def home_folder() -> Path | None:
    """The user's home; None for one who has none, as in a container that runs under any number."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def free_bytes(path: Path) -> int | None:
    """Bytes free for this user on the file system that `path` is or would be on; None when nobody says."""
    for place in (path.absolute(), *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def require_space(folder: Path, need: int, *, what: str, fix: str) -> None:
    """Stop before hours of work when the file system cannot take what will be written.

    Args:
        need: bytes.
        what: what they are for; part of the message.
        fix: what to change, besides making room.

    Raises:
        EnvironmentNotReadyError: less than `need` is free.
    """
    free = free_bytes(folder)
    if free is None or free >= need:
        return
    raise EnvironmentNotReadyError(
        f"{folder} has no room for {what}: needs {human_bytes(need)}; {human_bytes(free)} free there",
        remedy=f"free space there, choose a folder on another disk, or {fix}",
    )


def human_bytes(size: int) -> str:
    """A size for a message."""
    return f"{size / _MIB:.1f} MiB" if size >= _MIB // 10 else f"{size} bytes"
