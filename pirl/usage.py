"""Every command: what runs it, what describes its arguments, and `--help` and `--version` of each.

Owns the table. Help and version are answered before anything costly is imported: the modules that hold
parsers import neither torch, LeRobot nor NumPy; a test measures what they load. Refuses to run a command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, or a group of commands that only has a help text."""

    what: str
    parser: str
    """`module:function` that builds its parser."""
    run: str = ""
    """`module:function` that runs it; empty for a group."""
    is_strict: bool = True
    """Whether its parser judges every command line; False where LeRobot may be meant, or a field's help."""


COMMANDS: dict[str, Command] = {
    "init": Command(
        what="write a train config for a checkpoint and this machine",
        parser="pirl.doctor.arguments:init_parser",
        run="pirl.doctor.init:main",
    ),
    "validate": Command(
        what="check a config and print its preflight summary",
        parser="pirl.config.arguments:validate_parser",
        run="pirl.config.validate:main",
    ),
    "config": Command(
        what="explain the fields of a config",
        parser="pirl.config.arguments:config_parser",
        run="pirl.config.fields:main",
        is_strict=False,
    ),
    "check-policy": Command(
        what="run the flow-policy contract on the policy of a config",
        parser="pirl.config.arguments:check_policy_parser",
        run="pirl.runtime.check_policy:main",
    ),
    "doctor": Command(
        what="check this machine and the X-VLA x LIBERO profile",
        parser="pirl.doctor.arguments:doctor_parser",
        run="pirl.doctor.main:main",
    ),
    "launch": Command(
        what="run a learner and its actors on this machine",
        parser="pirl.config.arguments:launch_parser",
        run="pirl.runtime.launch:main",
    ),
    "learner": Command(
        what="run the learner",
        parser="pirl.config.arguments:learner_parser",
        run="pirl.learner:main",
        is_strict=False,
    ),
    "actor": Command(
        what="run one actor",
        parser="pirl.config.arguments:actor_parser",
        run="pirl.actor:main",
        is_strict=False,
    ),
    "status": Command(
        what="say how far a run is",
        parser="pirl.config.arguments:status_parser",
        run="pirl.runtime.status:main",
    ),
    "watch": Command(
        what="show the status of a run until it ends",
        parser="pirl.config.arguments:watch_parser",
        run="pirl.runtime.status:watch_main",
    ),
    "profile": Command(
        what="say where seconds and bytes of a run went",
        parser="pirl.config.arguments:profile_parser",
        run="pirl.runtime.profile:main",
    ),
    "eval": Command(
        what="evaluate a policy on fixed episodes, check or compare results",
        parser="pirl.evaluation.arguments:eval_parser",
        run="pirl.evaluation.main:main",
    ),
    "push": Command(
        what="upload the policy of a run, with a model card from its records",
        parser="pirl.publish.arguments:push_parser",
        run="pirl.publish.main:main",
    ),
    "train": Command(
        what="lerobot-train, guarded against the pi-rl recipe",
        parser="pirl.config.arguments:train_parser",
        run="pirl.runtime.train_guard:main",
        is_strict=False,
    ),
    "gate": Command(
        what="run the phase-2 gate and write its evidence bundle",
        parser="pirl.gate.arguments:gate_parser",
        run="pirl.gate.main:main",
    ),
    "verify": Command(
        what="check a bundle offline and recompute its verdict",
        parser="pirl.audit.arguments:verify_parser",
        run="pirl.audit.verify:verify_main",
    ),
    "demo": Command(
        what="one learning run with pictures and videos",
        parser="pirl.learning.arguments:demo_parser",
        run="pirl.learning.main:learn_main",
    ),
    "bench": Command(
        what="prove that piRL improves a policy",
        parser="pirl.learning.arguments:bench_parser",
    ),
    "bench learn": Command(
        what="make a learning run",
        parser="pirl.learning.arguments:learn_parser",
        run="pirl.learning.main:learn_main",
    ),
    "bench judge": Command(
        what="judge a learning run again",
        parser="pirl.learning.arguments:judge_parser",
        run="pirl.learning.main:judge_main",
    ),
    "bench study": Command(
        what="make the runs of a study",
        parser="pirl.learning.arguments:study_parser",
        run="pirl.learning.main:study_main",
    ),
    "bench demos": Command(
        what="write scripted demonstrations as a LeRobotDataset",
        parser="pirl.learning.arguments:demos_parser",
        run="pirl.learning.main:demos_main",
    ),
    "bench warm-start": Command(
        what="make a policy to start from",
        parser="pirl.learning.arguments:warm_start_parser",
        run="pirl.learning.main:warm_start_main",
    ),
    "serve": Command(
        what="serve the Prefect deployment of phase2-gate",
        parser="pirl.gate.arguments:serve_parser",
        run="pirl.gate.serve:main",
    ),
    "completion": Command(
        what="print the completion script of a shell",
        parser="pirl.completion:completion_parser",
        run="pirl.completion:main",
    ),
}
"""In the order in which a user meets them."""


def version_text() -> str:
    """`pirl` and its version."""
    # Only now: reading the installed metadata is the larger half of what `--help` costs.
    from importlib.metadata import version

    return f"pirl {version('pirl')}"


def resolve(place: str) -> Any:
    """The object at `module:name`."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def answered(command: str, argv: Sequence[str]) -> bool:
    """Print the help or the version of `command` when `argv` asks for it; whether it did."""
    if "--version" in argv:
        sys.stdout.write(version_text() + "\n")
        return True
    if "-h" not in argv and "--help" not in argv:
        return False
    if command == "config" and len(argv) > 1:
        # The help of a field is that command's own answer.
        return False
    resolve(COMMANDS[command].parser)().print_help(sys.stdout)
    return True
