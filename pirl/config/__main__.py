"""`python -m pirl.config`: the same as `pirl validate`."""

from __future__ import annotations

import sys

from pirl.config.validate import main
from pirl.errors import PirlError

if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except PirlError as error:
        sys.stderr.write(f"error: {error}\n")
        code = int(error.exit_code)
    sys.exit(code)
