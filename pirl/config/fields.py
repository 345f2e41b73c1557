"""`pirl config`: what each field of a config is, told from the field itself.

Owns the table of fields and its two texts. Names, types and defaults are those that configs are checked
with, bounds those that the rules check, and the meaning is the docstring below a field of pirl's or the comment
beside one of LeRobot's. Needs no LeRobot: of an installed one only the source files are read.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import draccus
from draccus.utils import is_choice_type

from pirl import doors
from pirl.config import lerobot_fields, recipe
from pirl.config.arguments import config_parser
from pirl.config.command_line import meant, parse
from pirl.config.installed import lerobot_folder
from pirl.config.kinds import admit
from pirl.config.rules_fields import bound_of, section_in
from pirl.config.rules_runtime import INERT_FIELDS
from pirl.config.schema import describe
from pirl.config.spelling import nearest
from pirl.errors import ExitCode, UsageError

_SHOWN = 40
"""Characters of a default in the list; the help of the field has all."""
_TOLD = 120
"""And of its meaning."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a config, for a person."""

    name: str
    """Dotted."""
    type: str
    default: str
    """As JSON; empty where there is none."""
    bound: str
    """Range with its unit, or the words it may hold; empty where any value of the type will do."""
    meaning: str
    only: str
    """The choice that has this field, for instance `env.type=libero`; empty for every config."""


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl config`.

    Raises:
        UsageError: no field of that name, or none asked for.
    """
    asked = [token for token in argv if token not in ("-h", "--help")]
    args, _ = parse(config_parser(), [_bare(token) for token in asked])
    if args.schema and args.fields:
        what = ", ".join(args.fields)
        raise UsageError(f"pirl config: --schema is of the whole config; leave {what} out")
    if args.schema:
        from pirl.config.json_schema import train_config_schema

        sys.stdout.write(json.dumps(train_config_schema(), indent=1) + "\n")
        return int(ExitCode.OK)
    if not args.fields and not args.list:
        raise UsageError("pirl config: give a field, --list or --schema")
    chosen = [f for name in args.fields for f in fields_at(name)] or list(all_fields())
    if args.json:
        sys.stdout.write(
            json.dumps([dataclasses.asdict(field) for field in chosen], indent=1) + "\n"
        )
    elif args.list:
        width = max(len(field.name) for field in chosen)
        sys.stdout.write("".join(_line(field, width) for field in chosen))
    else:
        sys.stdout.write("\n".join(_paragraph(field) for field in chosen))
    return int(ExitCode.OK)


def _bare(token: str) -> str:
    """A field as a command line has it (`--pirl.gamma=0.9`) without the rest; other tokens as they are."""
    name = token.removeprefix("--").partition("=")[0]
    # Options have no dot; every field's name costs LeRobot.
    return name if "." in name and name in field_names() else token


def fields_at(name: str) -> list[Field]:
    """The field of that name, or every field of the section of that name.

    Raises:
        UsageError: there is neither.
    """
    found = [f for f in all_fields() if f.name == name or f.name.startswith(f"{name}.")]
    if found:
        return found
    leaves = {full.rpartition(".")[2]: full for full in reversed(field_names())}
    guess = leaves.get(name) or nearest(name, [*field_names(), *leaves])
    raise UsageError(
        f"pirl config: no field {name!r}{meant(leaves.get(guess or '', guess))}"
        + ("" if guess else "; `pirl config --list` names them all")
    )


def field_names() -> list[str]:
    """Every dotted name, once, in the order of the config."""
    return list(dict.fromkeys(field.name for field in all_fields()))


@cache
def all_fields() -> tuple[Field, ...]:
    """Every field that a config of the recipe can set."""
    # The one built-in choice that LeRobot does not declare.
    admit({"reward_model": {"type": "time_cost"}})
    return tuple(_fields_of(lerobot_fields.PiRLTrainConfig, prefix="", only="", holder=None))


def _fields_of(cls: Any, *, prefix: str, only: str, holder: Any) -> Iterator[Field]:
    """The fields below a class; `holder` is the object whose values are the defaults, where there is one."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        name, hint = prefix + field.name, hints[field.name]
        section = section_in(hint)
        if section is None:
            meaning = meaning_of(cls, field.name, name)
            yield Field(
                name=name,
                type=describe(hint),
                default=_default(field, hint, holder),
                bound=str(bound_of(field, name) or ""),
                meaning=meaning,
                only=only,
            )
        elif is_choice_type(section):
            yield from _choices_of(section, name)
        else:
            inner_holder = value_of(field, holder)
            yield from _fields_of(section, prefix=f"{name}.", only=only, holder=inner_holder)


def _choices_of(section: Any, name: str) -> Iterator[Field]:
    known: dict[str, Any] = section.get_known_choices()
    yield Field(
        name=f"{name}.type",
        type="text",
        default="",
        bound="one of " + ", ".join(_names(name, known)) if known else "",
        meaning="" if known else f"Recipe {recipe.RECIPE} does not read `{name}`.",
        only="",
    )
    for choice, cls in known.items():
        yield from _fields_of(cls, prefix=f"{name}.", only=f"{name}.type={choice}", holder=None)


def _names(section: str, known: Iterable[str]) -> Iterable[str]:
    """Choices of a section; of policies, environments and rewards also what is only loaded when it is named."""
    group = doors.group_of(section)
    return known if group is None else (*doors.BUILT_IN[group], "an installed one")


def meaning_of(cls: type, leaf: str, name: str) -> str:
    """What is written at a field, and whether the recipe reads it."""
    told = _meanings(cls).get(leaf, "")
    if name not in INERT_FIELDS:
        return told
    return f"{told} Recipe {recipe.RECIPE} does not read it; {INERT_FIELDS[name][1]}.".strip()


def value_of(field: dataclasses.Field[Any], holder: Any) -> Any:
    """The default of a field, that of `holder` where its section has one; `MISSING` where there is none."""
    if holder is not None:
        return getattr(holder, field.name)
    factory: Any = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _default(field: dataclasses.Field[Any], hint: Any, holder: Any) -> str:
    value = value_of(field, holder)
    return "" if value is dataclasses.MISSING else json.dumps(draccus.encode(value, hint))


@cache
def _meanings(cls: type) -> dict[str, str]:
    """What is written at the fields of a class, by name; its base classes in LeRobot included."""
    files = [(Path(recipe.__file__), cls.__name__)]
    root = lerobot_folder()
    if root is not None:
        for place in lerobot_fields.SOURCES.get(cls.__name__, ()):
            file, _, declared = place.partition(":")
            files.append((root / file, declared))
    files.append((Path(recipe.__file__).with_name("train.py"), cls.__name__))
    own = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if own is not None and cls.__module__ != lerobot_fields.__name__:
        files.append((Path(own), cls.__name__))
    found: dict[str, str] = {}
    for file, declared in files:
        found |= _written(file).get(declared, {})
    return found


@cache
def _written(file: Path) -> dict[str, dict[str, str]]:
    """Docstring, or else comment, of every field of every class of a module; empty when it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, ValueError, SyntaxError):
        return {}
    lines = text.splitlines()
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {cls.name: dict(_of_class(cls, lines)) for cls in classes}


def _of_class(cls: ast.ClassDef, lines: list[str]) -> Iterator[tuple[str, str]]:
    for item, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = inspect.cleandoc(str(after.value.value))
        text = text or _comment(lines, item)
        if text:
            yield item.target.id, " ".join(text.split())


def _comment(lines: list[str], item: ast.AnnAssign) -> str:
    """The comment behind a field, or else the lines of comment directly above it."""
    end = (item.end_lineno or item.lineno) - 1
    behind = lines[end][item.end_col_offset or 0 :].strip()
    if behind.startswith("#"):
        return behind.lstrip("# ")
    above: list[str] = []
    for line in reversed(lines[: item.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    return " ".join(above)


def _line(field: Field, width: int) -> str:
    told = "; ".join(part for part in (field.type, field.bound, field.only) if part)
    default = field.default if len(field.default) <= _SHOWN else f"{field.default[:_SHOWN]}..."
    row = f"{field.name:<{width}}  {default or '-':<12}  {told}"
    meaning = textwrap.shorten(field.meaning, _TOLD, placeholder=" ...")
    return f"{row}. {meaning}".rstrip(". ") + "\n"


def _paragraph(field: Field) -> str:
    rows = {
        "type": field.type,
        "default": field.default or "none: it must be given",
        "bound": field.bound,
        "only with": field.only,
        "meaning": field.meaning,
    }
    return field.name + "\n" + "".join(f"  {k:<9}  {v}\n" for k, v in rows.items() if v)
