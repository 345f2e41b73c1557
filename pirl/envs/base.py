"""What every simulator looks like from above: records, the slot protocol and the vector protocol.

Owns shapes and meaning of observations, chunk results and environment facts. Refuses to know any
simulator, any process and torch: a simulator worker must start without importing torch. Read
`pirl.envs.vector` next.

Letters: E executed rows of a chunk, A environment action width, S proprioception width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

if TYPE_CHECKING:
    from pirl.episodes import EpisodePlan

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    # jaxtyping takes the bare class at run time, pyright the parametrised one.
    Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvObservation:
    """What the policy may see at a chunk boundary, before any normalisation."""

    images: Mapping[str, UInt8[Array, "3 h w"]]
    """Keys `observation.images.*`, RGB, turned the way the policy expects."""
    state: Float32[Array, " S"]
    """`observation.state`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What executing one action chunk in one slot yields."""

    observation: EnvObservation
    """At the boundary after the last executed row; the terminal one when the episode ended."""
    step_rewards: Float32[Array, " E"]
    """1 in the row that reached success, 0 elsewhere; rows after the end are 0."""
    valid_steps: int
    """Rows executed, counted in control actions; less than E only when the episode ended."""
    terminated: bool
    """The task was solved; no value follows."""
    truncated: bool
    """The time limit passed without success; never together with `terminated`."""
    success: bool
    sim_steps: int
    """Simulator steps: `valid_steps` on LIBERO, up to `action_repeat` as many on MetaWorld."""
    frames: tuple[UInt8[Array, "h w 3"], ...] = ()
    """Video frames, only with recording; they change neither physics nor observations."""
    timings: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds: `step_s` physics, `render_s` rendering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPlan:
    """The part of an `EpisodePlan` a simulator needs; torch-free, so it can cross to a worker."""

    task_id: int
    init_state_id: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """Video: one frame every `stride` control actions and one at the end of each chunk."""

    stride: int = 2
    size: int = 240
    """Side in pixels where the simulator renders frames apart from observations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvInfo:
    """Facts of an environment that hold before any episode runs."""

    kind: str
    """`pirl_metaworld` or `libero`."""
    task_names: tuple[str, ...]
    """By task id."""
    instructions: tuple[str, ...]
    """By task id."""
    action_width: int
    """A."""
    state_width: int
    """S."""
    image_shapes: Mapping[str, tuple[int, int, int]]
    """(3, h, w) by observation key."""
    max_control_steps: Mapping[int, int]
    """Time limit in control actions by task id."""
    sim_steps_per_action: int
    reset_mode: str
    """`hard` (LIBERO: the model is rebuilt) or `seeded` (MetaWorld)."""
    max_step_reward: float = 1.0
    """Largest |reward| of one control action; a decision with more is refused by the learner."""

    def max_decisions(self, executed_steps: int) -> int:
        """Decisions in the longest episode of any task when `executed_steps` rows run per chunk."""
        return math.ceil(max(self.max_control_steps.values()) / executed_steps)


class Slot(Protocol):
    """One simulator that runs one episode at a time."""

    def reset(self, plan: SlotPlan) -> EnvObservation:
        """Start the episode of `plan`; the same plan always gives the same bits."""
        ...

    def step_chunk(self, actions: Float32[Array, "E A"]) -> ChunkResult:
        """Execute the rows until the chunk or the episode ends; render once, at that boundary."""
        ...

    def close(self) -> None:
        """Free the simulator and its GL context."""
        ...


class SlotSettings(Protocol):
    """A picklable description from which a worker builds its slots."""

    def make_slots(self, count: int) -> list[Slot]:
        """Build `count` slots that may share what they can (renderers, idle simulators)."""
        ...


class PendingChunk(Protocol):
    """A chunk that slots execute meanwhile."""

    def results(self) -> dict[int, ChunkResult]:
        """Wait for its end, slots in the order in which they were given.

        Raises:
            EnvError: a simulator failed, crashed or missed its deadline.
        """
        ...


class VectorEnv(Protocol):
    """Several slots driven together. Everything above the simulators talks to this."""

    @property
    def num_envs(self) -> int: ...

    @property
    def info(self) -> EnvInfo: ...

    @property
    def task_names(self) -> tuple[str, ...]: ...

    def instruction(self, task_id: int) -> str:
        """The language instruction of a task."""
        ...

    def reset(self, plans: Mapping[int, EpisodePlan]) -> dict[int, EnvObservation]:
        """Start episodes in the given slots.

        Raises:
            ConfigError: a plan names a state that the split does not allow, or an unknown task.
            EnvError: a simulator failed, crashed or missed its deadline.
        """
        ...

    def step_chunk(self, actions: Mapping[int, Float32[Array, "E A"]]) -> dict[int, ChunkResult]:
        """Execute one chunk in each of the given slots; the others stand still.

        Raises:
            EnvError: as for `reset`.
        """
        ...

    def start_chunk(self, actions: Mapping[int, Float32[Array, "E A"]]) -> PendingChunk:
        """As `step_chunk`, without waiting: other slots can be reset and started meanwhile.

        Raises:
            EnvError: as for `reset`.
        """
        ...

    def to_env_actions(self, chunk: Float32[Array, "*B D"]) -> Float32[Array, "*B A"]:
        """Postprocessed policy rows to what the simulator executes."""
        ...

    def close(self) -> None:
        """End every worker; idempotent."""
        ...
