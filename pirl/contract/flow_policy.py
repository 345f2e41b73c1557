"""What piRL asks of a flow policy. Policies qualify by answering, not by type.

Owns the protocol; refuses to know any concrete policy or algorithm. Read `pirl.contract.check`
next: the same contract as a program; and `pirl.contract.registry`: who builds a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pirl.records import ActionSpec, Context, Observation, Prediction, TensorSpec

type Array = np.ndarray[Any, np.dtype[Any]]


class RawObservation(Protocol):
    """What an environment shows (`pirl.envs.base.EnvObservation`), before any normalisation."""

    @property
    def images(self) -> Mapping[str, Array]:
        """uint8 [3, h, w] by `observation.images.*`."""
        ...

    @property
    def state(self) -> Array:
        """float32 [S]."""
        ...


@runtime_checkable
class FlowPolicy(Protocol):
    """A flow-matching policy that predicts the clean chunk from (x_k, t_k, observation).

    Flow time runs from 1 (noise) to 0 (data). All methods run in eval mode; the adapter guards it.
    """

    @property
    def spec(self) -> ActionSpec:
        """Shape and meaning of the action chunk."""
        ...

    @property
    def module(self) -> nn.Module:
        """The stock LeRobot policy, for moving, eval-mode control and its own `forward` (loss, info)."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """The `observation.images.*` keys that it looks at, in its order."""
        ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What it reads besides pictures and state, by name, as one decision carries it: [1, ...]."""
        ...

    @property
    def sampler(self) -> str:
        """The `pirl.base_sampler` that is LeRobot's own sampler of this policy: `native` or `euler`."""
        ...

    @property
    def critic_width(self) -> int:
        """F: width of `Context.critic_features`."""
        ...

    @property
    def feature_width(self) -> int:
        """W: width of `Prediction.features`."""
        ...

    @property
    def primary_view_shape(self) -> tuple[int, int]:
        """(tokens, Wv) of `primary_view`."""
        ...

    @property
    def trains_encoder(self) -> bool:
        """Whether parameters that `encode` uses are trained; contexts age with every step then."""
        ...

    def prepare(self, raw: RawObservation, instruction: str) -> Observation:
        """One raw observation and the task's instruction as a batch of one row, on the CPU."""
        ...

    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        """Encode raw observations.

        Args:
            gradient: keep the graph to the encoder's parameters; only where `trains_encoder`. The
                critic's features never have one.
        """
        ...

    def primary_view(self, context: Context) -> Float[Tensor, "B T Wv"]:
        """Encoded tokens of the first camera (`value_source=vlm_tokens`)."""
        ...

    def predict(
        self, context: Context, x: Float[Tensor, "B C D"], t: Float[Tensor, " B"]
    ) -> Prediction:
        """The network's clean-chunk prediction; differentiable in the trained parameters."""
        ...

    def postprocess(self, chunk: Float[Tensor, "B C D"]) -> Tensor:
        """Model chunk to environment chunk [B, C, A]; never alters its argument (clone first)."""
        ...

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters that piRL trains, by the name they have in the policy's state dict."""
        ...

    @property
    def no_decay(self) -> frozenset[str]:
        """Names of trained parameters that weight decay would only erode: tables with rows that no run uses."""
        ...

    def frozen_parameters(self) -> Mapping[str, nn.Parameter]:
        """Every other parameter."""
        ...

    def demo_batch(
        self, observation: Observation, actions: Float[Tensor, "B C A"]
    ) -> dict[str, Tensor]:
        """What the stock policy's `forward` takes: the observation and what the expert did, on its device."""
        ...

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        """The policy's own supervised loss on a demonstration batch, in eval mode; draws from
        `rng`."""
        ...

    def save(self, folder: Path, *, env_type: str) -> Path:
        """Write what stock LeRobot needs to run it in environments of `env_type`; nothing of pirl's own."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        ...
