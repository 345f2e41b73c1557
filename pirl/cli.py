"""`pirl <command>`: the only place that parses top-level arguments, prints results and chooses exit codes.

Results go to stdout, progress and errors to stderr, nothing ever prompts. Each command imports what it
needs when it is called, after `pirl.usage` answered a question about it: no help text costs torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from pirl.errors import ExitCode
from pirl.guard import run_guarded
from pirl.usage import answered, version_text

COMMANDS: dict[str, tuple[str, str]] = {
    "gate": ("pirl.gate.main", "run the phase-2 gate and write its evidence bundle"),
    "verify": (
        "pirl.audit.verify:verify_main",
        "check a bundle offline and recompute its verdict",
    ),
    "doctor": ("pirl.doctor.main", "check this machine and the X-VLA x LIBERO profile"),
    "validate": ("pirl.config.validate", "check a config and print its preflight summary"),
    "eval": (
        "pirl.evaluation.main",
        "evaluate a policy on fixed episodes, check or compare results",
    ),
    "launch": ("pirl.runtime.launch", "run a learner and its actors on this machine"),
    "learner": ("pirl.learner", "run the learner"),
    "actor": ("pirl.actor", "run one actor"),
    "train": ("pirl.runtime.train_guard", "lerobot-train, guarded against the pi-rl recipe"),
    "demo": ("pirl.learning.main:learn_main", "one learning run with pictures and videos"),
    "bench": ("pirl.learning.main", "prove that piRL improves a policy (bench learn)"),
    "serve": ("pirl.gate.serve", "serve the Prefect deployment of phase2-gate"),
}


def usage() -> str:
    """The list of commands and exit codes."""
    lines = ["usage: pirl <command> [options]", "", "commands:"]
    lines += [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "exit codes: 0 passed or done, 1 a check failed, 2 usage or invalid config,",
        "            3 environment not ready, 4 interrupted, 5 mismatch",
        "`pirl <command> --help` explains a command, `pirl --version` names the version.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return run_guarded(_dispatch, list(sys.argv[1:] if argv is None else argv))


def _dispatch(args: Sequence[str]) -> int:
    """Run the command that the first argument names; importing it can fail, or be interrupted, as well."""
    if list(args[:1]) in (["-h"], ["--help"]):
        print(usage())
        return int(ExitCode.OK)
    if args == ["--version"]:
        print(version_text())
        return int(ExitCode.OK)
    if not args or args[0] not in COMMANDS:
        print(usage(), file=sys.stderr)
        if args:
            print(f"\nerror: unknown command {args[0]!r}", file=sys.stderr)
        return int(ExitCode.USAGE)
    if answered(args[0], args[1:]):
        return int(ExitCode.OK)
    module, _, function = COMMANDS[args[0]][0].partition(":")
    return getattr(import_module(module), function or "main")(list(args[1:]))


if __name__ == "__main__":
    sys.exit(main())
