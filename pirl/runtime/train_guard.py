"""`pirl train`: LeRobot's supervised training, unless the config asks for the pi-rl recipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from pirl.config.routing import lerobot_train_argv
from pirl.errors import EnvironmentNotReadyError


def main(argv: Sequence[str]) -> int:
    """Replace this process by `lerobot-train` with the same arguments.

    Raises:
        ConfigError: the config says `recipe=pi-rl` (the fix names the two commands to run), or misspells it.
    """
    passed_on = lerobot_train_argv(argv)
    program = shutil.which("lerobot-train")
    if program is None:
        raise EnvironmentNotReadyError(
            "lerobot-train is not on PATH",
            remedy="activate the environment that pirl is installed in",
        )
    os.execv(program, [program, *passed_on])
