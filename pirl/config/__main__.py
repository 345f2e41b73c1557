"""`python -m pirl.config`: the same as `pirl validate`."""

from __future__ import annotations

import sys

from pirl.config.validate import main
from pirl.guard import run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
