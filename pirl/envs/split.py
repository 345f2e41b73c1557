"""Which initial states training may see and which are held out for evaluation.

Owns the split, its file format, its digest and the refusal of a state outside it. Refuses to know
simulators. Read `pirl.envs.schedule` next.

LIBERO ships 50 initial states per task: 0-39 train, 40-49 held out. On MetaWorld the seed is the
initial state, so the split is three disjoint ranges of seeds (demonstrations, training, held out).

File format (`runtime.split_file`), with inclusive ranges or lists and `*` for every other task:

    {"tasks": {"*": {"train": "0-39", "heldout": "40-49"},
               "libero_10/3": {"train": [0, 2, 4], "heldout": "40-49"}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl.config.strictjson import read_json
from pirl.envs.kinds import env_kind
from pirl.errors import ConfigError, FieldError
from pirl.resources import locate

if TYPE_CHECKING:
    from pirl.episodes import EpisodePlan

MODES = ("train", "heldout", "all")
DEMO_SEEDS = range(0, 2**20)
"""Seeds of demonstrations where a seed is the initial state; no split mode contains them."""
TRAIN_SEEDS = range(2**20, 2**30)
HELDOUT_SEEDS = range(2**30, 2**30 + 2**20)
_ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRule:
    """The states of one task; both sets are sorted, not empty and disjoint."""

    train: Sequence[int]
    heldout: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSplit:
    """A split of initial states and the part of it that is in use."""

    mode: str
    """`train`, `heldout` or `all`."""
    rules: Mapping[str, StateRule]
    """By task name; `*` covers every task without its own rule."""
    states_are_seeds: bool
    """True on MetaWorld: an initial state is a simulator seed."""

    @property
    def label(self) -> str:
        """How records and reports name the mode."""
        return "all (peer-comparable, overlaps training)" if self.mode == "all" else self.mode

    def rule(self, task: str) -> StateRule:
        """The rule of a task."""
        return self.rules.get(task, self.rules[_ANY])

    def is_allowed(self, task: str, state: int) -> bool:
        """Whether the mode in use contains the state."""
        rule = self.rule(task)
        return (self.mode != "heldout" and state in rule.train) or (
            self.mode != "train" and state in rule.heldout
        )

    def count(self, task: str) -> int:
        """How many states the mode in use has for a task."""
        rule = self.rule(task)
        train = len(rule.train) if self.mode != "heldout" else 0
        return train + (len(rule.heldout) if self.mode != "train" else 0)

    def state(self, task: str, position: int) -> int:
        """The state at `position` (0 <= position < count), training states first."""
        rule = self.rule(task)
        if self.mode == "heldout":
            return rule.heldout[position]
        if position < len(rule.train):
            return rule.train[position]
        return rule.heldout[position - len(rule.train)]


def load_split(env_type: str, *, mode: str = "train", split_file: str | None = None) -> StateSplit:
    """The split of an environment type, built in or from a file.

    Raises:
        ConfigError: unknown mode, or every problem of the file.
    """
    if mode not in MODES:
        raise ConfigError(
            [_wrong("runtime.split", mode, f"one of {', '.join(MODES)}", "correct it")]
        )
    kind = env_kind(env_type)
    rules = (
        kind.split() if split_file is None else read_rules(locate(split_file), states=kind.states)
    )
    return StateSplit(mode=mode, rules=rules, states_are_seeds=kind.states is None)


def read_rules(path: Path, *, states: int | None) -> dict[str, StateRule]:
    """Parse and check a split file.

    Args:
        states: initial states of a task; None where seeds are the states.

    Raises:
        ConfigError: all problems of the file.
    """
    try:
        content: Any = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [_wrong("runtime.split_file", str(path), "a readable JSON file", str(error))]
        ) from error
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, dict) or _ANY not in tasks:
        raise ConfigError(
            [_wrong("tasks", tasks, "an object of tasks with a '*' entry", "add it")],
            source=path.name,
        )
    problems: list[FieldError] = []
    limit = HELDOUT_SEEDS.stop if states is None else states
    rules = {str(task): _rule(str(task), entry, limit, problems) for task, entry in tasks.items()}
    if problems:
        raise ConfigError(problems, source=path.name)
    return rules


def split_digest(split: StateSplit) -> str:
    """SHA-256 of the rules; equal for the train and the held-out side of one split."""
    rules = {
        task: {"train": _compact(rule.train), "heldout": _compact(rule.heldout)}
        for task, rule in split.rules.items()
    }
    text = json.dumps({"seeds": split.states_are_seeds, "tasks": rules}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def assert_allowed(plan: EpisodePlan, *, split: StateSplit, task: str) -> None:
    """Refuse a plan whose initial state lies outside the split's mode.

    Raises:
        ConfigError: with the state, the allowed set and the remedy.
    """
    if split.states_are_seeds and plan.seed != plan.init_state_id:
        raise ConfigError(
            [
                _wrong(
                    "plan.seed",
                    plan.seed,
                    f"{plan.init_state_id}, the initial state of the plan",
                    "on MetaWorld the seed is the initial state; plan with pirl.envs.schedule",
                )
            ]
        )
    if not split.is_allowed(task, plan.init_state_id):
        rule = split.rule(task)
        held = plan.init_state_id in rule.heldout
        raise ConfigError(
            [
                _wrong(
                    "plan.init_state_id",
                    plan.init_state_id,
                    f"a state of split {split.mode!r} of {task}: train {_compact(rule.train)},"
                    f" held out {_compact(rule.heldout)}",
                    "held-out states are for evaluation only; set runtime.split=heldout to evaluate"
                    if held
                    else "use a state of the split in force, or give another runtime.split_file",
                )
            ]
        )


def _wrong(name: str, value: object, expected: str, fix: str) -> FieldError:
    return FieldError(field=name, value=value, expected=expected, fix=fix)


def _compact(states: Sequence[int]) -> str:
    if len(states) > 1 and states[-1] - states[0] == len(states) - 1:
        return f"{states[0]}-{states[-1]}"
    return ",".join(str(state) for state in states)


def _rule(task: str, entry: Any, limit: int, problems: list[FieldError]) -> StateRule:
    if not isinstance(entry, dict) or set(entry) != {"train", "heldout"}:
        problems.append(_wrong(f"tasks.{task}", entry, "train and heldout, nothing else", "fix it"))
        return StateRule(train=(), heldout=())
    train = _states(f"tasks.{task}.train", entry["train"], limit, problems)
    heldout = _states(f"tasks.{task}.heldout", entry["heldout"], limit, problems)
    small, large = sorted((train, heldout), key=len)
    shared = next((state for state in small if state in large), None)
    if shared is not None:
        problems.append(
            _wrong(f"tasks.{task}", shared, "no state in both sets", "remove it from one of them")
        )
    return StateRule(train=train, heldout=heldout)


def _states(name: str, value: Any, limit: int, problems: list[FieldError]) -> Sequence[int]:
    states: Sequence[int] = ()
    if (
        isinstance(value, str)
        and len(ends := value.split("-")) == 2
        and all(map(str.isdigit, ends))
    ):
        states = range(int(ends[0]), int(ends[1]) + 1)
    elif isinstance(value, list) and all(type(item) is int for item in value):
        states = tuple(sorted(set(value)))
    if not states or states[0] < 0 or states[-1] >= limit:
        problems.append(
            _wrong(name, value, f"'first-last' or a list of integers, 0 to {limit - 1}", "fix it")
        )
        return ()
    return states
