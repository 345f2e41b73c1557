"""`python -m pirl.learner --config_path F`: see `pirl.runtime.learner`."""

from __future__ import annotations

import sys

from pirl.guard import run_guarded
from pirl.runtime.learner import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
