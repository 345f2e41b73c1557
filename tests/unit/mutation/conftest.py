"""The mutation runner is a script beside the tests, not a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "mutation"))
