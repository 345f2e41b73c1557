"""The canonical spellings of recipe and variant, and how a near miss is recognised.

Owns the comparison of words; torch-free and LeRobot-free. Read `pirl.config.rules` next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from pirl.config.recipe import RECIPE, VARIANTS
from pirl.errors import FieldError


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    by_shape = {_shape(name): name for name in known}
    if _shape(word) in by_shape:
        return by_shape[_shape(word)]
    near = get_close_matches(_shape(word), list(by_shape), n=1, cutoff=0.6)
    return by_shape[near[0]] if near else None


def is_recipe_like(word: str) -> bool:
    """Whether `word` is the recipe or a near miss of it (`pi_rl`, `PI-RL`, `pirl`, with a Greek
    pi).
    """
    return nearest(word, (RECIPE,)) is not None


def recipe_error(value: object) -> FieldError | None:
    """What is wrong with a `recipe`; null and `pi-rl` are right."""
    if value is None or value == RECIPE:
        return None
    fix = f"remove `recipe` for LeRobot's own SAC path, or write recipe={RECIPE}"
    if isinstance(value, str) and is_recipe_like(value):
        fix = f"the canonical spelling is {RECIPE}: write recipe={RECIPE}"
    return FieldError(
        field="recipe", value=value, expected=f"exactly {RECIPE!r}, or absent", fix=fix
    )


def variant_error(value: object) -> FieldError | None:
    """What is wrong with `pirl.variant`, which the recipe requires."""
    if isinstance(value, str) and value in VARIANTS:
        return None
    fix = "choose one: pirl.variant=flow-sde (few denoising steps, no extra network) or flow-noise"
    if isinstance(value, str):
        guess = nearest(value, (*VARIANTS, "sde", "noise"))
        canonical = {"sde": VARIANTS[0], "noise": VARIANTS[1]}.get(guess or "", guess)
        if canonical is not None:
            fix = f"the canonical spelling is {canonical}: write pirl.variant={canonical}"
    return FieldError(
        field="pirl.variant",
        value=value,
        expected="one of " + ", ".join(VARIANTS) + "; there is no default",
        fix=fix,
    )


def one_of_error(field: str, value: str, known: tuple[str, ...]) -> FieldError:
    """What is wrong with a word that is none of `known`."""
    hint = nearest(value, known)
    return FieldError(
        field=field,
        value=value,
        expected="one of " + ", ".join(known),
        fix=f"did you mean {hint!r}?" if hint else f"set {field} to one of them",
    )


def _shape(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower().replace("\N{GREEK SMALL LETTER PI}", "pi"))
