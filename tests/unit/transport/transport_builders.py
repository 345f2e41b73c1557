"""Builders for transport tests: an identity, a schema, fitting transitions, a recording sink."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.utils.transition import Transition

from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.records import ActionSpec
from pirl.transport.identity import Identity
from pirl.transport.schema import TensorSpec, TransitionSchema, transition_schema

MAIN_IMAGE, WRIST_IMAGE = "observation.images.image", "observation.images.image2"


def an_identity(**changes: Any) -> Identity:
    values: dict[str, Any] = {
        "recipe": "pi-rl",
        "variant": "flow-sde",
        "config_path": "configs/train_config.json",
        "config_hash": "ab" * 32,
        "run_id": "run-1",
        "policy_type": "xvla",
        "policy_architecture": "cd" * 32,
        "action_mode": "ee6d",
        "denoising_steps": 3,
        "executed_steps": 2,
        "environment": "libero/libero_10, limit 520",
        "control_mode": "absolute",
        "cameras": "image,image2 of 3 views",
        "policy_settings": "domain_id=3",
        "reward": "success",
        "state_split": "train of 0123456789abcdef",
        "noise_settings": "noise_level=0.5 w_rule=sde",
    }
    return Identity(**(values | changes))


def a_spec(*, chunk: int = 4, executed: int = 2, steps: int = 3, width: int = 20) -> ActionSpec:
    return ActionSpec(
        action_mode="ee6d",
        chunk_size=chunk,
        executed_steps=executed,
        model_dim=width,
        env_dim=width,
        denoising_steps=steps,
        executed_dims=tuple(range(10)),
        hidden_gripper_dims=(9, 19),
        group_of_dim=("xyz",) * width,
    )


def flow_sde(**changes: Any) -> PiRLConfig:
    return PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig(), **changes)


def flow_noise() -> PiRLConfig:
    return PiRLConfig(variant="flow-noise", flow_noise=FlowNoiseConfig())


def some_inputs(*, tokens: int = 7, words: int = 2**31, domains: int = 30) -> dict[str, TensorSpec]:
    """What a policy of several embodiments reads besides pictures and state."""
    return {
        "domain_id": TensorSpec(dtype=torch.int64, shape=(1,), low=0, high=domains - 1),
        "input_ids": TensorSpec(dtype=torch.int64, shape=(1, tokens), low=0, high=words - 1),
    }


def a_schema(pirl: PiRLConfig | None = None, *, pixels: int = 8) -> TransitionSchema:
    return transition_schema(
        a_spec(),
        pirl or flow_sde(),
        image_shapes={MAIN_IMAGE: (3, pixels, pixels), WRIST_IMAGE: (3, pixels, pixels)},
        state_dim=5,
        inputs=some_inputs(),
    )


def a_tensor(spec: TensorSpec, rng: torch.Generator) -> torch.Tensor:
    if spec.dtype.is_floating_point:
        return torch.randn(spec.shape, generator=rng).to(spec.dtype)
    if spec.dtype == torch.bool:
        return torch.rand(spec.shape, generator=rng) < 0.5
    low = 0 if spec.low is None else max(spec.low, 0)
    high = 255 if spec.high is None else min(spec.high, 255)
    return torch.randint(low, high + 1, spec.shape, generator=rng, dtype=spec.dtype)


def some_transitions(
    count: int, schema: TransitionSchema | None = None, *, seed: int = 0
) -> list[Transition]:
    """An episode: the state after a decision is the state before the next, the same tensors."""
    schema = schema or a_schema()
    rng = torch.Generator().manual_seed(seed)
    states = [
        {name: a_tensor(spec, rng) for name, spec in schema.state.items()} for _ in range(count + 1)
    ]
    return [
        Transition(
            state=states[row],
            action=a_tensor(schema.action, rng),
            reward=float(row),
            next_state=states[row + 1],
            done=False,
            truncated=row == count - 1,
            complementary_info={name: a_tensor(s, rng) for name, s in schema.info.items()},
        )
        for row in range(count)
    ]


def some_weights(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {
        "model.transformer.a": torch.full((3, 4), value),
        "model.transformer.b": torch.arange(5.0) + value,
        "noise_head.log_std": torch.full((2,), value),
    }


def a_rollout_done(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "type": "rollout_done",
        "version": 0,
        "rank": 0,
        "decisions": 4,
        "episodes": [
            {
                "task_id": 0,
                "task": "button-press",
                "init_state_id": 3,
                "seed": 11,
                "episode_id": 7,
                "policy_version": 0,
                "env_steps": 95,
                "decisions": 4,
                "reward": 1.0,
                "success": True,
                "truncated": False,
            }
        ],
        "metrics": {"rollout/success_rate": 1.0},
    }
    return values | changes


def same_tensors(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


@dataclass
class RecordingSink:
    """A `RolloutSink` that remembers; `wait_until` has a deadline."""

    transitions: list[tuple[int, str, list[Transition]]] = field(default_factory=list)
    interactions: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    lost: list[tuple[int, str, str]] = field(default_factory=list)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    owed_since: float | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def on_transitions(
        self, rank: int, actor_id: str, transitions: Sequence[Transition], num_bytes: int
    ) -> None:
        assert num_bytes > 0
        with self.changed:
            self.transitions.append((rank, actor_id, list(transitions)))
            self.changed.notify_all()

    def on_interaction(self, rank: int, actor_id: str, message: Mapping[str, Any]) -> None:
        with self.changed:
            self.interactions.append((rank, actor_id, dict(message)))
            self.changed.notify_all()

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        with self.changed:
            self.lost.append((rank, actor_id, reason))
            self.changed.notify_all()

    def on_actor_refused(self, rank: int, actor_id: str, reason: str) -> None:
        with self.changed:
            self.refused.append((rank, actor_id, reason))

    def wait_for_room(self, rank: int, *, goes_on: Callable[[], bool]) -> None:
        """There is always room."""

    def owes_since(self, rank: int, actor_id: str) -> float | None:
        return self.owed_since

    @property
    def received(self) -> list[Transition]:
        return [t for _, _, batch in self.transitions for t in batch]

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> float:
        """Seconds until `condition` held; fails the test when it never does."""
        start = time.monotonic()
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), f"not within {timeout_s} s"
        return time.monotonic() - start
