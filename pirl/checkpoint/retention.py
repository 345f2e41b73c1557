"""Which checkpoints stay: the first, the newest, and one of every so many updates.

Owns the choice and the removal. A step folder disappears under its name at once and whole, as it appeared. Refuses
to decide when; `pirl.runtime.learner` calls it after a save. Read `pirl.checkpoint.atomic` next.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from pirl.checkpoint.atomic import sync_folder
from pirl.checkpoint.locate import step_folders
from pirl.checkpoint.manifest import MANIFEST_NAME

_logger = logging.getLogger(__name__)


def steps_to_drop(steps: Collection[int], *, newest: int, every: int) -> list[int]:
    """The steps that go, ascending.

    Args:
        newest: how many of the newest stay; 0 keeps all.
        every: steps that this divides stay too; 0: none for that reason.
    """
    in_order = sorted(steps)
    if newest == 0:
        return []
    return [step for step in in_order[1:-newest] if every == 0 or step % every]


def most_at_once(saves: int, *, updates: int, newest: int, every: int) -> int:
    """How many checkpoints of `saves` over so many updates lie on the disk at the same time, at most."""
    if newest == 0:
        return saves
    # The first, and the one that is written before another goes.
    return min(saves, newest + 2 + (updates // every if every else 0))


def prune(checkpoints: Path, *, newest: int, every: int) -> list[Path]:
    """Remove what `steps_to_drop` says of the complete steps; the newest and incomplete ones stay.

    A folder that cannot be removed is reported and left: a run must not end of it.

    Returns:
        The step folders that are gone.
    """
    complete = {
        step: folder
        for step, folder in step_folders(checkpoints).items()
        if (folder / MANIFEST_NAME).is_file()
    }
    gone: list[Path] = []
    for step in steps_to_drop(complete, newest=newest, every=every):
        folder = complete[step]
        # The name of a save that was cut short: whatever is left of it goes with the next save.
        aside = checkpoints / f".tmp-{folder.name}-{os.getpid()}"
        try:
            folder.rename(aside)
            sync_folder(checkpoints)
            gone.append(folder)
            shutil.rmtree(aside)
        except OSError as error:
            _logger.warning("%s cannot be removed (%s)", folder, error)
    if gone:
        _logger.info("removed checkpoints %s", ", ".join(folder.name for folder in gone))
    return gone
