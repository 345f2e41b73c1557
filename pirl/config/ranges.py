"""What each single knob may hold: one row for every number and every word of `pirl.config.recipe`.

Owns the tables; a test refuses a knob without a row. Refuses rules that need two fields: those
are in `pirl.config.rules_pirl`, `rules_policy`, `rules_env` and `rules_runtime`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pirl.config.recipe import ParallelismConfig, PiRLConfig, RuntimeConfig
from pirl.config.spelling import nearest
from pirl.config.view import ABSENT, View
from pirl.errors import FieldError

MAX_COUNT = 2**31 - 1
"""Counts travel as int32 somewhere."""


@dataclass(frozen=True, slots=True)
class Range:
    """An interval; `low_open` and `high_open` leave its ends out."""

    low: float
    high: float = math.inf
    unit: str = ""
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies inside and is finite."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        low = f"{self.low:g} {'<' if self.low_open else '<='} value"
        high = "" if self.high == math.inf else f" {'<' if self.high_open else '<='} {self.high:g}"
        return low + high + (f" ({self.unit})" if self.unit else "")


_POSITIVE = Range(0, low_open=True)
_AT_LEAST_ZERO = Range(0)
_COUNT = Range(1, MAX_COUNT)
_COUNT_OR_ZERO = Range(0, MAX_COUNT)
_RATE = Range(0, 1, "learning rate", low_open=True)
_SECONDS = Range(0, 7 * 24 * 3600, "seconds", low_open=True)
_STD = Range(0, 100, "action units", low_open=True)
_WIDTH = Range(1, 65536, "units of a layer")

RANGES: dict[str, Range] = {
    "pirl.flow_sde.noise_level": Range(0, 10, "a of the paper; 0.5 there", low_open=True),
    "pirl.flow_sde.step_weights": _AT_LEAST_ZERO,
    "pirl.flow_noise.noise_std_range": Range(0, 10, "flow units", low_open=True),
    "pirl.flow_noise.noise_head_hidden": _WIDTH,
    "pirl.flow_noise.noise_lr": _RATE,
    "pirl.last_step_std.xyz": _STD,
    "pirl.last_step_std.rot6d": _STD,
    "pirl.last_step_std.joint": _STD,
    "pirl.last_step_std.gripper_logit": _STD,
    "pirl.last_step_std.other": _STD,
    "pirl.executed_dims": Range(0, 4096, "index of a model action dim"),
    "pirl.gamma": Range(0, 1, "discount per chunk", low_open=True),
    "pirl.gae_lambda": Range(0, 1),
    "pirl.adv_std_floor": Range(0, unit="reward; 0 is off"),
    "pirl.group_size": _COUNT,
    "pirl.reward_filter": Range(0, 1, "mean reward of a group"),
    "pirl.clip_low": Range(0, 1, low_open=True, high_open=True),
    "pirl.clip_high": Range(0, 10, low_open=True),
    "pirl.clip_dual": Range(1, 1000, low_open=True),
    "pirl.log_ratio_clamp": Range(0, 80, "nats; exp of more overflows fp32", low_open=True),
    "pirl.value_clip": _POSITIVE,
    "pirl.huber_delta": _POSITIVE,
    "pirl.value_coef": _AT_LEAST_ZERO,
    "pirl.entropy_bonus": _AT_LEAST_ZERO,
    "pirl.kl_beta": _AT_LEAST_ZERO,
    "pirl.target_kl": Range(0, 100, "nats", low_open=True),
    "pirl.bc_weight": _AT_LEAST_ZERO,
    "pirl.actor_lr": _RATE,
    "pirl.actor_lr_max": _RATE,
    "pirl.value_lr": _RATE,
    "pirl.betas": Range(0, 1, high_open=True),
    "pirl.eps": Range(0, 1, low_open=True),
    "pirl.weight_decay": Range(0, 1, high_open=True),
    "pirl.grad_clip": _POSITIVE,
    "pirl.critic_warmup_steps": _COUNT_OR_ZERO,
    "pirl.update_epochs": Range(1, 1000),
    "pirl.global_batch": _COUNT,
    "pirl.micro_batch": _COUNT,
    "pirl.recompute_activations": Range(0, MAX_COUNT, "predictions; 0 is off"),
    "pirl.value_hidden": _WIDTH,
    "pirl.value_epochs": Range(0, 1000),
    "pirl.value_buffer_updates": Range(1, 1000),
    "pirl.staleness_threshold": Range(0, 1000, "versions"),
    "pirl.behave_weight_threshold": Range(1, 1000, "truncation of the behaviour weight"),
    "parallelism.dp_replicate": Range(1, 4096, "learner processes"),
    "parallelism.dp_shard": Range(1, 4096),
    "runtime.port": Range(0, 65535, "0 lets `pirl launch` pick one"),
    "runtime.actors": Range(1, 1024),
    "runtime.envs_per_actor": Range(1, 1024),
    "runtime.env_workers": Range(1, 256),
    "runtime.rollout_chunks": _COUNT,
    "runtime.total_updates": _COUNT,
    "runtime.checkpoint_every_updates": _COUNT_OR_ZERO,
    "runtime.keep_checkpoints": Range(0, MAX_COUNT, "checkpoints; 0 keeps all"),
    "runtime.keep_checkpoints_every": Range(0, MAX_COUNT, "updates; 0 is off"),
    "runtime.video_every": Range(0, MAX_COUNT, "updates; 0 is off"),
    "runtime.torch_threads": Range(1, 1024),
    "runtime.connect_timeout_s": _SECONDS,
    "runtime.reconnect_s": Range(0, 7 * 24 * 3600, "seconds; 0 ends at once"),
    "runtime.rollout_timeout_s": _SECONDS,
    "runtime.replacement_timeout_s": _SECONDS,
    "runtime.version_timeout_s": _SECONDS,
    "runtime.replica_timeout_s": _SECONDS,
    "runtime.heartbeat_s": _SECONDS,
    "runtime.actor_timeout_s": _SECONDS,
    "runtime.parity_tol": Range(0, 10, "nats", low_open=True),
    "runtime.ratio_tol": Range(0, 10, low_open=True),
}

CHOICES: dict[str, tuple[str, ...]] = {
    "pirl.flow_sde.noise_method": ("flow_sde", "flow_cps"),
    "pirl.flow_sde.w_rule": ("sde", "vp"),
    "pirl.flow_sde.stochastic_steps": ("one", "all"),
    "pirl.flow_sde.step_sampling": ("uniform", "exclude_last", "weights"),
    "pirl.flow_noise.joint_reduction": ("mean", "sum"),
    "pirl.base_sampler": ("native", "euler"),
    "pirl.last_step_rule": ("additive", "sde"),
    "pirl.gripper_mode": ("last_step", "bernoulli", "none"),
    "pirl.mask_unexecuted_rows": ("auto", "never", "always"),
    "pirl.logprob_level": ("chunk", "action", "token"),
    "pirl.adv_type": ("gae", "grpo"),
    "pirl.loss_weighting": ("trajectory", "chunk"),
    "pirl.lr_schedule": ("constant", "cosine", "kl_adaptive"),
    "pirl.value_last_init": ("zero", "normal"),
    "pirl.value_source": ("vlm", "vlm_tokens", "action_tokens"),
    "pirl.train_scope": ("transformer", "all"),
    "pirl.precision": ("fp32", "tf32", "bf16-frozen"),
    "runtime.mode": ("sync", "async"),
    "runtime.config_identity": ("path+hash", "hash"),
    "runtime.split": ("train", "heldout", "all"),
    "runtime.trackers": ("tensorboard", "mlflow"),
}

FREE_TEXT = frozenset(
    {
        "pirl.variant",
        "runtime.host",
        "runtime.token",
        "runtime.token_file",
        "runtime.tls_cert",
        "runtime.tls_key",
        "runtime.tls_ca",
        "runtime.learner_device",
        "runtime.actor_device",
        "runtime.split_file",
    }
)
"""Text knobs without a fixed list; each has a rule of its own where it needs one."""

PATHS = tuple(
    f"runtime.{name}" for name in ("token_file", "tls_cert", "tls_key", "tls_ca", "split_file")
)


def check_ranges(view: View) -> Iterator[FieldError]:
    """Every number outside its range and every word that is not one of its choices."""
    for name, allowed in RANGES.items():
        number = view.number(name)
        items = view.numbers(name)
        if number is not None and not allowed.holds(number):
            yield _outside(name, number, allowed)
        if items is not None:
            for index, item in enumerate(items):
                if not allowed.holds(item):
                    yield _outside(f"{name}.{index}", item, allowed)
    for name, words in CHOICES.items():
        for word in [view.text(name), *(view.items(name) or [])]:
            if isinstance(word, str) and word not in words:
                hint = nearest(word, words)
                yield FieldError(
                    field=name,
                    value=word,
                    expected="one of " + ", ".join(words),
                    fix=f"did you mean {hint!r}?" if hint else f"set {name} to one of them",
                )
    for name in PATHS:
        # An unset variable of a shell: without this a learner would serve in plain text, or take any split.
        if view.text(name) == "":
            yield FieldError(
                field=name,
                value="",
                expected="a path, or null for none",
                fix=f"set {name}, or leave it out; a variable that was to fill it may be unset",
            )


def _outside(name: str, value: float, allowed: Range) -> FieldError:
    default = default_of(name)
    told = "" if default in (ABSENT, None) else f"; the default is {default}"
    return FieldError(
        field=name, value=value, expected=str(allowed), fix=f"set {name} within it{told}"
    )


def default_of(name: str) -> object:
    """The default of a knob at the first level of one of pirl's sections, else `ABSENT`."""
    section, _, leaf = name.partition(".")
    holders = {"pirl": PiRLConfig, "runtime": RuntimeConfig, "parallelism": ParallelismConfig}
    return getattr(holders[section](), leaf, ABSENT)
