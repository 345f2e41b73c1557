"""`python -m pirl`: the same as `pirl`."""

from __future__ import annotations

import sys

from pirl.cli import dispatch
from pirl.guard import run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(dispatch, sys.argv[1:]))
