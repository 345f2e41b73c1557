"""The command lines of `pirl launch`, `learner`, `actor` and `train`."""

from __future__ import annotations

import argparse
from pathlib import Path

_OVERRIDES = "Further --section.field=value arguments override the config."


def launch_parser() -> argparse.ArgumentParser:
    """`pirl launch`."""
    parser = argparse.ArgumentParser(
        prog="pirl launch",
        description="Run a learner and its actors on this machine, with prefixed logs and one exit code.",
        epilog=_OVERRIDES,
    )
    parser.add_argument("--config_path", required=True)
    parser.add_argument("--actors", type=int, help="default: runtime.actors of the config")
    parser.add_argument("--log-dir", type=Path, help="one log file per process instead of stderr")
    parser.add_argument("--quiet", action="store_true", help="no logs and no progress on stderr")
    parser.add_argument("--json", action="store_true", help="the process table on stdout")
    return parser


def learner_parser() -> argparse.ArgumentParser:
    """`pirl learner` and `python -m pirl.learner`."""
    parser = argparse.ArgumentParser(
        prog="pirl learner",
        description="Run the learner: take a rollout, update, publish, checkpoint. A config without"
        " `recipe` goes to LeRobot's own learner, unchanged.",
        epilog=_OVERRIDES,
    )
    parser.add_argument("--config_path", metavar="FILE", help="JSON file or checkpoint folder")
    return parser


def actor_parser() -> argparse.ArgumentParser:
    """`pirl actor` and `python -m pirl.actor`."""
    parser = argparse.ArgumentParser(
        prog="pirl actor",
        allow_abbrev=False,
        description="Run one actor: wait for a version, collect its rollout, send it. A config without"
        " `recipe` goes to LeRobot's own actor, unchanged.",
        epilog=_OVERRIDES,
    )
    parser.add_argument("--config_path", metavar="FILE", help="JSON file or checkpoint folder")
    parser.add_argument("--rank", type=int, default=0, help="0 .. runtime.actors - 1")
    parser.add_argument(
        "--record-video", action="store_true", help="keep the first episode as actor-R/frames.npz"
    )
    return parser


def train_parser() -> argparse.ArgumentParser:
    """`pirl train`, which passes its command line on."""
    return argparse.ArgumentParser(
        prog="pirl train",
        usage="pirl train [lerobot-train options]",
        description="Run lerobot-train with the same arguments, unless the config asks for the pi-rl"
        " recipe: then name the two commands to run.",
        epilog="`lerobot-train --help` lists the options.",
    )
