"""A folder that appears complete or not at all, and a link, where there are any, that always points somewhere.

Owns the order of writes, flushes and renames, and the cleaning of what a killed process left.
Refuses to know what is written. Nothing that exists is deleted or overwritten, except the link and
leftovers of dead processes. Read `pirl.checkpoint.save` next.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
from lerobot.utils.constants import LAST_CHECKPOINT_LINK

from pirl.checkpoint.manifest import write_manifest
from pirl.errors import CheckpointError
from pirl.files import writing

_LEFTOVER = re.compile(r"^\.(?:tmp-\d+|last)-(\d+)$")

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems without symbolic links answer (exFAT, many SMB and FUSE mounts)."""

_logger = logging.getLogger(__name__)


def publish_folder(
    parent: Path, name: str, fill: Callable[[Path], None], *, need: int | None = None
) -> Path:
    """Create `parent/name` with what `fill` writes into the empty folder it is given.

    Order: write to a temporary sibling, flush every file and folder, write the manifest, flush it,
    rename, flush the parent. A crash at any point leaves no `parent/name` or the complete one.

    Args:
        need: bytes that `fill` writes, for the message of a full disk.

    Raises:
        CheckpointError: the name is taken.
        EnvironmentNotReadyError: the file system refused (the cause is chained); what was there
            before is untouched, and what was written is gone again.
    """
    target = parent / name
    temporary = parent / f".tmp-{name}-{os.getpid()}"
    try:
        with writing(target, need=need):
            parent.mkdir(parents=True, exist_ok=True)
            sync_folder(parent.parent)
            remove_leftovers(parent)
            if target.exists() or target.is_symlink():
                raise CheckpointError(f"{target} exists already; it is never overwritten")
            temporary.mkdir()
            fill(temporary)
            sync_tree(temporary)
            sync_file(write_manifest(temporary))
            sync_folder(temporary)
            temporary.rename(target)
            sync_folder(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def point_last_at(step_dir: Path) -> bool:
    """Make `last` beside `step_dir` a relative link to it; at no moment is there no valid link.

    Returns:
        False on a file system without symbolic links: `last` then means the newest complete step to
        all of pirl, and nothing is lost but the name.

    Raises:
        CheckpointError: something that is not a link has the name `last`.
        EnvironmentNotReadyError: the file system refused.
    """
    link = step_dir.parent / LAST_CHECKPOINT_LINK
    refuse_real_last(step_dir.parent)
    temporary = step_dir.parent / f".{LAST_CHECKPOINT_LINK}-{os.getpid()}"
    with writing(link):
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(step_dir.name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _warn_without_links(step_dir.parent)
            return False
        temporary.replace(link)
        sync_folder(step_dir.parent)
    return True


@cache
def _warn_without_links(checkpoints: Path) -> None:
    _logger.warning(
        "%s: this file system has no symbolic links, so there is no `%s`; resume with "
        "--config_path %s/<newest step>/pretrained_model/train_config.json",
        checkpoints,
        LAST_CHECKPOINT_LINK,
        checkpoints,
    )


def refuse_real_last(parent: Path) -> None:
    """Stop when `last` is a file or a folder of its own, as some tools make of a link.

    Raises:
        CheckpointError: with the remedy.
    """
    link = parent / LAST_CHECKPOINT_LINK
    if link.exists() and not link.is_symlink():
        raise CheckpointError(
            f"{link} is not a link, so it cannot be moved to a new checkpoint; rename or remove it"
        )


def remove_leftovers(parent: Path) -> None:
    """Remove temporary folders and links of processes that no longer run.

    This process's own id counts as dead: in a container every run may have the same id, and this
    process is not inside a save when it calls this.
    """
    for path in parent.iterdir():
        match = _LEFTOVER.match(path.name)
        if match is None:
            continue
        pid = int(match.group(1))
        if pid != os.getpid() and psutil.pid_exists(pid):
            continue
        _logger.warning("removing %s, left by a save that was cut short", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the device."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            sync_file(path)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Flush one file to the device."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush one folder's entries (names, not contents) to the device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
