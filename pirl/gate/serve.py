"""`pirl serve`: replaces this process by `python -m flows.serve`, the only door to Prefect."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pirl.config.command_line import parse
from pirl.gate.arguments import serve_parser

SETTINGS = Path("prefect.toml")
"""Prefect reads it in the working directory: the repository root has one."""
DEFAULTS = {
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_HOME": ".prefect",
    "PREFECT_CLIENT_MAX_RETRIES": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""What that file says, for every other folder."""


def main(argv: Sequence[str]) -> int:
    """Serve the deployment `phase2-gate/phase2-gate`; server and database live below this folder."""
    parse(serve_parser(), argv)
    if not SETTINGS.is_file():
        for name, value in DEFAULTS.items():
            os.environ.setdefault(
                name, str(Path(value).resolve()) if name.endswith("HOME") else value
            )
    os.execv(sys.executable, [sys.executable, "-m", "flows.serve"])
