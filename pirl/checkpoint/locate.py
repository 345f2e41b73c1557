"""Which checkpoint a path means.

Owns the search for the newest complete step. Refuses to read what is in it. Read
`pirl.checkpoint.load` next.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lerobot.configs.train import TRAIN_CONFIG_NAME
from lerobot.utils.constants import CHECKPOINTS_DIR, LAST_CHECKPOINT_LINK, PRETRAINED_MODEL_DIR

from pirl.checkpoint.manifest import MANIFEST_NAME
from pirl.errors import CheckpointError

_logger = logging.getLogger(__name__)


def resolve_checkpoint(path: str | Path) -> Path:
    """The step folder that `path` means, not yet verified.

    Accepts what LeRobot's resume accepts and more: a run folder, its `checkpoints`,
    `checkpoints/last`, a step folder, its `pretrained_model`, or the `train_config.json` in there.
    A run and `last` mean the highest complete step, whether or not the link exists: the link is not
    a file, so copies and data version control lose it, and a process killed between the rename and
    the link leaves it one step behind.

    Raises:
        CheckpointError: the path means no checkpoint; lists the incomplete step folders.
    """
    place = Path(path)
    if place.suffix == ".json":
        place = place.parent
    if place.name == PRETRAINED_MODEL_DIR:
        place = place.parent
    if (place / CHECKPOINTS_DIR).is_dir():
        return newest_step(place / CHECKPOINTS_DIR)
    if place.name == LAST_CHECKPOINT_LINK:
        return newest_step(place.parent)
    if place.name == CHECKPOINTS_DIR:
        return newest_step(place)
    if place.is_dir() and (place.name.isdecimal() or (place / MANIFEST_NAME).is_file()):
        return place
    raise CheckpointError(
        f"{path} is not a checkpoint",
        parts=[
            "expected: a run folder, checkpoints/last, a step folder such as checkpoints/000004, "
            f"its {PRETRAINED_MODEL_DIR} folder, or the {TRAIN_CONFIG_NAME} in it",
        ],
    )


def newest_step(checkpoints_dir: Path) -> Path:
    """The complete step folder with the highest number; one without a manifest does not count.

    Raises:
        CheckpointError: there is none.
    """
    steps = step_folders(checkpoints_dir)
    complete = [step for step in steps if (steps[step] / MANIFEST_NAME).is_file()]
    incomplete = [steps[step] for step in steps if step not in complete]
    if not complete:
        raise CheckpointError(
            f"no complete checkpoint in {checkpoints_dir}",
            parts=[f"{folder.name}: no {MANIFEST_NAME}" for folder in incomplete],
        )
    for folder in incomplete:
        _logger.warning("ignoring %s: it has no %s", folder, MANIFEST_NAME)
    newest = steps[max(complete)]
    link = checkpoints_dir / LAST_CHECKPOINT_LINK
    # Copies and file systems without symbolic links have none.
    if link.is_symlink() and link.resolve() != newest.resolve():
        _logger.warning("%s does not point at the newest complete step, %s", link, newest.name)
    return newest


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a step is complete there; asked of the step itself, because `last` is optional."""
    steps = step_folders(run_dir / CHECKPOINTS_DIR).values()
    return any((step / MANIFEST_NAME).is_file() for step in steps)


def step_folders(checkpoints_dir: Path) -> dict[int, Path]:
    """Step folders by number, ascending, complete or not; temporary ones and links do not count."""
    if not checkpoints_dir.is_dir():
        return {}
    found = {
        int(path.name): path
        for path in checkpoints_dir.iterdir()
        if path.name.isdecimal() and path.is_dir() and not path.is_symlink()
    }
    return dict(sorted(found.items()))
