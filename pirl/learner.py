"""`python -m pirl.learner --config_path F`: see `pirl.runtime.learner`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pirl.errors import ExitCode
from pirl.guard import run_guarded
from pirl.usage import answered

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Command line of the learner; a config without `recipe` goes to LeRobot's own, unchanged."""
    if answered("learner", argv):
        return int(ExitCode.OK)
    # Only now: a help text reads no config.
    from pirl.config.arguments import learner_parser
    from pirl.config.command_line import parse
    from pirl.config.routing import is_pi_rl
    from pirl.runtime.lerobot_sac import run_lerobot

    if not is_pi_rl(argv):
        run_lerobot("learner", argv)
    parse(learner_parser(), argv)
    # Only now: importing this costs as much as LeRobot's own start, which follows in the other case.
    from pirl.runtime import learner

    return learner.main(argv)


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
