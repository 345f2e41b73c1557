"""LeRobot transitions to one `DecisionBatch`, a batch to bytes, and a sampled decision to one LeRobot transition.

Owns the field placement of `algorithm.md` 13; knows no socket and no simulator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from lerobot.utils.transition import Transition
from safetensors.torch import load, save
from torch import Tensor

from pirl.decision import CHUNK_INDEX, EPISODE_ID, INTERVENTION, STEP_REWARDS, VALID_STEPS
from pirl.errors import TransportError
from pirl.records import FIELD_PREFIX, ActionSpec, DecisionBatch, Observation

STATE_KEY = "observation.state"
_SIDES = ("observation", "next_observation")
_FLAT = ("action", "reward", "terminated", "truncated")


def observation_of(
    state: Mapping[str, Tensor], info: Mapping[str, Tensor], *, inputs: Iterable[str]
) -> Observation:
    """The policy inputs of one transition side; what is no picture and no state travels beside them.

    Args:
        inputs: names of the policy's further inputs (`FlowPolicy.inputs`).
    """
    return Observation(
        images={name: value for name, value in state.items() if name != STATE_KEY},
        state=state[STATE_KEY],
        inputs={name: info[FIELD_PREFIX + name] for name in inputs},
    )


def state_of(observation: Observation) -> dict[str, Tensor]:
    """Pictures and state of an observation under LeRobot's keys."""
    return {**observation.images, STATE_KEY: observation.state}


def inputs_of(observation: Observation) -> dict[str, Tensor]:
    """Its further inputs, under the names by which they travel."""
    return {FIELD_PREFIX + name: value for name, value in observation.inputs.items()}


def build_transition(
    *,
    state: dict[str, Tensor],
    next_state: dict[str, Tensor],
    action: Tensor,
    step_rewards: Float32[np.ndarray[Any, Any], " E"],
    valid_steps: int,
    terminated: bool,
    truncated: bool,
    info: dict[str, Tensor],
    spec: ActionSpec,
) -> Transition:
    """One decision as a LeRobot transition.

    Args:
        state: uint8 images [1, 3, h, w] and float32 state [1, S]; `next_state` shares its tensors with
            the following decision's `state`, so that serialisation stores them once.
        action: [1, E, D] float32, model space.
        step_rewards: [E] float32, zero past `valid_steps`.
        info: replay fields and identifiers of `algorithm.md` 13.1, each with leading dim 1.
    """
    rewards = torch.zeros(1, spec.executed_steps)
    rewards[0, : len(step_rewards)] = torch.from_numpy(np.asarray(step_rewards, dtype=np.float32))
    return Transition(
        state=state,
        action=action,
        reward=float(rewards.sum()),
        next_state=next_state,
        done=terminated,
        truncated=truncated,
        complementary_info={
            **info,
            VALID_STEPS: torch.tensor([valid_steps]),
            STEP_REWARDS: rewards,
            INTERVENTION: torch.tensor([0]),
        },
    )


def build_batch(
    transitions: Sequence[Transition], *, policy_version: int, inputs: Collection[str]
) -> DecisionBatch:
    """All transitions sorted by (episode, chunk); arrival order is irrelevant.

    Args:
        inputs: as `observation_of`.

    Raises:
        TransportError: no transition, an episode with a gap or a repeated chunk, or an episode whose
            weights changed between two chunks in `sync` data.
    """
    if not transitions:
        raise TransportError("an update was asked for with no decision in the store")
    # The wire admits tensors only (`pirl.transport.schema`).
    infos: list[dict[str, Any]] = [dict(t.get("complementary_info") or {}) for t in transitions]
    keys = [(int(i[EPISODE_ID]), int(i[CHUNK_INDEX])) for i in infos]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    _check_contiguous([keys[row] for row in order])
    ordered = [transitions[row] for row in order]
    infos = [infos[row] for row in order]
    fields = {name: torch.cat([info[name] for info in infos]) for name in infos[0]}
    pairs = list(zip(ordered, infos, strict=True))
    return DecisionBatch(
        observation=Observation.cat(
            [observation_of(t["state"], i, inputs=inputs) for t, i in pairs]
        ),
        next_observation=Observation.cat(
            [observation_of(t["next_state"], i, inputs=inputs) for t, i in pairs]
        ),
        action=torch.cat([t["action"] for t in ordered]),
        reward=torch.tensor([float(t["reward"]) for t in ordered]),
        terminated=torch.tensor([bool(t["done"]) for t in ordered]),
        truncated=torch.tensor([bool(t["truncated"]) for t in ordered]),
        fields=fields,
        policy_version=policy_version,
    )


def _check_contiguous(keys: Sequence[tuple[int, int]]) -> None:
    """Chunk indices of every episode must be 0, 1, 2, ... without gap or repetition."""
    previous: tuple[int, int] | None = None
    for episode, chunk in keys:
        expected = 0 if previous is None or previous[0] != episode else previous[1] + 1
        if chunk != expected:
            raise TransportError(
                f"episode {episode}: chunk {chunk} where chunk {expected} must follow; the rollout has a "
                "gap or a repeated decision"
            )
        previous = (episode, chunk)


def packed(batch: DecisionBatch) -> bytes:
    """`batch` as safetensors; `unpacked` is the inverse, to the bit."""
    tensors = {name: getattr(batch, name) for name in _FLAT}
    tensors["policy_version"] = torch.tensor(batch.policy_version)
    tensors |= {f"fields/{name}": value for name, value in batch.fields.items()}
    for side in _SIDES:
        observation: Observation = getattr(batch, side)
        tensors |= {f"{side}/images/{name}": image for name, image in observation.images.items()}
        tensors |= {f"{side}/inputs/{name}": value for name, value in observation.inputs.items()}
        tensors[f"{side}/state"] = observation.state
    return save({name: value.contiguous() for name, value in tensors.items()})


def unpacked(content: bytes) -> DecisionBatch:
    """The batch that `packed` was given."""
    tensors = load(content)

    def below(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    def side(name: str) -> Observation:
        return Observation(
            images=below(f"{name}/images/"),
            state=tensors[f"{name}/state"],
            inputs=below(f"{name}/inputs/"),
        )

    return DecisionBatch(
        observation=side("observation"),
        next_observation=side("next_observation"),
        fields=below("fields/"),
        policy_version=int(tensors["policy_version"]),
        **{name: tensors[name] for name in _FLAT},
    )
