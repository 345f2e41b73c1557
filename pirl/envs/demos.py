"""Demonstrations from MetaWorld's scripted experts, slow and slightly disturbed.

Owns their collection and their cut into action chunks. Refuses to know policies and losses. The
settings are explained in `docs/learning.md`: a policy trained on slow demonstrations is accurate but misses the
time limit, which is what RL then mends. Read `pirl.envs.metaworld` next.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pirl.envs.base import Array, EnvObservation, SlotPlan
from pirl.envs.metaworld import MAX_SIM_STEPS, MetaWorldSlot
from pirl.envs.metaworld_config import IMAGE_KEY, instructions, metaworld_settings
from pirl.envs.schedule import stream_seed
from pirl.envs.split import DEMO_SEEDS
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
    seed: int
    """Simulator seed, from `DEMO_SEEDS`."""
    images: Mapping[str, UInt8[Array, "T 3 h w"]]
    states: Float32[Array, "T S"]
    actions: Float32[Array, "T A"]
    """What the expert wanted (slowed), not the disturbed action that was executed."""
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
    task_id: int = 0,
    speed: float = 0.65,
    noise: float = 0.3,
    max_sim_steps: int = 250,
    max_failures: int | None = None,
) -> list[Demo]:
    """Collect `num_episodes` successful demonstrations of one task in this process.

    The expert's xyz action is scaled by `speed`; what is executed differs from it by uniform noise
    of up to `noise` per axis. An episode the expert does not solve within `max_sim_steps` is
    discarded, logged and replaced by the next seed, at most `max_failures` times (null:
    `num_episodes`).

    Raises:
        EnvError: too many failures; the message has the counts.
        ConfigError: unknown task.
    """
    settings = replace(
        metaworld_settings(env_cfg, image_keys=(IMAGE_KEY,)),
        episode_length=min(max_sim_steps, MAX_SIM_STEPS),
        episode_lengths=None,
    )
    (slot,) = settings.make_slots(1)
    assert isinstance(slot, MetaWorldSlot)
    allowed = num_episodes if max_failures is None else max_failures
    task = settings.task_names[task_id]
    start = stream_seed(seed, "demo", task)
    demos: list[Demo] = []
    failed: list[int] = []
    try:
        while len(demos) < num_episodes:
            state = DEMO_SEEDS[(start + len(demos) + len(failed)) % len(DEMO_SEEDS)]
            plan = SlotPlan(task_id=task_id, init_state_id=state, seed=state)
            demo = _run_expert(slot, plan, task=task, speed=speed, noise=noise, seed=seed)
            if demo is not None:
                demos.append(demo)
                continue
            failed.append(state)
            _logger.warning("expert failed %s with seed %d; demonstration discarded", task, state)
            if len(failed) > allowed:
                raise EnvError(
                    f"the expert of {task} failed {len(failed)} of {len(failed) + len(demos)}"
                    f" episodes (seeds {failed[:10]}); allowed: {allowed}"
                )
    finally:
        slot.close()
    return demos


def action_chunks(demo: Demo, *, chunk_size: int) -> DemoChunks:
    """Cut a demonstration into one chunk per control step."""
    length = len(demo.actions)
    rows = np.arange(length)[:, None] + np.arange(chunk_size)[None, :]
    return DemoChunks(actions=demo.actions[np.minimum(rows, length - 1)], is_pad=rows >= length)


def _run_expert(
    slot: MetaWorldSlot, plan: SlotPlan, *, task: str, speed: float, noise: float, seed: int
) -> Demo | None:
    """One episode; None when the expert did not succeed."""
    rng = np.random.default_rng(stream_seed(seed, "demo-noise", task, plan.seed))
    observation = slot.reset(plan)
    seen: list[EnvObservation] = []
    actions: list[Float32[Array, " 4"]] = []
    sim_steps = 0
    while True:
        action = slot.expert_action().astype(np.float32)
        action[:3] *= speed
        executed = action.copy()
        executed[:3] += rng.uniform(-noise, noise, size=3)
        seen.append(observation)
        actions.append(action)
        result = slot.step_chunk(executed[None])
        observation = result.observation
        sim_steps += result.sim_steps
        if result.truncated:
            return None
        if result.terminated:
            break
    return Demo(
        task_id=plan.task_id,
        task=task,
        instruction=instructions()[task],
        seed=plan.seed,
        images={key: np.stack([o.images[key] for o in seen]) for key in observation.images},
        states=np.stack([o.state for o in seen]),
        actions=np.stack(actions),
        sim_steps=sim_steps,
    )
