"""What a config can be judged by of a policy or an environment, before any network or simulator exists.

Owns the two abstract classes that the door's kinds begin with, and the words in which policy and environment
speak about each other: cameras and the space of actions. Needs neither torch nor LeRobot. Read `pirl.doors`
for how kinds are found, `pirl.contract.registry` and `pirl.envs.kinds` for the rest of what they answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from pirl import doors
from pirl.config import lerobot_fields
from pirl.config.view import View
from pirl.errors import FieldError

type Rule = Callable[[View], Iterable[FieldError]]
"""What a config must keep; the first line of its docstring is told to people."""

IMAGE_PREFIX = "observation.images."

_CONTROL_STEPS = 100
"""Of an episode whose environment declares no time limit; sizes of a first run follow from it."""


type Row = tuple[str, Any, str]
"""A field of a config section, its value, and a comment for whoever may want another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvTemplate:
    """What `pirl init` writes for an environment, and what the sizes of a run follow from."""

    env: Sequence[Row]
    """Of the section `env`, after `type` and `task`."""
    control_steps: int
    """Of an episode that runs into its time limit."""
    simulator_gib: float = 1.0
    """Resident memory of a simulator with its worker, rounded up."""
    pirl: Sequence[Row] = ()
    """Of the section `pirl`."""
    seen: Sequence[str] | None = None
    """Of the policy's cameras those that it has a picture for; None: every one."""
    notes: Sequence[str] = ()
    """What was guessed, for the person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFacts:
    """The space of a policy's actions, as far as its config tells."""

    field: str
    """The config field that names the space."""
    space: str | None
    """`ee6d`, `joint`, ... or `auto` (as wide as the feature `action`); None where the config is wrong."""
    width: int | None
    """Of the feature `action`."""


class PolicyFacts(ABC):
    """What a policy's type says about its config section."""

    denoising_field: str = "policy.num_denoising_steps"
    """The field that holds K."""
    precisions: Sequence[str] = ("fp32",)
    """The `pirl.precision` that its adapter has."""
    rules: Sequence[Rule] = ()
    """Checked after the rules that every policy keeps."""

    @abstractmethod
    def config_class(self) -> type:
        """LeRobot's own class of the policy's config."""

    @abstractmethod
    def action(self, view: View) -> ActionFacts:
        """The space of its actions."""

    def settle(self, policy_config: Any) -> None:
        """Bring the config of a checkpoint into the form that its weights were trained with, in place."""
        del policy_config

    def cameras(self, policy_config: Any) -> tuple[str, ...]:
        """The `observation.images.*` keys that the policy looks at, in its order."""
        features: dict[str, Any] = policy_config.input_features or {}
        return tuple(name for name, f in features.items() if f.type.name == "VISUAL")

    def seen(self, view: View) -> list[str]:
        """`cameras` of a config that is not decoded yet."""
        inputs = view.section("policy.input_features") or {}
        return [name for name in inputs if name.startswith(IMAGE_PREFIX)]

    def leave_out(self, view: View, cameras: Sequence[str]) -> str | None:
        """How a config leaves out cameras that its environment lacks; None where the policy needs them."""
        del view, cameras

    def views(self, policy_config: Any) -> int:
        """How many pictures the network has room for, padding included."""
        return len(self.cameras(policy_config))

    def identity(self, policy_config: Any) -> Mapping[str, str | int]:
        """What decides how the policy acts and is in no other field of `pirl.transport.identity`.

        Raises:
            ConfigError, CheckpointError, EnvironmentNotReadyError: its files do not tell.
        """
        del policy_config
        return {}

    def start_errors(self, policy_config: Any) -> list[FieldError]:
        """Where the decoded config, the starting checkpoint and its files do not fit each other.

        Raises:
            CheckpointError: a file of the checkpoint is damaged.
        """
        del policy_config
        return []

    def start_table(self, policy_config: Any) -> dict[str, str]:
        """Facts of config and starting checkpoint for people, by name."""
        del policy_config
        return {}

    def template(
        self, policy_config: Any, *, without: Sequence[str]
    ) -> Mapping[str, Sequence[Row]]:
        """What `pirl init` writes besides what every policy needs, by section: `policy` or `pirl`.

        Args:
            without: its cameras that the environment has no picture for.
        """
        del policy_config, without
        return {}


