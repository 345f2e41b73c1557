"""Rules of the `policy` section under the recipe: which policies qualify, and the shapes they
declare.

Owns the facts of X-VLA's action modes that a config can be judged by before any network exists
(`algorithm.md` 2). Refuses to import a policy.
"""

from __future__ import annotations

from collections.abc import Iterator

from pirl.config.catalogue import ACTION_MODES
from pirl.config.recipe import QUALIFIED_POLICIES, RECIPE
from pirl.config.spelling import is_recipe_like, nearest
from pirl.config.view import ABSENT, WRONG, View
from pirl.config.views import EMPTY_CAMERA_PREFIX, counted_once
from pirl.errors import FieldError

IMAGE_PREFIX = "observation.images."


def check_policy_type(view: View) -> Iterator[FieldError]:
    """The policy is there and has a contract adapter."""
    kind = view.get("policy.type")
    allowed = ", ".join(QUALIFIED_POLICIES)
    expected = f"one of {allowed}: the policies with a contract adapter for recipe {RECIPE}"
    if view.get("policy") is WRONG or kind is WRONG or kind in QUALIFIED_POLICIES:
        return
    if kind is ABSENT or not isinstance(kind, str):
        fix = f"set policy.path=lerobot/xvla-libero, or policy.type={QUALIFIED_POLICIES[0]}"
    elif is_recipe_like(kind):
        fix = (
            f"{RECIPE} is a recipe, not a policy type: keep recipe={RECIPE} and set "
            f"policy.type={QUALIFIED_POLICIES[0]}"
        )
    elif nearest(kind, QUALIFIED_POLICIES):
        fix = f"did you mean policy.type={nearest(kind, QUALIFIED_POLICIES)}?"
    else:
        fix = (
            f"set policy.type={QUALIFIED_POLICIES[0]}; to train a {kind} policy with SAC remove "
            "`recipe`, `pirl` and `runtime` and use LeRobot's own learner and actor"
        )
    yield FieldError(field="policy.type", value=kind, expected=expected, fix=fix)


def check_chunk(view: View) -> Iterator[FieldError]:
    """Chunk sizes and denoising steps are positive and fit each other."""
    chunk = view.integer("policy.chunk_size")
    executed = view.integer("policy.n_action_steps")
    for name, high in (
        ("policy.chunk_size", 512),
        ("policy.n_action_steps", 512),
        ("policy.num_denoising_steps", 100),
    ):
        value = view.integer(name)
        if value is not None and not 1 <= value <= high:
            yield FieldError(
                field=name,
                value=value,
                expected=f"1 <= value <= {high}",
                fix=f"set {name} within it",
            )
    if chunk is not None and executed is not None and executed > chunk >= 1:
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


def check_views(view: View) -> Iterator[FieldError]:
    """The network has as many views as the config says."""
    inputs = view.section("policy.input_features") or {}
    empty, declared = view.integer("policy.empty_cameras"), view.integer("policy.num_image_views")
    if empty is None or declared is None or declared < 1:
        return
    visual = [n for n, f in inputs.items() if isinstance(f, dict) and f.get("type") == "VISUAL"]
    needed = len(list(counted_once(visual, empty))) + max(empty, 0)
    if declared < needed:
        yield FieldError(
            field="policy.num_image_views",
            value=declared,
            expected=f"{needed} or more: the visual policy.input_features and policy.empty_cameras"
            f" = {empty} are that many views",
            fix=f"set policy.num_image_views={needed} if the policy was trained with them, or fewer"
            " policy.empty_cameras",
        )


def check_normalization(view: View) -> Iterator[FieldError]:
    """Nothing is normalised by dataset statistics: pirl works in pixels and physical units."""
    mapping = view.section("policy.normalization_mapping") or {}
    for kind in ("VISUAL", "STATE", "ACTION"):
        if mapping.get(kind, "IDENTITY") not in ("IDENTITY", WRONG):
            yield FieldError(
                field=f"policy.normalization_mapping.{kind}",
                value=mapping[kind],
                expected="IDENTITY: pirl gives images ImageNet's mean and std itself, and samples and"
                " stores states and actions in physical units",
                fix="use a checkpoint that was trained without dataset statistics (X-VLA's default)",
            )


