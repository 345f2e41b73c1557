"""Simulators whose raw episodes are known step by step, behind pirl's own slots.

Each simulator writes down what it did; nothing here knows chunks, decisions or advantages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from pirl.envs.base import EnvInfo, EnvObservation, Slot
from pirl.envs.libero import LiberoSettings, LiberoSlot, LiberoTask
from pirl.envs.metaworld import MetaWorldSettings, MetaWorldSlot
from pirl.envs.pool import Pool
from pirl.envs.split import StateRule, StateSplit
from pirl.envs.vector import SlotVectorEnv

STATE = 3
IMAGE = "observation.images.main"


@dataclass(kw_only=True)
class RawEpisode:
    """One episode as its simulator saw it."""

    states: list[np.ndarray]
    """After reset and after every simulator step."""
    success: list[bool] = field(default_factory=list)
    """Per simulator step."""
    actions: list[np.ndarray] = field(default_factory=list)
    """Per simulator step."""


class Diary:
    """Plays episodes that succeed at given simulator steps, in turn, and writes them down."""

    def __init__(self, success_at: Sequence[int | None], *, number: int) -> None:
        self.success_at, self.number = success_at, number
        self.episodes: list[RawEpisode] = []

    def begin(self) -> None:
        self.episodes.append(RawEpisode(states=[self.state(0)]))

    def advance(self, action: np.ndarray) -> bool:
        episode = self.episodes[-1]
        episode.actions.append(np.array(action))
        goal = self.success_at[(len(self.episodes) - 1) % len(self.success_at)]
        episode.success.append(goal is not None and len(episode.success) + 1 >= goal)
        episode.states.append(self.state(len(episode.success)))
        return episode.success[-1]

    def state(self, steps: int) -> np.ndarray:
        moment = 100 * self.number + 10 * len(self.episodes) + steps
        return np.sin(np.arange(1.0, STATE + 1) * moment).astype(np.float32)


class RawMetaWorld(Diary):
    """What a MetaWorld slot needs."""

    data = SimpleNamespace(warning=[SimpleNamespace(number=0) for _ in range(16)])

    def reset(self):
        self.begin()
        return self._raw(), {}

    def seed(self, seed):
        pass

    def step(self, action):
        success = self.advance(action)
        return self._raw(), 0.0, False, False, {"success": float(success)}

    def _raw(self):
        return np.pad(self.episodes[-1].states[-1], (0, 36))

    def close(self):
        pass


class RawLibero(Diary):
    """What a LIBERO slot needs."""

    num_init_states = 50

    @property
    def pose(self):
        return self.episodes[-1].states[-1], np.eye(3)

    def reset(self, *, init_state_id, seed):
        self.begin()

    def step(self, action):
        return self.advance(action)

    def draw(self, camera):
        return np.zeros((2, 2, 3), np.uint8)

    def close(self):
        pass


class BlankStudio:
    def images(self, task_id, env):
        return {IMAGE: np.zeros((3, 2, 2), np.uint8)}

    def close(self):
        pass


class ToyCodec:
    """The first numbers of the state; the first dims of an action."""

    def __init__(self, width: int) -> None:
        self.width = width

    def decode(self, observation: EnvObservation) -> EnvObservation:
        return EnvObservation(images=observation.images, state=observation.state[:STATE])

    def encode(self, chunk):
        padded = np.zeros((*chunk.shape[:-1], self.width), np.float32)
        padded[..., :4] = chunk[..., :4]
        return padded


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Slots of one kind, each with its own simulator and diary."""

    diaries: Sequence[Diary]
    repeat: int
    """Simulator steps per control action."""
    limit: int
    """Time limit in simulator steps."""

    def make_slots(self, count: int) -> list[Slot]:
        return [self._slot(diary) for diary in self.diaries[:count]]

    def _slot(self, diary: Diary) -> Slot:
        pool = Pool(lambda _: diary, idle=1)
        if isinstance(diary, RawMetaWorld):
            settings = MetaWorldSettings(
                task_names=("only",),
                image_keys=(IMAGE,),
                action_repeat=self.repeat,
                episode_length=self.limit,
            )
            return MetaWorldSlot(settings, pool, BlankStudio())
        task = LiberoTask(suite="libero_10", suite_task_id=4, max_steps=self.limit)
        settings = LiberoSettings(
            tasks=(task,), cameras={IMAGE: "agentview_image"}, scenes=(), options={}, assets=""
        )
        return LiberoSlot(settings, pool)

    def vector_env(self, split: StateSplit) -> SlotVectorEnv:
        seeded = split.states_are_seeds
        info = EnvInfo(
            kind="pirl_metaworld" if seeded else "libero",
            task_names=("only",),
            instructions=("do it",),
            action_width=4 if seeded else 7,
            state_width=STATE,
            image_shapes={IMAGE: (3, 2, 2)},
            max_control_steps={0: -(-self.limit // self.repeat)},
            sim_steps_per_action=self.repeat,
            reset_mode="seeded" if seeded else "hard",
        )
        return SlotVectorEnv(
            self,
            info=info,
            codec=ToyCodec(info.action_width),
            split=split,
            num_envs=len(self.diaries),
            num_workers=0,
        )


def a_split(*, seeded: bool) -> StateSplit:
    rule = StateRule(train=range(40), heldout=range(40, 50))
    return StateSplit(mode="train", rules={"*": rule}, states_are_seeds=seeded)
