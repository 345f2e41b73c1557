"""How a command line is described, read, and answered when it is wrong.

Owns the parser that every command builds on and the words of its errors: one line that names the option
that was meant. What is no option of a command is a field of the config, where the command takes fields.
Costs no more than argparse; the names of the fields are looked up when a command line has some.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pirl.config.spelling import nearest
from pirl.errors import UsageError
from pirl.terminal import VERBOSE

_WIDTH = 88
_NUMBER = re.compile(r"-\d|-\.\d")
_FIELDS = "fields: every further --section.field=value overrides the config; `pirl config --list` names them"


class Parser(argparse.ArgumentParser):
    """Argparse's, without abbreviations; it raises where that one prints its usage and ends the process."""

    def __init__(
        self, command: str, what: str, *, example: str, codes: str = "", takes_fields: bool = False
    ) -> None:
        """Describe a command; every one has `--help`, `--version` and `--verbose`.

        Args:
            command: without `pirl`.
            example: one command line that works in a clone of the repository.
            codes: exit codes that need a word.
            takes_fields: whether fields of the config may follow.
        """
        self.declared: list[argparse.Action] = []
        self.example = example
        self.takes_fields = takes_fields
        further = [_FIELDS] * takes_fields + [f"exit codes: {codes}"] * bool(codes)
        super().__init__(
            prog=f"pirl {command}".rstrip(),
            description=textwrap.fill(what, _WIDTH),
            epilog="\n\n".join(
                [f"example:\n  {example}", *(textwrap.fill(f, _WIDTH) for f in further)]
            ),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="store_true", help="print the version of pirl")
        self.add_argument(VERBOSE, action="store_true", help="messages whole, however long")

    def add_argument(self, *names: Any, **how: Any) -> argparse.Action:
        """As argparse's, and remembered in `declared`."""
        action = super().add_argument(*names, **how)
        self.declared.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process.

        Raises:
            UsageError: always.
        """
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            message = f"{missing} is missing, as in: {self.example}"
        raise UsageError(f"{self.prog}: {message.removeprefix('argument ')}")


def parse(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of a command, and the overrides of its config as they were written.

    Raises:
        UsageError: an option that the command has not, or a value that it does not take.
    """
    tokens = list(argv)
    for token in _unknown(parser, tokens):
        raise UsageError(f"{parser.prog}: {_not_known(parser, token)}")
    return parser.parse_known_args(tokens)


def word_of(words: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of `words`."""

    def read(text: str) -> str:
        if text in words:
            return text
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(words)}{meant(nearest(text, words))}"
        )

    return read


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: an integer that is not below `low`."""

    def read(text: str) -> int:
        if text.removeprefix("-").isdecimal() and int(text) >= low:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= {low}")

    return read


def meant(word: str | None) -> str:
    """The end of a message that asks whether `word` was meant; empty for None."""
    return f"; did you mean {word}?" if word else ""


def field_sections() -> tuple[str, ...]:
    """What a dotted override may begin with: the fields of a config's first level."""
    # Only now: draccus comes with it, and no help text needs one.
    from pirl.config.lerobot_fields import PiRLTrainConfig

    return tuple(vars(PiRLTrainConfig)["__dataclass_fields__"])


def _unknown(parser: Parser, tokens: list[str]) -> Iterable[str]:
    """What is neither an option nor a value of one, nor an override; the first is enough."""
    known = {name: action for action in parser.declared for name in action.option_strings}
    has_places = any(not action.option_strings for action in parser.declared)
    rest = iter(tokens)
    waiting = 0
    for token in rest:
        name, equals, _ = token.partition("=")
        is_option = token.startswith("-") and token != "-" and not _NUMBER.match(token)
        if not is_option:
            if waiting:
                waiting -= 1
            elif not has_places:
                yield token
        elif name in known:
            takes = known[name].nargs
            waiting = (
                0 if equals else (1 if takes is None else takes if isinstance(takes, int) else 0)
            )
        elif parser.takes_fields and _is_field(name):
            waiting = 0 if equals else 1
        else:
            yield token


def _is_field(option: str) -> bool:
    return option.startswith("--") and option[2:].partition(".")[0] in field_sections()


def _not_known(parser: Parser, token: str) -> str:
    if not token.startswith("-"):
        known = [name for action in parser.declared for name in action.option_strings]
        is_file = token.endswith((".json", ".yaml", ".yml")) or Path(token).exists()
        if is_file and "--config_path" in known:
            return f"{token!r} has no option before it{meant(f'--config_path {token}')}"
        return f"unexpected argument {token!r}; `{parser.prog} --help` shows what it takes"
    name = token.partition("=")[0]
    where = f"`{parser.prog} --help` lists its options"
    if parser.takes_fields:
        where += ", `pirl config --list` the fields"
    guess = _guess(parser, name)
    return f"unknown option {name}" + (meant(guess) if guess else f"; {where}")


def _guess(parser: Parser, name: str) -> str | None:
    """The option, or else the field, that `name` was probably meant to be."""
    options = {
        alias: action.option_strings[0]
        for action in parser.declared
        for alias in action.option_strings
        if alias.startswith("--")
    }
    near = nearest(name, options)
    if near is not None:
        return options[near]
    if not parser.takes_fields:
        return None
    from pirl.config.fields import field_names

    word = name.lstrip("-")
    by_leaf = {full.rpartition(".")[2]: full for full in reversed(field_names())}
    full = by_leaf.get(word) or nearest(word, field_names())
    return f"--{full}" if full else None