def check_action_dims(view: View) -> Iterator[FieldError]:
    """`executed_dims` are sorted, unique and real dims of a known action mode."""
    name = view.text("policy.action_mode")
    if name is None:
        return
    mode = ACTION_MODES.get(name)
    if mode is None:
        hint = nearest(name, ACTION_MODES)
        yield FieldError(
            field="policy.action_mode",
            value=name,
            expected="one of " + ", ".join(ACTION_MODES),
            fix=f"did you mean {hint!r}?" if hint else "set policy.action_mode to one of them",
        )
        return
    dims = view.integers("pirl.executed_dims")
    real = mode.real if mode.real is not None else action_width(view)
    width = mode.width if mode.width is not None else view.integer("policy.max_action_dim")
    bound = min((n for n in (real, width) if n is not None), default=None)
    if dims is not None:
        yield from _executed_dims(dims, bound)
    if view.text("pirl.gripper_mode") == "bernoulli" and not mode.has_gripper_logit:
        yield FieldError(
            field="pirl.gripper_mode",
            value="bernoulli",
            expected=f"last_step or none: action mode {name} has no gripper logit",
            fix="set pirl.gripper_mode=last_step",
        )


def check_features(view: View) -> Iterator[FieldError]:
    """The policy declares a camera, its proprioception and an action."""
    inputs = view.section("policy.input_features")
    outputs = view.section("policy.output_features")
    if view.section("policy") is None or view.get("policy.type") not in QUALIFIED_POLICIES:
        return
    if view.get("policy.input_features") is not WRONG and not policy_cameras(view):
        yield FieldError(
            field="policy.input_features",
            value=sorted(inputs or {}),
            expected=f"at least one camera, {IMAGE_PREFIX}NAME",
            fix='add {"observation.images.image": {"type": "VISUAL", "shape": [3, 224, 224]}}',
        )
    if inputs and view.flag("policy.use_proprio") and "observation.state" not in inputs:
        yield FieldError(
            field="policy.input_features",
            value=sorted(inputs),
            expected="observation.state, because policy.use_proprio is true",
            fix='add {"observation.state": {"type": "STATE", "shape": [20]}}',
        )
    if view.get("policy.output_features") is not WRONG and "action" not in (outputs or {}):
        yield FieldError(
            field="policy.output_features",
            value=sorted(outputs or {}),
            expected="the feature `action`",
            fix='add {"action": {"type": "ACTION", "shape": [20]}}',
        )
    for part in ("vision_config", "text_config"):
        florence = view.section("policy.florence_config")
        if florence is not None and not isinstance(florence.get(part), dict):
            yield FieldError(
                field=f"policy.florence_config.{part}",
                value=florence.get(part),
                expected="the Florence-2 settings of the policy",
                fix="load the policy with policy.path, or copy a file of configs/",
            )


def action_width(view: View) -> int | None:
    """Width of the policy's `action` feature."""
    feature = (view.section("policy.output_features") or {}).get("action")
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int):
        return shape[0]
    return None


def policy_cameras(view: View) -> list[str]:
    """Cameras that the policy really looks at (X-VLA's padding views are left out)."""
    inputs = view.section("policy.input_features") or {}
    return [
        name
        for name in inputs
        if name.startswith(IMAGE_PREFIX) and not name.startswith(EMPTY_CAMERA_PREFIX)
    ]


def _executed_dims(dims: list[int], bound: int | None) -> Iterator[FieldError]:
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


POLICY_RULES = (
    check_policy_type,
    check_chunk,
    check_precision,
    check_views,
    check_normalization,
    check_action_dims,
    check_features,
)
