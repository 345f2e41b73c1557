"""What a config must be, besides valid, for a gate to show anything with it.

Owns the settings without which a criterion could not pass, so that a gate says so before anything runs. Read
`pirl.gate.profiles` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pirl.config.sections import env_of
from pirl.envs import load_split
from pirl.errors import ConfigError, FieldError

if TYPE_CHECKING:
    from pirl.config.lerobot_fields import PiRLTrainConfig

MAX_STATES = 10_000
"""Of a task, training and held out: `split.json` lists every one."""


def require_fit(cfg: PiRLTrainConfig) -> None:
    """Refuse what no gate can pass with.

    Raises:
        ConfigError: all of it.
    """
    if wrong := list(_unfit(cfg)):
        raise ConfigError(wrong, source="gate")


def _unfit(cfg: PiRLTrainConfig) -> Iterator[FieldError]:
    pirl, runtime = cfg.pirl, cfg.runtime
    if pirl.train_scope != "transformer":
        why = "the gate shows that frozen tensors stay, and this scope freezes none"
        yield _wrong("pirl.train_scope", pirl.train_scope, "transformer", why)
    if pirl.precision != "fp32":
        why = "the gate compares with stock LeRobot, and its thresholds are of fp32"
        yield _wrong("pirl.precision", pirl.precision, "fp32", why)
    if runtime.mode != "sync":
        why = "the gate shows that a resumed run ends with the bits of one that went on"
        yield _wrong("runtime.mode", runtime.mode, "sync", why)
    saved = runtime.checkpoint_every_updates
    if runtime.total_updates <= saved:
        why = f"the learner is killed between its first checkpoint, of update {saved}, and its end"
        yield _wrong("runtime.total_updates", runtime.total_updates, saved + 1, why)
    if _states(cfg) > MAX_STATES:
        why = f"the evidence lists every initial state, at most {MAX_STATES} of a task"
        yield _wrong("runtime.split_file", runtime.split_file, "configs/split_embedded.json", why)
    if not env_of(cfg).task:
        yield _wrong("env.task", env_of(cfg).task, "TASK", "the records name the environment by it")


def _states(cfg: PiRLTrainConfig) -> int:
    """Initial states of the task that has most."""
    rules = load_split(env_of(cfg).type, split_file=cfg.runtime.split_file).rules.values()
    return max(len(rule.train) + len(rule.heldout) for rule in rules)


def _wrong(name: str, found: object, wanted: object, why: str) -> FieldError:
    return FieldError(
        field=name,
        value=found,
        expected=f"{wanted}: {why}",
        fix=f"run the gate with {name}={wanted} and train with the other",
    )
