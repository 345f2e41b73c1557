"""The way to LeRobot's own SAC runtime: a config without `recipe` runs there, unchanged."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def run_lerobot(role: str, argv: Sequence[str]) -> NoReturn:
    """Replace this process by `python -m lerobot.rl.<role>` with the same arguments."""
    os.execv(sys.executable, [sys.executable, "-m", f"lerobot.rl.{role}", *argv])
