"""Rules of the `pirl` section: variants and knobs that only make sense together.

Owns what one knob of the algorithm demands of another. Ranges are at the fields (`pirl.config.recipe`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pirl.config.kinds import facts_of_policy
from pirl.config.recipe import PRECISIONS, VARIANTS
from pirl.config.rules_policy import denoising_field
from pirl.config.spelling import variant_error
from pirl.config.view import ABSENT, WRONG, View
from pirl.errors import FieldError

_READ_AS_IT_IS = (
    ("dataset.streaming", False, "batches are drawn from the whole data set by number"),
    ("dataset.image_transforms.enable", False, "pictures are what the policy sees when it acts"),
    ("dataset.eval_split", 0.0, "held-out episodes are those of the environment"),
)
_SECTION = {"flow-sde": "flow_sde", "flow-noise": "flow_noise"}


def check_variant(view: View) -> Iterator[FieldError]:
    """The variant is named, its section is there, and the other's is not."""
    variant = view.get("pirl.variant")
    if variant is WRONG:
        return
    error = variant_error(None if variant is ABSENT else variant)
    if error is not None:
        yield error
        return
    own = f"pirl.{_SECTION[variant]}"
    (other,) = set(VARIANTS) - {variant}
    foreign = f"pirl.{_SECTION[other]}"
    has_own, has_foreign = (
        view.section(name) is not None or view.get(name) is WRONG for name in (own, foreign)
    )
    add = "" if has_own else f" and add {own}={{}}, which takes the published defaults"
    if has_foreign:
        yield FieldError(
            field=foreign,
            value=dict(view.section(foreign) or {}),
            expected=f"absent: it belongs to {other}, and pirl.variant is {variant}",
            fix=f"remove {foreign}{add}; or set pirl.variant={other}",
        )
    elif not has_own:
        yield FieldError(
            field=own,
            value=None,
            expected=f"the settings of {variant}; an empty object takes the published defaults",
            fix=f"add {own}={{}}",
        )


def check_step_sampling(view: View) -> Iterator[FieldError]:
    """`step_weights` exist exactly with `weights`, and fit the number of denoising steps."""
    law = view.text("pirl.flow_sde.step_sampling")
    steps_field = denoising_field(view)
    steps = view.integer(steps_field)
    weights = view.numbers("pirl.flow_sde.step_weights")
    name = "pirl.flow_sde.step_weights"
    if law is None:
        return
    if law == "weights" and view.is_null(name):
        yield FieldError(
            field=name,
            value=None,
            expected="one weight per denoising step with step_sampling=weights",
            fix=f"add {steps} weights, or set pirl.flow_sde.step_sampling=uniform",
        )
    if weights is not None and law != "weights":
        yield FieldError(
            field=name,
            value=weights,
            expected=f"null with step_sampling={law}",
            fix="remove it, or set pirl.flow_sde.step_sampling=weights",
        )
    if weights is not None and steps is not None and len(weights) != steps:
        yield FieldError(
            field=name,
            value=weights,
            expected=f"{steps} weights, as {steps_field}",
            fix=f"give {steps} weights",
        )
    if weights is not None and weights and min(weights) >= 0 and sum(weights) == 0:
        yield FieldError(
            field=name, value=weights, expected="a positive sum", fix="make one weight positive"
        )
    if law == "exclude_last" and steps == 1:
        yield FieldError(
            field="pirl.flow_sde.step_sampling",
            value=law,
            expected=f"a law that leaves a step: {steps_field} is 1",
            fix=f"set pirl.flow_sde.step_sampling=uniform, or raise {steps_field}",
        )


def check_last_step(view: View) -> Iterator[FieldError]:
    """Flow-CPS adds no noise at the last step, so that step needs the additive rule (section 3.10)."""
    if view.text("pirl.flow_sde.noise_method") != "flow_cps":
        return
    leaves_last_out = view.text("pirl.flow_sde.step_sampling") == "exclude_last"
    one = view.text("pirl.flow_sde.stochastic_steps") == "one"
    if view.text("pirl.last_step_rule") == "sde" and not (leaves_last_out and one):
        yield FieldError(
            field="pirl.last_step_rule",
            value="sde",
            expected="additive: with noise_method=flow_cps the last step has no density of its own",
            fix="set pirl.last_step_rule=additive, or pirl.flow_sde.step_sampling=exclude_last",
        )


def check_batches(view: View) -> Iterator[FieldError]:
    """The micro-batch divides the global batch."""
    micro, whole = view.integer("pirl.micro_batch"), view.integer("pirl.global_batch")
    if micro is not None and whole is not None and micro > 0 and whole > 0 and whole % micro:
        yield FieldError(
            field="pirl.micro_batch",
            value=micro,
            expected=f"a divisor of pirl.global_batch ({whole})",
            fix=f"set pirl.micro_batch={_divisor_below(whole, micro)}",
        )


