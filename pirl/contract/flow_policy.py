"""The four questions piRL asks of a flow policy. Policies qualify by answering them, not by type.

Owns the protocol; refuses to know any concrete policy or algorithm. Read `pirl.contract.check`
next: the same contract as a program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pirl.records import ActionSpec, Context, Observation, Prediction


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
        """The underlying module, for saving, moving and eval-mode control."""
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
        """(tokens, Wv) of the primary view: the first tokens of `Context.vlm_features`."""
        ...

    @property
    def trains_encoder(self) -> bool:
        """Whether parameters that `encode` uses are trained; contexts age with every step then."""
        ...

    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        """Encode raw observations.

        Args:
            gradient: keep the graph to the encoder's parameters; only where `trains_encoder`. The
                critic's features never have one.
        """
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

    def frozen_parameters(self) -> Mapping[str, nn.Parameter]:
        """Every other parameter."""
        ...

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        """The policy's own supervised loss on a demonstration batch, in eval mode; draws from
        `rng`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        ...
