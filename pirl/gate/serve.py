"""`pirl serve`: replaces this process by `python -m flows.serve`, the only door to Prefect."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pirl.errors import EnvironmentNotReadyError


def main(argv: Sequence[str]) -> int:
    """Serve the deployment `phase2-gate/phase2-gate` from the repository root.

    Raises:
        EnvironmentNotReadyError: not in the repository root, where the flows lie.
    """
    if not Path("flows/serve.py").is_file():
        raise EnvironmentNotReadyError(
            "flows/serve.py is not here", remedy="run `pirl serve` from the repository root"
        )
    os.execv(sys.executable, [sys.executable, "-m", "flows.serve", *argv])
