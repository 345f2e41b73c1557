"""Records of validate-config: config, policy contract, closed forms, simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pirl.audit.records.common import says

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The one config of the gate."""

    path: str = field(metadata=says("normalised, never absolute"))
    hash: str = field(metadata=says("of the canonical text", "SHA-256"))
    recipe: str = field(metadata=says("`pi-rl`"))
    variant: str = field(metadata=says("`flow-sde` or `flow-noise`"))
    hooks: tuple[str, ...] = field(metadata=says("safety checks turned off in the gate's process"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which environment the gate runs on."""

    profile: str = field(metadata=says("`libero`, `embedded` or `own`"))
    reason: str = field(metadata=says("why it is not libero; empty for libero"))
    env_type: str = field(metadata=says("type of the environment"))
    suite: str = field(metadata=says("its suite or task"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of the config, looked at."""

    rule: str = field(metadata=says("name of the rule"))
    errors: tuple[str, ...] = field(metadata=says("what it objects to; empty when it holds"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """A field that an invalid config was refused for."""

    field_name: str = field(metadata=says("dotted name"))
    value: str = field(metadata=says("as given, shortened"))
    expected: str = field(metadata=says("what may stand there"))
    fix: str = field(metadata=says("what to do"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidConfig:
    """An invalid config, given to the loader that every process uses."""

    case: str = field(metadata=says("what is wrong with it"))
    exit_code: int | None = field(metadata=says("of the refusal; null: it was accepted"))
    objections: tuple[Objection, ...] = field(metadata=says("what the refusal names"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A clause of the flow-policy contract, tried on the gate's policy."""

    clause: str = field(metadata=says("name of the clause"))
    status: str = field(metadata=says("`kept`, `broken` or `not run`"))
    asks: str = field(metadata=says("what the clause asks for"))
    detail: str = field(metadata=says("what was found"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A version that the run depends on, as found."""

    package: str = field(metadata=says("distribution, or `python`"))
    version: str = field(metadata=says("installed"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLook:
    """The first episode: reset, drawn, and one chunk executed."""

    task: str = field(metadata=says("name of the task"))
    init_state_id: int = field(metadata=says("initial state"))
    env_steps: int = field(metadata=says("simulator steps that were executed", "steps"))
    frame_std: float = field(
        metadata=says("std of the drawn frame's pixels, 0 to 255", "grey levels")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Sizes of the policy."""

    total: int = field(metadata=says("all", "parameters"))
    trained: int = field(metadata=says("in the train scope", "parameters"))
    sent: int = field(metadata=says("published per version", "parameters"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a reader needs to repeat the run."""

    seed: int | None = field(metadata=says("of the run; null: none was set"))
    total_updates: int = field(metadata=says("length of the run", "updates"))
    rollout_chunks: int = field(metadata=says("per update, all actors", "decisions"))
    actors: int = field(metadata=says("number of actors", "processes"))
    mode: str = field(metadata=says("`sync` or `async`"))
    split: str = field(metadata=says("which initial states are in use"))
    chunk_size: int = field(metadata=says("sampled per decision", "actions"))
    executed_steps: int = field(metadata=says("executed per decision", "actions"))
    denoising_steps: int = field(metadata=says("per decision", "steps"))
    noise: Mapping[str, Scalar | tuple[float, ...]] = field(metadata=says("knobs of the variant"))
    action_mode: str = field(metadata=says("of the policy"))
    control_mode: str = field(metadata=says("what an action means to the robot"))
    episode_length: int = field(metadata=says("limit of an episode", "simulator steps"))
    numerics: str = field(metadata=says("`device/dtype`, for example `cpu/float32`"))
    torch_threads: int = field(metadata=says("per process", "threads"))
    success_definition: str = field(metadata=says("what counts as a success"))
    stopping_rule: str = field(metadata=says("when the run ends"))
    parameters: Parameters = field(metadata=says("sizes of the policy"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """The checkpoint that the run starts from."""

    source: str = field(metadata=says("repository or folder, or how it was made"))
    revision: str = field(metadata=says("of the source"))
    licence: str = field(metadata=says("of the weights"))
    files: Mapping[str, str] = field(metadata=says("name to digest", "SHA-256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """The environment, by version and digest."""

    name: str = field(metadata=says("LIBERO, MetaWorld, or as its kind says"))
    version: str = field(metadata=says("of its package"))
    mujoco: str = field(metadata=says("version of the simulator"))
    tasks: tuple[str, ...] = field(metadata=says("names of the suite's tasks"))
    assets: Mapping[str, str] = field(
        metadata=says(
            "`source`: where they came from; `git_tree` (LIBERO) or `sha256`: of all their files"
        )
    )
    initial_states: Mapping[str, str] = field(
        metadata=says("file, or `split`, to digest", "SHA-256")
    )
    reset_mode: str = field(metadata=says("how an initial state is reached"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything the run starts from."""

    checkpoint: StartingPoint = field(metadata=says("weights"))
    environment: Simulator = field(metadata=says("simulator"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Initial states of one task."""

    train: tuple[int, ...] = field(metadata=says("initial states for training"))
    heldout: tuple[int, ...] = field(metadata=says("initial states kept for evaluation"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which initial states training may see."""

    mode: str = field(metadata=says("which side is in use"))
    tasks: Mapping[str, Sides] = field(metadata=says("task to its two sides"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianCase:
    """A log density that pirl computed."""

    x: tuple[float, ...] = field(metadata=says("sample"))
    mean: tuple[float, ...] = field(metadata=says("mean"))
    std: tuple[float, ...] = field(metadata=says("standard deviation"))
    log_prob: float = field(metadata=says("sum over elements", "nats"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GaeCase:
    """Advantages that pirl computed, before normalisation; one entry per decision."""

    gamma: float = field(metadata=says("discount"))
    gae_lambda: float = field(metadata=says("lambda of GAE"))
    rewards: tuple[float, ...] = field(metadata=says("rewards", "reward"))
    values: tuple[float, ...] = field(metadata=says("critic at the decision", "reward"))
    next_values: tuple[float, ...] = field(metadata=says("critic after the decision", "reward"))
    done: tuple[bool, ...] = field(metadata=says("terminated"))
    truncated: tuple[bool, ...] = field(metadata=says("cut off by the limit"))
    advantages: tuple[float, ...] = field(metadata=says("pirl's numbers", "reward"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StdCase:
    """Transition stds of Flow-SDE that pirl computed."""

    denoising_steps: int = field(metadata=says("number of steps", "steps"))
    noise_level: float = field(metadata=says("noise level"))
    std: tuple[float, ...] = field(metadata=says("per step"))
