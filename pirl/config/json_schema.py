"""`pirl config --schema`: the train config as a JSON Schema, made from the fields that configs are checked with.

Owns the translation of types and bounds. Says what each field may hold by itself; what needs two fields, the
files or the machine is `pirl validate`'s to say, so a document that fits may still be refused, and what is
refused here is refused there. Needs no LeRobot. Read `pirl.config.fields` next.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import draccus
from draccus.choice_types import CHOICE_TYPE_KEY
from draccus.utils import is_choice_type

from pirl import doors
from pirl.config import after_init, recipe
from pirl.config.bounds import Bound, FilledPath, Range, Words
from pirl.config.fields import meaning_of, value_of
from pirl.config.kinds import admit
from pirl.config.lerobot_fields import PiRLTrainConfig, PreTrainedConfig
from pirl.config.rules_fields import LEROBOTS, bound_of
from pirl.config.rules_runtime import INERT_FIELDS

type Json = dict[str, Any]

SCHEMA_VERSION = 1
"""Of the form of this answer, not of the fields: a keyword that gets another meaning makes another number."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    Path: "string",
    types.NoneType: "null",
}


def train_config_schema() -> Json:
    """The schema of a config of the recipe; `unit` and `schema_version` are annotations of ours."""
    # The one built-in choice that LeRobot does not declare.
    admit({"reward_model": {"type": "time_cost"}})
    head = {"$schema": _DIALECT, "schema_version": SCHEMA_VERSION, "title": "pirl train config"}
    told = "Fields by themselves; `pirl validate` checks what they demand of each other."
    body = _object(PiRLTrainConfig, prefix="", holder=None)
    return head | {"description": told} | body | {"required": ["recipe", "policy", "env", "pirl"]}


def _object(cls: Any, *, prefix: str, holder: Any) -> Json:
    hints = typing.get_type_hints(cls)
    declared = [field for field in dataclasses.fields(cls) if field.init]
    properties = {
        field.name: _field(
            cls, field, hints[field.name], name=prefix + field.name, value=_value(field, holder)
        )
        for field in declared
    }
    none = dataclasses.MISSING
    required = [f.name for f in declared if f.default is none and f.default_factory is none]
    answer: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return answer | ({"required": required} if required else {})


def _value(field: dataclasses.Field[Any], holder: Any) -> Any:
    """The default of a field; none where it is another one on another machine."""
    is_local = field.default_factory is after_init.video_backend
    return dataclasses.MISSING if is_local else value_of(field, holder)


def _field(cls: Any, field: dataclasses.Field[Any], hint: Any, *, name: str, value: Any) -> Json:
    bound = bound_of(field, name)
    if name in INERT_FIELDS:
        answer: Json = {"const": INERT_FIELDS[name][0]}
    elif name == "recipe":
        answer = {"const": recipe.RECIPE}
    else:
        answer = _typed(hint, bound, name=name, value=value)
    if isinstance(bound, Range) and bound.unit:
        answer["unit"] = bound.unit
    told = meaning_of(cls, field.name, name)
    if told:
        answer["description"] = told
    if value is not dataclasses.MISSING:
        answer["default"] = draccus.encode(value, hint)
    return answer


def _typed(hint: Any, bound: Bound | None, *, name: str, value: Any) -> Json:
    """What a JSON value of this type may be; a bound is that of the number or word, or of each item."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _any_of([_typed(arg, bound, name=name, value=value) for arg in args])
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin in _SCALARS:
        return {"type": _SCALARS[origin]} | _limits(origin, bound)
    if origin is Any or not isinstance(origin, type):
        return {}
    if issubclass(origin, Enum):
        # By value or by name, as draccus takes them.
        return {"enum": sorted({m.value for m in origin} | set(origin.__members__))}
    if is_choice_type(origin):
        return _choice(origin, name)
    if dataclasses.is_dataclass(origin):
        inner = value if dataclasses.is_dataclass(value) else None
        return _object(origin, prefix=f"{name}.", holder=inner)
    if issubclass(origin, dict):
        item = args[1] if args else Any
        return {
            "type": "object",
            "additionalProperties": _typed(item, bound, name=f"{name}.*", value=None),
        }
    return _list(origin, args, bound, name=name)


def _list(origin: type, args: tuple[Any, ...], bound: Bound | None, *, name: str) -> Json:
    if issubclass(origin, tuple) and args and Ellipsis not in args:
        items = [_typed(arg, bound, name=f"{name}.*", value=None) for arg in args]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    item = args[0] if args else Any
    return {"type": "array", "items": _typed(item, bound, name=f"{name}.*", value=None)}


def _limits(scalar: Any, bound: Bound | None) -> Json:
    if isinstance(bound, Range) and scalar in (int, float):
        low = "exclusiveMinimum" if bound.low_open else "minimum"
        high = "exclusiveMaximum" if bound.high_open else "maximum"
        return {low: bound.low} | ({} if bound.high == math.inf else {high: bound.high})
    if isinstance(bound, Words) and scalar is str:
        return {"enum": list(bound.words)}
    return {"minLength": 1} if isinstance(bound, FilledPath) and scalar is str else {}


def _any_of(answers: list[Json]) -> Json:
    """The alternatives as one: of a scalar or null the type is a list, so that its bounds stay in sight."""
    null = {"type": "null"}
    others = [answer for answer in answers if answer != null]
    if len(others) == 1 and len(answers) == 2:
        (only,) = others
        if isinstance(only.get("type"), str) and "properties" not in only:
            widened = only | {"type": [only["type"], "null"]}
            return widened | ({"enum": [*only["enum"], None]} if "enum" in only else {})
    return {"anyOf": answers}


def _choice(base: Any, name: str) -> Json:
    """One object for each type that pirl brings; an installed one is known by its name alone."""
    known: dict[str, Any] = base.get_known_choices()
    group = doors.group_of(name)
    own = known if group is None else {n: known[n] for n in doors.BUILT_IN[group] if n in known}
    answers: list[Json] = []
    for choice, cls in own.items():
        answer = _object(cls, prefix=f"{name}.", holder=None)
        answer["properties"] = {CHOICE_TYPE_KEY: {"const": choice}} | answer["properties"]
        answer["required"] = [CHOICE_TYPE_KEY, *answer.get("required", [])]
        answers.append(answer)
    if group is not None:
        elsewhere = [n for n in doors.installed(group) if n not in own]
        answers += [_named(n) for n in elsewhere]
    if base is PreTrainedConfig:
        bounded = {
            field.removeprefix("policy."): {"type": "integer"} | _limits(int, bound)
            for field, bound in LEROBOTS.items()
            if field.startswith("policy.")
        }
        answers.append(
            {
                "type": "object",
                "properties": {"path": {"type": "string", "minLength": 1}} | bounded,
                "required": ["path"],
                "description": "A folder or hub repository whose config.json has the other fields.",
            }
        )
    return answers[0] if len(answers) == 1 else {"anyOf": answers}


def _named(choice: str) -> Json:
    told = "Its fields are those of the distribution that offers it."
    return {
        "type": "object",
        "properties": {CHOICE_TYPE_KEY: {"const": choice}},
        "required": [CHOICE_TYPE_KEY],
        "description": told,
    }
