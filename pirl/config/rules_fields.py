"""What each field may hold by itself: bounds from the declarations of the classes that a config names.

Owns the walk over those classes, and the bounds of fields that LeRobot declares. Refuses rules that need two
fields: those are in `pirl.config.rules_pirl`, `rules_policy`, `rules_env` and `rules_runtime`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from draccus.utils import is_choice_type

from pirl.config.bounds import Bound, FilledPath, Range, bound_at
from pirl.config.kinds import PLAIN, PolicyFacts, admit, facts_of_policy
from pirl.config.recipe import ParallelismConfig, PiRLConfig, RuntimeConfig
from pirl.config.spelling import one_of_error
from pirl.config.view import View
from pirl.errors import FieldError

SECTIONS: Mapping[str, type] = {
    "pirl": PiRLConfig,
    "runtime": RuntimeConfig,
    "parallelism": ParallelismConfig,
}
"""pirl's own sections; every config has them."""

_CHOSEN = dict(zip(("policy", "env", "reward_model"), PLAIN, strict=True))
"""Sections whose class the config names."""

_DENOISING_STEPS = Range(1, 100, "steps of the sampler")

LEROBOTS: Mapping[str, Range] = {
    "env.observation_height": Range(16, 1024, "pixels"),
    "env.observation_width": Range(16, 1024, "pixels"),
    "env.episode_length": Range(1, 100_000, "steps"),
    "env.fps": Range(1, 1000, "control steps per second"),
    "policy.chunk_size": Range(1, 512, "actions"),
    "policy.n_action_steps": Range(1, 512, "actions"),
    PolicyFacts.denoising_field: _DENOISING_STEPS,
}
"""Of fields that LeRobot declares, under every type; what a class declares itself comes first."""


def check_ranges(view: View) -> Iterator[FieldError]:
    """Every number outside its range and every word that is not one of its choices."""
    for name, (bound, default) in _declared(view).items():
        if isinstance(bound, Range):
            yield from _outside(view, name, bound, default)
        elif isinstance(bound, FilledPath):
            # An unset variable of a shell: without this a learner would serve in plain text, or take any split.
            if view.text(name) == "":
                yield FieldError(
                    field=name,
                    value="",
                    expected="a path, or null for none",
                    fix=f"set {name}, or leave it out; a variable that was to fill it may be unset",
                )
        elif not bound.has_rule:
            for word in [view.text(name), *(view.items(name) or [])]:
                if isinstance(word, str) and word not in bound.words:
                    yield one_of_error(name, word, bound.words)


def section_in(hint: Any) -> Any:
    """The class of a section that a field of this type holds, a dataclass or a choice of them; else None."""
    # A dict or list of objects is one field: its keys are the user's own.
    if typing.get_origin(hint) in (dict, list):
        return None
    inner = [part for part in (hint, *typing.get_args(hint)) if isinstance(part, type)]
    return next((p for p in inner if dataclasses.is_dataclass(p) or is_choice_type(p)), None)


def bound_of(field: dataclasses.Field[Any], name: str) -> Bound | None:
    """The bound of a field: declared at it, or for one of LeRobot's by its dotted name."""
    return bound_at(field) or LEROBOTS.get(name)


def _declared(view: View) -> dict[str, tuple[Bound, Any]]:
    """Bound and default of every bounded field that the config may have, by dotted name."""
    facts = facts_of_policy(view)
    steps = PolicyFacts.denoising_field if facts is None else facts.denoising_field
    found: dict[str, tuple[Bound, Any]] = {
        name: (bound, None) for name, bound in {**LEROBOTS, steps: _DENOISING_STEPS}.items()
    }
    admit(view.tree)
    for section, registry in _CHOSEN.items():
        chosen: Any = registry.get_known_choices().get(view.text(f"{section}.type") or "")
        if chosen is not None:
            found |= _of_class(chosen, f"{section}.")
    for section, cls in SECTIONS.items():
        found |= _of_class(cls, f"{section}.")
    return found


@cache
def _of_class(cls: type, prefix: str) -> Mapping[str, tuple[Bound, Any]]:
    hints = typing.get_type_hints(cls)
    found: dict[str, tuple[Bound, Any]] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name, section = prefix + field.name, section_in(hints[field.name])
        bound = bound_of(field, name)
        if bound is not None:
            default = None if field.default is dataclasses.MISSING else field.default
            found[name] = (bound, default)
        elif section is not None and dataclasses.is_dataclass(section):
            found |= _of_class(section, f"{name}.")
    return found


def _outside(view: View, name: str, allowed: Range, default: Any) -> Iterator[FieldError]:
    number = view.number(name)
    told = "" if default is None else f"; the default is {default}"
    places = [(name, number, told)] if number is not None else []
    places += [(f"{name}.{i}", item, "") for i, item in enumerate(view.numbers(name) or [])]
    for place, value, ending in places:
        if not allowed.holds(value):
            fix = f"set {place} within it{ending}"
            yield FieldError(field=place, value=value, expected=str(allowed), fix=fix)
