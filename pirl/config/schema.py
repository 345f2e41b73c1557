"""A raw config against the dataclasses it is for: every unknown key and wrong type in one pass.

Owns the mapping from type annotations to what JSON may hold (stricter than draccus, which takes
the text "5" for an integer and true for 1). Refuses to know any particular field; ranges and
everything that needs two fields are checked by `pirl.config.rules`.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, cast

import draccus
from draccus.choice_types import CHOICE_TYPE_KEY
from draccus.utils import is_choice_type

from pirl.config.jsonfile import (
    JsonObject,
    NotFinite,
    join,
    parse_json_value,
    silent_errors,
)
from pirl.config.overrides import OverrideText
from pirl.config.view import ABSENT, WRONG
from pirl.errors import FieldError

_WORD = re.compile(r"[A-Za-z_][\w.:-]*")
_SCALARS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
}


def check_schema(
    declared: Any, raw: Any, *, path: str = "", fill_defaults: bool = True
) -> tuple[Any, list[FieldError]]:
    """Compare `raw` with the annotation `declared`.

    Args:
        fill_defaults: add the defaults of absent fields, as JSON values.

    Returns:
        The value with override texts interpreted and `WRONG` in place of what does not fit, and one
        error for each such place.
    """
    errors: list[FieldError] = []
    return _Schema(fill_defaults, errors).check(declared, raw, path), errors


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or an empty text when nothing is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def describe(declared: Any) -> str:
    """What a JSON value of this type looks like, in words."""
    origin, args = typing.get_origin(declared), typing.get_args(declared)
    if declared in _SCALARS:
        return _SCALARS[declared]
    if declared is Any:
        return "any value"
    if declared is types.NoneType:
        return "null"
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if isinstance(declared, type) and issubclass(declared, Enum):
        return "one of " + ", ".join(str(member.value) for member in declared)
    if origin in (list, set) or (origin is tuple and Ellipsis in args):
        return f"a list, each item {describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: " + ", ".join(describe(arg) for arg in args)
    return "a list" if declared in (list, tuple, set) else "an object {...}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Schema:
    fill_defaults: bool
    errors: list[FieldError]

    def check(self, declared: Any, value: Any, path: str) -> Any:
        if value is WRONG or isinstance(value, NotFinite):
            # Reported already: by whoever marked it, or by `silent_errors`.
            return WRONG
        if isinstance(value, OverrideText):
            value = _interpret(declared, value)
            self.errors.extend(silent_errors(value, path))
        origin = typing.get_origin(declared) or declared
        if origin in (typing.Union, types.UnionType):
            return self._union(declared, value, path)
        if origin is typing.Literal:
            fits = any(
                value == arg and type(value) is type(arg) for arg in typing.get_args(declared)
            )
            return value if fits else self._wrong(declared, value, path)
        if declared in _SCALARS or declared is types.NoneType:
            return value if _is_scalar(declared, value) else self._wrong(declared, value, path)
        if isinstance(origin, type):
            return self._of_class(declared, origin, value, path)
        return value

    def _of_class(self, declared: Any, origin: type, value: Any, path: str) -> Any:
        if issubclass(origin, Enum):
            names = {member.value for member in origin} | set(origin.__members__)
            fits = isinstance(value, str) and value in names
            return value if fits else self._wrong(declared, value, path)
        if dataclasses.is_dataclass(origin) or is_choice_type(origin):
            if not isinstance(value, dict):
                return self._wrong(declared, value, path)
            return self._object(origin, cast("dict[str, Any]", value), path)
        if issubclass(origin, dict):
            return self._mapping(declared, value, path)
        if issubclass(origin, (list, tuple, set, frozenset)):
            return self._sequence(declared, origin, value, path)
        return value

    def _union(self, declared: Any, value: Any, path: str) -> Any:
        members = [m for m in typing.get_args(declared) if m is not types.NoneType]
        if value is None and len(members) < len(typing.get_args(declared)):
            return None
        if len(members) == 1:
            return self.check(members[0], value, path)
        for member in members:
            attempt = _Schema(self.fill_defaults, [])
            result = attempt.check(member, value, path)
            if not attempt.errors:
                return result
        return self._wrong(declared, value, path)

    def _object(self, cls: type, value: dict[str, Any], path: str) -> Any:
        rest = dict(value)
        result = JsonObject()
        if is_choice_type(cls) and not _is_registered(cls):
            chosen = self._choice(cls, rest, path)
            if chosen is None:
                return JsonObject(rest) if isinstance(rest.get(CHOICE_TYPE_KEY), str) else WRONG
            declared, cls = cls, chosen
            result[CHOICE_TYPE_KEY] = rest.pop(CHOICE_TYPE_KEY)
            if self._is_of_another_choice(declared, cls, rest, path):
                return WRONG
        hints = _hints(cls)
        known = dataclasses.fields(cls)  # type: ignore[arg-type]
        for field in known:
            if field.name in rest:
                given = rest.pop(field.name)
                result[field.name] = self.check(hints[field.name], given, join(path, field.name))
            elif not self._absent(field, hints[field.name], path, result):
                result[field.name] = WRONG
        for key, item in rest.items():
            self._unknown(key, item, [field.name for field in known], path)
        return result

    def _choice(self, cls: Any, value: dict[str, Any], path: str) -> type | None:
        known: dict[str, type] = cls.get_known_choices()
        name = value.get(CHOICE_TYPE_KEY, ABSENT)
        if isinstance(name, str) and name in known:
            value[CHOICE_TYPE_KEY] = str(name)
            return known[name]
        others: tuple[str, ...] = getattr(cls, "OTHER_CHOICES", ())
        if name in others:
            # LeRobot's, but not declared here: a rule refuses it by name, whatever it holds.
            value[CHOICE_TYPE_KEY] = str(name)
            return None
        known_names = [*known, *others]
        shown = str(name) if isinstance(name, str) else name
        hint = did_you_mean(name, known_names) if isinstance(name, str) else ""
        self.errors.append(
            FieldError(
                field=join(path, CHOICE_TYPE_KEY),
                value=shown,
                expected="one of " + ", ".join(sorted(known_names)),
                fix=hint or f"set {join(path, CHOICE_TYPE_KEY)} to one of them",
            )
        )
        return None

    def _is_of_another_choice(
        self, declared: Any, cls: type, value: dict[str, Any], path: str
    ) -> bool:
        """Whether keys of a section are those of one other choice; that is one error, of the type."""
        known: dict[str, type] = declared.get_known_choices()
        names = {choice: {f.name for f in dataclasses.fields(c)} for choice, c in known.items()}  # type: ignore[arg-type]
        chosen = next(choice for choice, c in known.items() if c is cls)
        foreign = [key for key in value if key not in names[chosen]]
        other = next((c for c in names if foreign and names[c].issuperset(foreign)), None)
        if other is None:
            return False
        name = join(path, CHOICE_TYPE_KEY)
        self.errors.append(
            FieldError(
                field=name,
                value=chosen,
                expected=f"{other}: {', '.join(join(path, key) for key in foreign)} belong to it",
                fix=f"set {name}={other}, or remove what {chosen} has not",
            )
        )
        return True

    def _absent(
        self, field: dataclasses.Field[Any], hint: Any, path: str, result: dict[str, Any]
    ) -> bool:
        has_factory = field.default_factory is not dataclasses.MISSING
        if field.default is dataclasses.MISSING and not has_factory:
            name = join(path, field.name)
            self.errors.append(
                FieldError(field=name, value=ABSENT, expected=describe(hint), fix=f"set {name}")
            )
            return False
        if self.fill_defaults:
            factory = cast("Any", field.default_factory)
            default = factory() if has_factory else field.default
            result[field.name] = draccus.encode(default, hint)
        return True

    def _mapping(self, declared: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self._wrong(declared, value, path)
        key_type, item_type = typing.get_args(declared) or (str, Any)
        result, before = JsonObject(), len(self.errors)
        for key, item in cast("dict[str, Any]", value).items():
            if key_type not in (str, Any):
                self.check(key_type, OverrideText(key), join(path, key))
            result[key] = self.check(item_type, item, join(path, key))
        # What needs the whole of it has been told by the part.
        return WRONG if len(self.errors) > before else result

    def _sequence(self, declared: Any, origin: type, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            return self._wrong(declared, value, path)
        items = cast("list[Any]", value)
        args = typing.get_args(declared)
        if issubclass(origin, tuple) and args and Ellipsis not in args:
            if len(items) != len(args):
                return self._wrong(declared, value, path)
            each = list(args)
        else:
            each = [args[0] if args else Any] * len(items)
        before = len(self.errors)
        result = [
            self.check(tp, item, join(path, str(index)))
            for index, (tp, item) in enumerate(zip(each, items, strict=True))
        ]
        return result if len(self.errors) == before and WRONG not in result else WRONG

    def _unknown(self, key: str, value: Any, known: list[str], path: str) -> None:
        name = join(path, key)
        hint = did_you_mean(key, known)
        if not hint and (elsewhere := _elsewhere(key)):
            hint = f"it is called {elsewhere!r}"
        self.errors.append(
            FieldError(
                field=name,
                value=value,
                expected="a known key" + (f" of {path}" if path else ""),
                fix=f"{hint} otherwise remove {name}" if hint else f"remove {name}",
            )
        )

    def _wrong(self, declared: Any, value: Any, path: str) -> Any:
        self.errors.append(
            FieldError(
                field=path,
                value=str(value) if isinstance(value, OverrideText) else value,
                expected=describe(declared),
                fix=f"set {path} to {describe(declared)}",
            )
        )
        return WRONG


def _is_scalar(declared: Any, value: Any) -> bool:
    if declared is bool:
        return isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if declared is float:
        if isinstance(value, int) and not isinstance(value, bool):
            # Beyond this an integer has no float64.
            return abs(value) < 2**1023
        return isinstance(value, float)
    if declared in (str, Path):
        return isinstance(value, str) and "\0" not in value
    return value is None


def _interpret(declared: Any, text: OverrideText) -> Any:
    members = typing.get_args(declared) if _is_union(declared) else (declared,)
    is_text = any(
        member in (str, Path)
        or typing.get_origin(member) is typing.Literal
        or (isinstance(member, type) and issubclass(member, Enum))
        for member in members
    )
    if is_text:
        return str(text)
    try:
        return parse_json_value(text)
    except ValueError:
        return _words(text)


def _words(text: str) -> Any:
    """A list of words without quotes, as LeRobot's command lines have them, or the text itself."""
    inner = text.strip()
    words = [word.strip() for word in inner[1:-1].split(",")]
    is_list = inner[:1] == "[" and inner[-1:] == "]" and all(_WORD.fullmatch(w) for w in words)
    return words if is_list else str(text)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (typing.Union, types.UnionType)


def _is_registered(cls: Any) -> bool:
    return cls in cls.get_known_choices().values()


def _elsewhere(key: str) -> str | None:
    from pirl.config import recipe

    sections: tuple[tuple[str, Any], ...] = (
        ("pirl", recipe.PiRLConfig),
        ("pirl.flow_sde", recipe.FlowSDEConfig),
        ("pirl.flow_noise", recipe.FlowNoiseConfig),
        ("pirl.last_step_std", recipe.LastStepStd),
        ("runtime", recipe.RuntimeConfig),
        ("parallelism", recipe.ParallelismConfig),
    )
    for section, cls in sections:
        if key in {field.name for field in dataclasses.fields(cls)}:
            return f"{section}.{key}"
    return None