def check_learning_rate(view: View) -> Iterator[FieldError]:
    """The KL-adaptive rate has its set point, and its cap exists only with it."""
    schedule = view.text("pirl.lr_schedule")
    cap, rate = view.number("pirl.actor_lr_max"), view.number("pirl.actor_lr")
    if schedule == "kl_adaptive" and view.is_null("pirl.target_kl"):
        yield FieldError(
            field="pirl.target_kl",
            value=None,
            expected="a KL in nats: lr_schedule=kl_adaptive steers towards it",
            fix="set pirl.target_kl=0.03, or pirl.lr_schedule=constant",
        )
    if schedule not in (None, "kl_adaptive") and cap is not None:
        yield FieldError(
            field="pirl.actor_lr_max",
            value=cap,
            expected=f"null with lr_schedule={schedule}",
            fix="remove it, or set pirl.lr_schedule=kl_adaptive",
        )
    if cap is not None and rate is not None and cap < rate:
        yield FieldError(
            field="pirl.actor_lr_max",
            value=cap,
            expected=f"at least pirl.actor_lr ({rate})",
            fix=f"set pirl.actor_lr_max={rate} or more",
        )


def check_intervals(view: View) -> Iterator[FieldError]:
    """Pairs that are a lower and an upper bound."""
    for name in ("pirl.flow_noise.noise_std_range", "pirl.reward_filter"):
        pair = view.numbers(name)
        if pair is not None and len(pair) == 2 and not pair[0] < pair[1]:
            yield FieldError(
                field=name,
                value=pair,
                expected="the lower bound first, and below the upper one",
                fix=f"set {name} to two increasing numbers",
            )
    for name in ("pirl.value_hidden", "pirl.flow_noise.noise_head_hidden"):
        widths = view.integers(name)
        if widths is not None and not 1 <= len(widths) <= 8:
            yield FieldError(
                field=name,
                value=widths,
                expected="one to eight layer widths",
                fix=f"set {name}=[128,64]",
            )


def check_advantage(view: View) -> Iterator[FieldError]:
    """GRPO compares episodes of a group and has no critic (`algorithm.md` 11)."""
    if view.text("pirl.adv_type") != "grpo":
        return
    size = view.integer("pirl.group_size")
    if size == 1:
        yield FieldError(
            field="pirl.group_size",
            value=size,
            expected="at least 2 with adv_type=grpo: an episode is compared with its group",
            fix="set pirl.group_size=8",
        )
    for name in ("pirl.critic_warmup_steps", "pirl.value_epochs"):
        steps = view.integer(name)
        if steps is not None and steps > 0:
            yield FieldError(
                field=name,
                value=steps,
                expected="0 with adv_type=grpo, which has no critic",
                fix=f"set {name}=0, or pirl.adv_type=gae",
            )


def check_demonstrations(view: View) -> Iterator[FieldError]:
    """The demonstration term has a local data set, which is read whole and as it is."""
    weight, schedule = view.number("pirl.bc_weight"), view.text("pirl.bc_schedule")
    if weight == 0 and schedule == "linear":
        yield FieldError(
            field="pirl.bc_schedule",
            value=schedule,
            expected="constant with pirl.bc_weight=0: there is no term whose weight could fall",
            fix="remove it, or set pirl.bc_weight=0.1",
        )
    if weight is None or weight <= 0:
        return
    if view.is_null("dataset"):
        yield FieldError(
            field="pirl.bc_weight",
            value=weight,
            expected="0 without a data set of demonstrations",
            fix="set dataset.repo_id=local/demos and dataset.root to the folder of a LeRobotDataset"
            " (`pirl bench demos` makes one), or pirl.bc_weight=0",
        )
    for name, allowed, why in _READ_AS_IT_IS:
        value = view.get(name)
        if value not in (allowed, ABSENT, WRONG):
            yield FieldError(
                field=name,
                value=value,
                expected=f"{json.dumps(allowed)} with pirl.bc_weight > 0: {why}",
                fix=f"remove {name}, or set pirl.bc_weight=0",
            )


def check_modes(view: View) -> Iterator[FieldError]:
    """The policy's adapter has the precision, and there is a frozen part to keep in bfloat16."""
    mode, facts = view.text("pirl.precision"), facts_of_policy(view)
    if mode not in PRECISIONS or facts is None:
        return
    if mode not in facts.precisions:
        yield FieldError(
            field="pirl.precision",
            value=mode,
            expected=f"{' or '.join(facts.precisions)} with policy.type={view.text('policy.type')}",
            fix=f"set pirl.precision={facts.precisions[0]}",
        )
    elif mode == "bf16-frozen" and view.text("pirl.train_scope") == "all":
        yield FieldError(
            field="pirl.precision",
            value=mode,
            expected="fp32 or tf32 with pirl.train_scope=all, which freezes nothing",
            fix="set pirl.precision=fp32, or pirl.train_scope=transformer",
        )


PIRL_RULES = (
    check_variant,
    check_step_sampling,
    check_last_step,
    check_batches,
    check_learning_rate,
    check_intervals,
    check_advantage,
    check_demonstrations,
    check_modes,
)


def _divisor_below(whole: int, wanted: int) -> int:
    # At most sqrt(whole) steps, so that an absurd batch size cannot make the message slow.
    best, candidate = 1, 1
    while candidate * candidate <= whole and candidate <= 65536:
        if whole % candidate == 0:
            for divisor in (candidate, whole // candidate):
                if best < divisor <= wanted:
                    best = divisor
        candidate += 1
    return best
