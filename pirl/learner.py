"""`python -m pirl.learner --config_path F`: see `pirl.runtime.learner`."""

from __future__ import annotations

import os
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
    args, overrides = parse(learner_parser(), argv)
    _refuse_early(args.config_path, overrides)
    # Read when gRPC is imported. Otherwise anybody who connects without TLS writes a line into the log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Only now: importing this costs as much as LeRobot's own start, which follows in the other case.
    from pirl.runtime import learner
    from pirl.tracking.live import LiveTrackers

    return learner.main(argv, watched_by=LiveTrackers)


def _refuse_early(config_path: str, overrides: Sequence[str]) -> None:
    """Stop at a wrong config or folder before the imports, which take half a minute on a busy machine.

    Raises:
        ConfigError, EnvironmentNotReadyError: as the learner would.
    """
    from pirl.config.check import check_config
    from pirl.ownership import disown
    from pirl.runtime.layout import open_run_folder
    from pirl.runtime.seat import own_seat, require_size

    checked = check_config(config_path, overrides)
    seat = own_seat()
    require_size(seat, checked.cfg.parallelism.dp_replicate)
    if seat.rank > 0:
        # The folder is the first process's.
        return
    # Without a name of its own the folder gets one from the run id, and is nobody's yet.
    if checked.cfg.output_dir is not None:
        disown(open_run_folder(checked, run_id="").root)


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