class EnvFacts(ABC):
    """What an environment's type says about its config section."""

    rules: Sequence[Rule] = ()
    """Checked after the rules that every environment keeps; they may look at the policy."""

    @abstractmethod
    def config_class(self) -> type:
        """The class of the environment's config, registered with LeRobot's `EnvConfig`."""

    @abstractmethod
    def cameras(self, view: View) -> list[str]:
        """Camera keys `observation.images.*` that it offers; empty where the config does not tell."""

    def template(self, *, cameras: Sequence[str], picture: tuple[int, int]) -> EnvTemplate:
        """What `pirl init` writes for it; the time limit of its config class by default.

        Args:
            cameras: the policy's, in its order.
            picture: height and width that the policy was made for, pixels.
        """
        del cameras, picture
        declared = {field.name: field.default for field in fields(self.config_class())}
        limit = declared.get("episode_length")
        if not isinstance(limit, int):
            return EnvTemplate(env=(), control_steps=_CONTROL_STEPS)
        row = ("episode_length", limit, "time limit in control steps")
        return EnvTemplate(env=[row], control_steps=limit)

    def name_cameras(self, view: View, cameras: Sequence[str]) -> str | None:
        """How a config gives its cameras these names, in order; None where their names are fixed."""
        del view, cameras


class RewardFacts(Protocol):
    """What a reward's type says about its config section (`pirl.runtime.rewards.RewardKind`)."""

    @property
    def rules(self) -> Sequence[Rule]: ...

    def config_class(self) -> type: ...


def fitting_cameras(wanted: Sequence[str], offered: Sequence[str]) -> list[str]:
    """The policy's cameras that the pictures can be for: those of the same names, else the first ones."""
    if len(wanted) <= len(offered):
        return list(wanted)
    return [name for name in wanted if name in offered] or list(wanted[: len(offered)])


def policy_facts(policy_type: str) -> PolicyFacts:
    """The kind of a policy type.

    Raises:
        ConfigError: nobody offers one; the message lists those that are there.
    """
    return doors.load(doors.POLICIES, policy_type)


def env_facts(env_type: str) -> EnvFacts:
    """The kind of an environment type.

    Raises:
        ConfigError: as `policy_facts`.
    """
    return doors.load(doors.ENVS, env_type)


def facts_of_policy(view: View) -> PolicyFacts | None:
    """The kind of the policy that a config names; None where it names none that is installed."""
    name = view.get("policy.type")
    return policy_facts(name) if doors.is_installed(doors.POLICIES, name) else None


def facts_of_env(view: View) -> EnvFacts | None:
    """The kind of the environment that a config names; None where it names none that is installed."""
    name = view.get("env.type")
    return env_facts(name) if doors.is_installed(doors.ENVS, name) else None


def facts_of_reward(view: View) -> RewardFacts | None:
    """The kind of the reward that a config names; None where it names none that is installed."""
    name = view.get("reward_model.type")
    return doors.load(doors.REWARDS, name) if doors.is_installed(doors.REWARDS, name) else None


def action_of(view: View) -> ActionFacts | None:
    """The space of the policy's actions; None without a policy of a known type."""
    facts = facts_of_policy(view)
    return None if facts is None else facts.action(view)


def action_width(view: View) -> int | None:
    """Width of the policy's `action` feature."""
    feature = (view.section("policy.output_features") or {}).get("action")
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int):
        return shape[0]
    return None


PLAIN = (
    lerobot_fields.PreTrainedConfig,
    lerobot_fields.EnvConfig,
    lerobot_fields.RewardModelConfig,
)
"""The classes without LeRobot whose choices `admit` adds to."""


def admit(raw: Mapping[str, Any], registries: Sequence[Any] = PLAIN) -> None:
    """Let a config name the installed types that are not known yet: their classes join the others.

    Args:
        raw: the config, as plain values.
        registries: draccus's choices of policy, environment and reward.

    Raises:
        ConfigError, EnvironmentNotReadyError: a type is offered twice, or its distribution is broken.
    """
    sections = ("policy", "env", "reward_model")
    groups = (doors.POLICIES, doors.ENVS, doors.REWARDS)
    for section, group, registry in zip(sections, groups, registries, strict=True):
        values = raw.get(section)
        name = values.get("type") if isinstance(values, Mapping) else None
        if not isinstance(name, str) or name in registry.get_known_choices():
            continue
        if doors.is_installed(group, str(name)):
            chosen = doors.load(group, str(name)).config_class()
            registry.register_subclass(str(name), chosen)
            # draccus writes the type of a value that is an instance of the declared class.
            registry.register(chosen)
