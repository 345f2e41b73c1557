"""Demonstrations from scripted experts, slow and slightly disturbed.

Owns their collection and their cut into action chunks. Refuses to know policies, losses and simulators: whose
experts these are is the environment's kind to say (`EnvKind.teacher`). The
settings are explained in `docs/learning.md`: a policy trained on slow demonstrations is accurate but misses the
time limit, which is what RL then mends. Read `pirl.envs.metaworld` and `pirl.envs.libero_expert` next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from pirl.envs.base import Array, ChunkResult, EnvInfo, EnvObservation, Slot, SlotPlan
from pirl.envs.kinds import env_kind
from pirl.envs.schedule import stream_seed
from pirl.envs.split import DEMO_SEEDS
from pirl.envs.vector import Codec
from pirl.errors import EnvError

if TYPE_CHECKING:
    from lerobot.envs.configs import EnvConfig

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One successful demonstration of T control steps."""

    task_id: int
    task: str
    instruction: str
    init_state_id: int
    """A training state; on MetaWorld the seed."""
    seed: int
    """Simulator seed."""
    looked: Int64[Array, " P"]
    """Control steps with pictures, in order; a picture of LIBERO costs five to nine control steps."""
    images: Mapping[str, UInt8[Array, "P 3 h w"]]
    states: Float32[Array, "T S"]
    actions: Float32[Array, "T A"]
    """What the expert wanted (slowed), as the policy would say it, not the disturbed action that was executed."""
    executed: Float32[Array, "T B"]
    """What was executed, in the simulator's terms: the same rows from the same state and seed succeed again."""
    sim_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoChunks:
    """A demonstration as supervised targets: one chunk of C actions per control step."""

    actions: Float32[Array, "T C A"]
    """Rows past the end repeat the last action."""
    is_pad: Bool[Array, "T C"]
    """True where a row lies past the end."""


def collect_demos(
    env_cfg: EnvConfig,
    *,
    num_episodes: int,
    seed: int,
    image_keys: Sequence[str],
    task_id: int = 0,
    speed: float = 0.65,
    noise: float = 0.3,
    picture_every: int = 1,
    max_steps: int = 250,
    max_failures: int | None = None,
    split_file: str | None = None,
) -> list[Demo]:
    """Collect `num_episodes` successful demonstrations of one task in this process.

    The expert is slowed by `speed`; what is executed differs from its action by uniform noise
    of up to `noise` per axis of the position. An episode the expert does not solve within `max_steps` simulator
    steps is discarded, logged and replaced by the next one, at most `max_failures` times (null:
    `num_episodes`). No held-out state is used: MetaWorld's come from `DEMO_SEEDS`, LIBERO's from the split's
    training states.

    Raises:
        EnvError: too many failures, with the counts, or a task without an expert.
        ConfigError: unknown task.
    """
    teacher = env_kind(env_cfg.type).teacher(
        env_cfg,
        image_keys=image_keys,
        max_steps=max_steps,
        split_file=split_file,
        noise=noise,
        seed=seed,
    )
    allowed = num_episodes if max_failures is None else max_failures
    task = teacher.info.task_names[task_id]
    demos: list[Demo] = []
    failed: list[int] = []
    try:
        while len(demos) < num_episodes:
            plan = teacher.plan(task_id, len(demos) + len(failed))
            demo = _run_expert(
                teacher, plan, speed=speed, noise=noise, every=picture_every, seed=seed
            )
            if demo is not None:
                demos.append(demo)
                continue
            failed.append(plan.init_state_id)
            _logger.warning(
                "expert failed %s from state %d; demonstration discarded", task, plan.init_state_id
            )
            if len(failed) > allowed:
                raise EnvError(
                    f"the expert of {task} failed {len(failed)} of {len(failed) + len(demos)}"
                    f" episodes (states {failed[:10]}); allowed: {allowed}"
                )
    finally:
        teacher.slot.close()
    return demos


class ExpertSlot(Slot, Protocol):
    """A slot that knows what its scripted expert does now."""

    def expert_action(self, *, speed: float = 1.0) -> Float32[Array, " B"]:
        """The expert's action, its displacement scaled by `speed`, in the simulator's terms."""
        ...

    def step_chunk(self, actions: Float32[Array, "E B"], *, look: bool = True) -> ChunkResult:
        """As `Slot.step_chunk`; without `look` the observation has no picture."""
        ...


def _unchanged(row: Array) -> Array:
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A simulator with a scripted expert, and what stands between it and the policy."""

    slot: ExpertSlot
    info: EnvInfo
    codec: Codec
    plan: Callable[[int, int], SlotPlan]
    """Of the task with an id, the n-th episode."""
    policy_row: Callable[[Array], Array] = _unchanged
    """A simulator action as the policy would give it."""


def seeded_plans(info: EnvInfo, *, seed: int) -> Callable[[int, int], SlotPlan]:
    """`Teacher.plan` where a seed is an initial state: seeds that no split contains."""

    def seeded(task_id: int, number: int) -> SlotPlan:
        start = stream_seed(seed, "demo", info.task_names[task_id])
        state = DEMO_SEEDS[(start + number) % len(DEMO_SEEDS)]
        return SlotPlan(task_id=task_id, init_state_id=state, seed=state)

    return seeded


def action_chunks(demo: Demo, *, chunk_size: int) -> DemoChunks:
    """Cut a demonstration into one chunk per control step."""
    length = len(demo.actions)
    rows = np.arange(length)[:, None] + np.arange(chunk_size)[None, :]
    return DemoChunks(actions=demo.actions[np.minimum(rows, length - 1)], is_pad=rows >= length)


def _run_expert(
    teacher: Teacher, plan: SlotPlan, *, speed: float, noise: float, every: int, seed: int
) -> Demo | None:
    """One episode; None when the expert did not succeed."""
    task = teacher.info.task_names[plan.task_id]
    rng = np.random.default_rng(stream_seed(seed, "demo-noise", task, plan.seed))
    observation = teacher.slot.reset(plan)
    seen: list[EnvObservation] = []
    actions: list[Float32[Array, " A"]] = []
    executed: list[Float32[Array, " B"]] = []
    sim_steps = 0
    while True:
        action = teacher.slot.expert_action(speed=speed)
        disturbed = action.copy()
        disturbed[:3] += rng.uniform(-noise, noise, size=len(disturbed[:3]))
        seen.append(teacher.codec.decode(observation))
        actions.append(teacher.policy_row(action))
        executed.append(disturbed)
        result = teacher.slot.step_chunk(disturbed[None], look=len(actions) % every == 0)
        observation = result.observation
        sim_steps += result.sim_steps
        if result.truncated:
            return None
        if result.terminated:
            break
    looked = range(0, len(seen), every)
    return Demo(
        task_id=plan.task_id,
        task=task,
        instruction=teacher.info.instructions[plan.task_id],
        init_state_id=plan.init_state_id,
        seed=plan.seed,
        looked=np.array(looked),
        images={key: np.stack([seen[t].images[key] for t in looked]) for key in seen[0].images},
        states=np.stack([o.state for o in seen]),
        actions=np.stack(actions),
        executed=np.stack(executed),
        sim_steps=sim_steps,
    )
