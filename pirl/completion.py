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

_FOUND = """\
_pirl_found() {  # POSITION COMMAND SECOND BEFORE WORD: the words that may stand there, for both shells
  local command="$2" fields="@fields@"
  if (($1 == 1)); then
    found="@commands@ --help --version"
    return
  fi
@groups@
  case "$command $4" in
@words@
    @files@|*" --"*.*) ;;
    *) case "$command" in
@options@
    esac ;;
  esac
}
"""

_BASH = """\
_pirl() {
  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" found=
  # bash counts `=` as a word of its own.
  [[ $word == = ]] && word=
  [[ $before == = ]] && before="${COMP_WORDS[COMP_CWORD-2]}"
  _pirl_found $COMP_CWORD "${COMP_WORDS[1]}" "${COMP_WORDS[2]}" "$before" "$word"
  COMPREPLY=($(compgen -W "$found" -- "$word"))
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == --*.* ]]; then
    COMPREPLY[0]+="="
    compopt -o nospace
  fi
  return 0
}
complete -o default -F _pirl pirl
"""

_ZSH = """\
_pirl() {
  local before="${words[CURRENT-1]}" found=
  # zsh leaves `--option=word` whole.
  [[ $before == --*=* ]] && before=
  if [[ $PREFIX == --*=* ]]; then
    before="${PREFIX%%=*}"
    compset -P 1 '*='
  fi
  _pirl_found $((CURRENT - 1)) "${words[2]}" "${words[3]}" "$before" "$PREFIX"
  local -a offered dotted plain
  offered=(${=found}) dotted=(${(M)offered:#--*.*}) plain=(${offered:#--*.*})
  local -i ret=1
  compadd -S = -a dotted && ret=0
  compadd -a plain && ret=0
  ((ret)) && _default
}
(($+functions[compdef])) || { autoload -U compinit && compinit; }
compdef _pirl pirl
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
    files: list[str] = []
    """Of a value that is a file, or what nobody can guess: the shell offers files."""
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
        # A name that begins with no dash is a file, where a file is what comes next.
        wants_file = name not in groups and any(
            not (action.option_strings or action.choices) for action in parser.declared
        )
        dash = "[[ $5 == -* ]] && " if wants_file and name != "config" else ""
        fields = " $fields" if parser.takes_fields else ""
        fields = " ${fields//--/}" if name == "config" else fields
        options.append(f'      "{name}") {dash}found="{" ".join([*places, *offered])}{fields}" ;;')
        for action in parser.declared:
            cases = [f'"{name} {option}"' for option in action.option_strings]
            if cases and action.choices:
                words.append(f'    {"|".join(cases)}) found="{" ".join(action.choices)}" ;;')
            elif action.nargs != 0:
                files += cases
    parts = {
        "fields": " ".join(f"--{name}" for name in field_names()),
        "commands": " ".join(n for n in COMMANDS if " " not in n),
        "groups": "\n".join(
            f'  [[ $command == {g} && $1 -gt 2 ]] && command="{g} $3"' for g in groups
        ),
        "words": "\n".join(words),
        "files": "|".join(files),
        "options": "\n".join(options),
    }
    function = _FOUND
    for mark, text in parts.items():
        function = function.replace(f"@{mark}@", text)
    return function + (_ZSH if shell == "zsh" else _BASH)
