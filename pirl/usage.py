"""`--help` and `--version` of every command, answered before anything costly is imported.

Owns which module describes a command's arguments. Those modules (`arguments.py` of each package) import
neither torch, LeRobot nor NumPy; a test measures what they load. Refuses to run a command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

ARGUMENTS: dict[str, str] = {
    "gate": "pirl.gate.arguments:gate_parser",
    "verify": "pirl.audit.arguments:verify_parser",
    "doctor": "pirl.doctor.arguments:doctor_parser",
    "validate": "pirl.config.arguments:validate_parser",
    "eval": "pirl.evaluation.arguments:eval_parser",
    "launch": "pirl.runtime.arguments:launch_parser",
    "learner": "pirl.runtime.arguments:learner_parser",
    "actor": "pirl.runtime.arguments:actor_parser",
    "train": "pirl.runtime.arguments:train_parser",
    "demo": "pirl.learning.arguments:learn_parser",
    "bench": "pirl.learning.arguments:bench_parser",
    "bench learn": "pirl.learning.arguments:learn_parser",
    "bench judge": "pirl.learning.arguments:judge_parser",
    "bench study": "pirl.learning.arguments:study_parser",
    "serve": "pirl.gate.arguments:serve_parser",
}
"""Where the argument parser of each command is built."""


def version_text() -> str:
    """`pirl` and its version."""
    # Only now: reading the installed metadata is the larger half of what `--help` costs.
    from importlib.metadata import version

    return f"pirl {version('pirl')}"


def parser_of(command: str) -> argparse.ArgumentParser:
    """The argument parser of a key of `ARGUMENTS`."""
    module, _, function = ARGUMENTS[command].partition(":")
    return getattr(import_module(module), function)()


def answered(command: str, argv: Sequence[str]) -> bool:
    """Print the help or the version of `command` when `argv` asks for it; whether it did."""
    if "--version" in argv:
        sys.stdout.write(version_text() + "\n")
        return True
    if "-h" not in argv and "--help" not in argv:
        return False
    longer = " ".join([command, *argv[:1]])
    parser_of(longer if longer in ARGUMENTS else command).print_help(sys.stdout)
    return True
