"""Every rule of a piRL config, over plain JSON values: `check_rules`.

Owns the order of the rules and what counts as one error. Refuses to know types
(`pirl.config.schema`) and files. Read `pirl.config.rules_pirl`, then its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pirl import doors
from pirl.config.kinds import Rule, facts_of_env, facts_of_policy, facts_of_reward
from pirl.config.recipe import RECIPE, ParallelismConfig, PiRLConfig, RuntimeConfig
from pirl.config.rules_env import CAMERA_RULES, ENV_RULES
from pirl.config.rules_fields import check_ranges
from pirl.config.rules_pirl import PIRL_RULES
from pirl.config.rules_policy import POLICY_RULES
from pirl.config.rules_runtime import RUNTIME_RULES
from pirl.config.spelling import nearest, recipe_error
from pirl.config.view import ABSENT, WRONG, View
from pirl.errors import FieldError


def check_reward(view: View) -> Iterable[FieldError]:
    """The reward is the environment's own success, or one that is installed."""
    section, name = view.get("reward_model"), view.get("reward_model.type")
    if section in (None, ABSENT, WRONG) or doors.is_installed(doors.REWARDS, name):
        return
    known = doors.installed(doors.REWARDS)
    hint = nearest(name, known) if isinstance(name, str) else None
    yield FieldError(
        field="reward_model.type",
        value=name,
        expected=f"one of {', '.join(known)}; no reward_model is the environment's own success",
        fix=f"did you mean reward_model.type={hint}?" if hint else "remove reward_model",
    )


def rules_of(view: View) -> tuple[Rule, ...]:
    """Every rule of a config; those of its policy's and its environment's type are theirs to say."""
    policy, env, reward = facts_of_policy(view), facts_of_env(view), facts_of_reward(view)
    return (
        check_ranges,
        *PIRL_RULES,
        *POLICY_RULES,
        *(() if policy is None else policy.rules),
        *ENV_RULES,
        *(() if env is None else env.rules),
        *CAMERA_RULES,
        *RUNTIME_RULES,
        check_reward,
        *(() if reward is None else reward.rules),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOutcome:
    """One rule, in words, and the errors it found."""

    rule: str
    meaning: str
    errors: tuple[FieldError, ...]


def check_rules(tree: Mapping[str, Any]) -> list[FieldError]:
    """Every rule that `tree` breaks, one error per field.

    Args:
        tree: the config as JSON values with defaults filled in; `WRONG` marks values already
        refused.
    """
    view = View(tree)
    recipe = view.get("recipe")
    if recipe is ABSENT or recipe is None:
        return list(_without_recipe(view))
    errors: list[FieldError] = []
    misspelt = None if recipe is WRONG else recipe_error(recipe)
    if misspelt is not None:
        errors.append(misspelt)
    outside = list(check_ranges(view))
    # What no rule could hold with is told once.
    judged = View(_without(tree, [error.field for error in outside]))
    errors += outside
    for rule in rules_of(judged)[1:]:
        errors.extend(rule(judged))
    return one_per_field(errors)


def _without(tree: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """`tree` with `WRONG` at the dotted `names`; in a list it stands for the whole."""
    changed = dict(tree)
    for name in names:
        *sections, leaf = name.split(".")
        node = changed
        for section in sections:
            if not isinstance(node[section], Mapping):
                leaf = section
                break
            node[section] = dict(node[section])
            node = node[section]
        node[leaf] = WRONG
    return changed


def rule_outcomes(tree: Mapping[str, Any]) -> list[RuleOutcome]:
    """Every rule and what it says of `tree`: the validation report of an audit."""
    view = View(tree)
    return [
        RuleOutcome(
            rule=getattr(rule, "__name__", str(rule)),
            meaning=(rule.__doc__ or "").strip().splitlines()[0],
            errors=tuple(rule(view)),
        )
        for rule in rules_of(view)
    ]


def one_per_field(errors: Iterable[FieldError]) -> list[FieldError]:
    """The first error of each field, in order."""
    found: dict[str, FieldError] = {}
    for error in errors:
        found.setdefault(error.field, error)
    return list(found.values())


def _without_recipe(view: View) -> Iterable[FieldError]:
    # A run whose author forgot the recipe must not become a SAC run.
    sections = (
        ("pirl", PiRLConfig()),
        ("runtime", RuntimeConfig()),
        ("parallelism", ParallelismConfig()),
    )
    for name, defaults in sections:
        plain = json.loads(json.dumps(asdict(defaults)))
        changed = {k: v for k, v in (view.section(name) or {}).items() if v != plain.get(k, v)}
        if changed:
            yield FieldError(
                field="recipe",
                value=None,
                expected=f"{RECIPE!r}, because {name}.{next(iter(changed))} is set",
                fix=f"add recipe={RECIPE}, or remove `{name}` for LeRobot's own SAC path",
            )
            return
