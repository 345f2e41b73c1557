"""`pirl completion bash|zsh`: a script that completes commands, options, their words and config fields.

Owns the script, made from the parsers themselves: what it offers is what there is. The script starts no
process while somebody types.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pirl.config.command_line import Parser, parse, word_of
from pirl.errors import ExitCode
from pirl.usage import COMMANDS, resolve

SHELLS = ("bash", "zsh")

_ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
"""zsh reads the same script through its own emulation."""

_FUNCTION = """\
_pirl() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}" found
  # bash counts `=` as a word of its own.
  [[ $word == = ]] && word=
  [[ $before == = ]] && before="${COMP_WORDS[COMP_CWORD-2]}"
  if ((COMP_CWORD == 1)); then
    found="@commands@ --help --version"
  else
@groups@
    case "$command $before" in
@words@
      *) case "$command" in
@options@
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$found" -- "$word"))
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == --*.* ]]; then
    COMPREPLY[0]+="="
    # zsh has no such word.
    type compopt >/dev/null 2>&1 && compopt -o nospace
  fi
  return 0
}
complete -o default -F _pirl pirl
"""


def completion_parser() -> Parser:
    """`pirl completion`."""
    parser = Parser(
        "completion",
        "Print a script that completes commands, options and config fields. Put the line of the example into"
        ' ~/.bashrc; for zsh, `eval "$(pirl completion zsh)"` into ~/.zshrc.',
        example='eval "$(pirl completion bash)"',
    )
    parser.add_argument("shell", type=word_of(SHELLS), choices=SHELLS)
    return parser


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl completion`."""
    args, _ = parse(completion_parser(), argv)
    sys.stdout.write(script(args.shell))
    return int(ExitCode.OK)


def script(shell: str) -> str:
    """The completion script of a shell of `SHELLS`."""
    # Only now: draccus comes with it, and no help text needs one.
    from pirl.config.fields import field_names

    parsers: dict[str, Parser] = {name: resolve(c.parser)() for name, c in COMMANDS.items()}
    groups = sorted({name.partition(" ")[0] for name in COMMANDS if " " in name})
    words: list[str] = []
    options: list[str] = []
    for name, parser in parsers.items():
        offered = [o for action in parser.declared for o in action.option_strings if o[:2] == "--"]
        places = [
            a
            for action in parser.declared
            if not action.option_strings
            for a in action.choices or ()
        ]
        if name in groups:
            places += [n.partition(" ")[2] for n in COMMANDS if n.startswith(f"{name} ")]
        fields = " $fields" if parser.takes_fields or name == "config" else ""
        options.append(f'        "{name}") found="{" ".join([*places, *offered])}{fields}" ;;')
        for action in parser.declared:
            if action.choices and action.option_strings:
                cases = "|".join(f'"{name} {option}"' for option in action.option_strings)
                words.append(f'      {cases}) found="{" ".join(map(str, action.choices))}" ;;')
    longer = [
        f'    [[ $command == {group} && $COMP_CWORD -gt 2 ]] && command="{group} ${{COMP_WORDS[2]}}"'
        for group in groups
    ]
    function = _FUNCTION.replace("@commands@", " ".join(n for n in COMMANDS if " " not in n))
    for mark, lines in (("@groups@", longer), ("@words@", words), ("@options@", options)):
        function = function.replace(mark, "\n".join(lines))
    names = " ".join(f"--{name}" for name in field_names())
    function = function.replace("  # bash counts", f'  local fields="{names}"\n  # bash counts', 1)
    return (_ZSH if shell == "zsh" else "") + function
