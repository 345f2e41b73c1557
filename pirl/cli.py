"""`pirl <command>`: the only place that parses top-level arguments, prints results and chooses exit codes.

Results go to stdout, progress and errors to stderr, nothing ever prompts. Each command imports what it
needs when it is called, after `pirl.usage` answered a question about it: no help text costs torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pirl.config.command_line import meant, parse
from pirl.config.spelling import nearest
from pirl.errors import ExitCode, UsageError
from pirl.guard import run_guarded
from pirl.usage import COMMANDS, answered, resolve, version_text

_OTHER_NAMES = {
    "run": "launch",
    "start": "launch",
    "evaluate": "eval",
    "check": "validate",
    "fields": "config",
    "help": "--help",
    "version": "--version",
}
"""What other tools call it."""


def usage() -> str:
    """The list of commands and exit codes."""
    lines = ["usage: pirl <command> [options]", "", "commands:"]
    width = max(len(name) for name in COMMANDS)
    lines += [f"  {name:<{width}}  {command.what}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "exit codes: 0 passed or done, 1 a check failed, 2 usage or invalid config,",
        "            3 environment not ready, 4 interrupted, 5 mismatch",
        "`pirl <command> --help` explains a command, `pirl config --list` the fields of a config,",
        "`pirl --version` names the version.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return run_guarded(dispatch, list(sys.argv[1:] if argv is None else argv))


def dispatch(args: Sequence[str]) -> int:
    """Run the command that the first arguments name; importing it can fail, or be interrupted, as well."""
    if not args:
        print(usage(), file=sys.stderr)
        return int(ExitCode.USAGE)
    if args[0] in ("-h", "--help"):
        print(usage())
        return int(ExitCode.OK)
    if args[0] in ("-V", "--version"):
        print(version_text())
        return int(ExitCode.OK)
    name, rest = _command(args)
    if answered(name, rest):
        return int(ExitCode.OK)
    command = COMMANDS[name]
    if not command.run:
        raise UsageError(_no_command_of(name, rest))
    if command.is_strict:
        # Before what runs the command is imported: that can take seconds.
        parse(resolve(command.parser)(), rest)
    return resolve(command.run)(list(rest))


def _no_command_of(group: str, rest: Sequence[str]) -> str:
    known = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{group} ")]
    given = rest[0] if rest else ""
    what = f"unknown command {given!r}" if given else "a command is missing"
    return (
        f"pirl {group}: {what}: {', '.join(known)}{meant(nearest(given, known) if given else None)}"
    )


def _command(args: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command that `args` begin with, of two words where there is one, and the arguments behind it.

    Raises:
        UsageError: there is none of that name.
    """
    both = " ".join(args[:2])
    if both in COMMANDS:
        return both, args[2:]
    first = args[0]
    if first in COMMANDS:
        return first, args[1:]
    if first.startswith("-"):
        raise UsageError(f"pirl: {first} comes before any command; `pirl --help` lists them")
    guess = _OTHER_NAMES.get(first) or nearest(
        first, [name for name in COMMANDS if " " not in name]
    )
    where = "" if guess else "; `pirl --help` lists them"
    raise UsageError(
        f"pirl: unknown command {first!r}{meant(f'pirl {guess}' if guess else None)}{where}"
    )


if __name__ == "__main__":
    sys.exit(main())
