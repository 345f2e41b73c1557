"""Rules of the `policy` section that every policy keeps: which ones qualify, and what they declare.

Owns what of LeRobot's common policy fields the recipe can use. What a type's own fields must hold is its
kind's to say (`pirl.config.kinds`). Refuses to import a policy.
"""

from __future__ import annotations

from collections.abc import Iterator

from pirl import doors
from pirl.config.kinds import IMAGE_PREFIX, PolicyFacts, facts_of_policy
from pirl.config.recipe import RECIPE
from pirl.config.spelling import is_recipe_like, nearest
from pirl.config.view import ABSENT, WRONG, View
from pirl.errors import FieldError


def check_policy_type(view: View) -> Iterator[FieldError]:
    """The policy is there and has a contract adapter."""
    kind = view.get("policy.type")
    if view.get("policy") is WRONG or kind is WRONG or doors.is_installed(doors.POLICIES, kind):
        return
    allowed = doors.installed(doors.POLICIES)
    expected = (
        f"one of {', '.join(allowed)}: the policies with a contract adapter for recipe {RECIPE}"
    )
    if kind is ABSENT or not isinstance(kind, str):
        fix = f"set policy.path=lerobot/xvla-libero, or policy.type={allowed[0]}"
    elif is_recipe_like(kind):
        fix = (
            f"{RECIPE} is a recipe, not a policy type: keep recipe={RECIPE} and set "
            f"policy.type={allowed[0]}"
        )
    elif nearest(kind, allowed):
        fix = f"did you mean policy.type={nearest(kind, allowed)}?"
    else:
        fix = (
            f"set policy.type={allowed[0]}; to train a {kind} policy with SAC remove "
            "`recipe`, `pirl` and `runtime` and use LeRobot's own learner and actor"
        )
    yield FieldError(field="policy.type", value=kind, expected=expected, fix=fix)


def check_chunk(view: View) -> Iterator[FieldError]:
    """The executed rows are predicted ones, and a decision sees one observation."""
    chunk = view.integer("policy.chunk_size")
    executed = view.integer("policy.n_action_steps")
    if chunk is not None and executed is not None and executed > chunk:
        yield FieldError(
            field="policy.n_action_steps",
            value=executed,
            expected=f"at most policy.chunk_size ({chunk}): only predicted rows can be executed",
            fix=f"set policy.n_action_steps={chunk} or less",
        )
    if view.integer("policy.n_obs_steps") not in (None, 1):
        yield FieldError(
            field="policy.n_obs_steps",
            value=view.integer("policy.n_obs_steps"),
            expected="1: a decision sees one observation",
            fix="set policy.n_obs_steps=1",
        )


def check_precision(view: View) -> Iterator[FieldError]:
    """bf16 error would drown the density of the last step (`algorithm.md` D10, I14)."""
    if view.flag("policy.use_amp"):
        yield FieldError(
            field="policy.use_amp",
            value=True,
            expected="false: log-probs need fp32 (algorithm.md D10)",
            fix="set policy.use_amp=false",
        )
    dtype = view.text("policy.dtype")
    if dtype not in (None, "float32"):
        yield FieldError(
            field="policy.dtype",
            value=dtype,
            expected="float32: half precision moves log-probs by more than the clip range"
            " (algorithm.md D10); weights of another dtype are cast when they are loaded",
            fix="set policy.dtype=float32",
        )


def check_features(view: View) -> Iterator[FieldError]:
    """The policy declares a camera and an action."""
    inputs = view.section("policy.input_features")
    outputs = view.section("policy.output_features")
    facts = facts_of_policy(view)
    if view.section("policy") is None or facts is None:
        return
    if view.get("policy.input_features") is not WRONG and not facts.seen(view):
        yield FieldError(
            field="policy.input_features",
            value=sorted(inputs or {}),
            expected=f"at least one camera, {IMAGE_PREFIX}NAME",
            fix='add {"observation.images.image": {"type": "VISUAL", "shape": [3, 224, 224]}}',
        )
    if view.get("policy.output_features") is not WRONG and "action" not in (outputs or {}):
        yield FieldError(
            field="policy.output_features",
            value=sorted(outputs or {}),
            expected="the feature `action`",
            fix='add {"action": {"type": "ACTION", "shape": [20]}}',
        )


def denoising_field(view: View) -> str:
    """The field that holds the policy's number of denoising steps."""
    facts = facts_of_policy(view)
    return PolicyFacts.denoising_field if facts is None else facts.denoising_field


def executed_dims_errors(dims: list[int], bound: int | None) -> Iterator[FieldError]:
    """What is wrong with `pirl.executed_dims` of a policy with `bound` real dims (None: not known)."""
    name = "pirl.executed_dims"
    if not dims:
        yield FieldError(
            field=name, value=dims, expected="null or at least one dim", fix=f"set {name}=null"
        )
    elif sorted(set(dims)) != dims:
        yield FieldError(
            field=name,
            value=dims,
            expected="each dim once, in increasing order",
            fix=f"set {name}={sorted(set(dims))}",
        )
    elif bound is not None and dims[-1] >= bound:
        yield FieldError(
            field=name,
            value=dims,
            expected=f"dims below {bound}: the action mode has {bound} real dims",
            fix=f"set {name}={[d for d in dims if d < bound] or None}",
        )


POLICY_RULES = (check_policy_type, check_chunk, check_precision, check_features)
"""Of every policy; those of its type come after them (`pirl.config.rules.rules_of`)."""
