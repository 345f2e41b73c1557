"""What crosses a boundary inside pirl, with shapes. Nothing here computes.

Shape letters, used everywhere: B decisions in a batch, K denoising steps, J log-prob samples per decision
(1, or K when every step is its own sample), C chunk length (paper: H), E executed steps, D model action
width, A environment action width, S proprioception width, L language tokens, F critic feature width,
W transformer width, N environments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from pirl.episodes import EpisodePlan as EpisodePlan
from pirl.episodes import EpisodeRecord as EpisodeRecord

FIELD_PREFIX = "pirl_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """Shape and meaning of a policy's action chunk (`algorithm.md` 2, action-space table)."""

    action_mode: str
    chunk_size: int
    """C: rows predicted."""
    executed_steps: int
    """E: rows executed; E <= C."""
    model_dim: int
    """D."""
    env_dim: int
    """Width after `postprocess`."""
    denoising_steps: int
    """K."""
    executed_dims: tuple[int, ...]
    """Model dims that the robot executes, hidden gripper dims included."""
    hidden_gripper_dims: tuple[int, ...]
    """Gripper dims that `preprocess` zeroes before the network (executed or not)."""
    group_of_dim: tuple[str, ...]
    """Per model dim: `xyz`, `rot6d`, `joint`, `gripper_logit` or `other`."""

    @property
    def pose_dims(self) -> tuple[int, ...]:
        """P: executed dims the network can see."""
        return tuple(d for d in self.executed_dims if d not in self.hidden_gripper_dims)

    @property
    def gripper_dims(self) -> tuple[int, ...]:
        """G: executed dims hidden from the network."""
        return tuple(d for d in self.executed_dims if d in self.hidden_gripper_dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor: dtype, shape with the leading 1, and the inclusive range of its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of one such tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A batch of raw policy inputs, as they travel in transitions."""

    images: Mapping[str, UInt8[Tensor, "B 3 h w"]]
    """Keys `observation.images.*`, in the policy's camera order."""
    state: Float[Tensor, "B S"]
    """`observation.state`, float32, not normalised."""
    inputs: Mapping[str, Tensor]
    """What else the policy reads, [B, ...] by its own names (`FlowPolicy.inputs`): words, for one."""

    def __len__(self) -> int:
        return int(self.state.shape[0])

    def index(self, rows: Tensor | slice) -> Observation:
        """The observations of `rows`, in that order; `rows` may lie on another device."""
        if isinstance(rows, Tensor):
            rows = rows.to(self.state.device)
        return Observation(
            images={name: image[rows] for name, image in self.images.items()},
            state=self.state[rows],
            inputs={name: value[rows] for name, value in self.inputs.items()},
        )

    def to(self, device: torch.device | str) -> Observation:
        """The same on `device`."""
        return Observation(
            images={name: image.to(device) for name, image in self.images.items()},
            state=self.state.to(device),
            inputs={name: value.to(device) for name, value in self.inputs.items()},
        )

    @staticmethod
    def cat(parts: list[Observation]) -> Observation:
        """All observations of `parts` in one batch."""
        return Observation(
            images={
                name: torch.cat([part.images[name] for part in parts]) for name in parts[0].images
            },
            state=torch.cat([part.state for part in parts]),
            inputs=_cat([part.inputs for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """An encoded observation batch: what the denoiser and the critic read. Constant along a chain."""

    tensors: Mapping[str, Tensor]
    """[B, ...] by the policy's own names; nobody but the policy looks inside."""
    critic_features: Float[Tensor, "B F"]
    """Observation-only features of the critic (`algorithm.md` 8.2), detached."""

    def __len__(self) -> int:
        return int(self.critic_features.shape[0])

    def index(self, rows: Tensor | slice) -> Context:
        """The contexts of `rows`, in that order."""
        return Context(
            tensors={name: value[rows] for name, value in self.tensors.items()},
            critic_features=self.critic_features[rows],
        )

    @staticmethod
    def cat(parts: list[Context]) -> Context:
        """All contexts of `parts` in one batch."""
        return Context(
            tensors=_cat([part.tensors for part in parts]),
            critic_features=torch.cat([part.critic_features for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One network evaluation at (x_k, t_k)."""

    clean: Float[Tensor, "B C D"]
    """Predicted clean chunk, model space, before `postprocess`."""
    features: Float[Tensor, "B C W"]
    """Action-token features after the final LayerNorm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledChunk:
    """What sampling one decision per batch row yields."""

    chunk: Float[Tensor, "B C D"]
    """x_K, model space, before `postprocess`."""
    fields: Mapping[str, Tensor]
    """The `pirl_*` tensors of `algorithm.md` 13.1 that replay needs, each with leading dim B.

    `pirl_logprob` and `pirl_logprob_mask` are [B, E, D] when J = 1 and [B, K, E, D] when every step is
    its own sample.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionBatch:
    """All decisions of one update, sorted by (episode, chunk). The learner's unit of work."""

    observation: Observation
    """Of the rows that this process owns (`pirl.algorithm.replicas`): all of them where it is alone."""
    next_observation: Observation
    """Of the same rows."""
    action: Float[Tensor, "B E D"]
    reward: Float[Tensor, " B"]
    """Sum over executed rows."""
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    fields: Mapping[str, Tensor]
    """Every `pirl_*` and `is_intervention` tensor, stacked on dim 0."""
    policy_version: int
    """Learner version that consumes the batch."""

    def __len__(self) -> int:
        return int(self.reward.shape[0])


def _cat(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
