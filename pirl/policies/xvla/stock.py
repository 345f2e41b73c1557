"""Stock LeRobot generation with given start noise: the other side of every "acts identically"
claim.

Owns the call of LeRobot's own sampler. Refuses to use pirl's adapter or sampler, because it is what
they are compared with. Read `pirl.algorithm.chain` next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pirl.contract.clauses import broken
from pirl.policies.xvla.inputs import DOMAIN_ID, INPUT_IDS
from pirl.policies.xvla.processors import imagenet_normalize
from pirl.records import Observation


def stock_batch(policy: XVLAPolicy, observation: Observation) -> dict[str, Tensor]:
    """The observation under the keys of a stock policy, on its device, images normalised."""
    device = policy.model.transformer.pos_emb.device
    batch = imagenet_normalize({key: image.to(device) for key, image in observation.images.items()})
    batch[OBS_STATE] = observation.state.to(device)
    batch[OBS_LANGUAGE_TOKENS] = observation.inputs[INPUT_IDS].to(device)
    domain = observation.inputs[DOMAIN_ID].to(device)
    batch[policy.model.config.domain_feature_key or "domain_id"] = domain
    return batch


def stock_generate(
    policy: XVLAPolicy, observation: Observation, noise: Float[Tensor, "B C D"]
) -> Tensor:
    """Environment chunk [B, C, A] of stock `predict_action_chunk` when it draws `noise`.

    LeRobot ignores its own `noise` argument, so the one draw of its sampler is answered with
    `noise`; no generator advances.

    Raises:
        ContractError: the sampler did not draw exactly one tensor of the shape of `noise`.
    """
    draw = _GivenNoise(noise)
    with draw:
        chunk = policy.predict_action_chunk(stock_batch(policy, observation))
    if draw.shapes != [tuple(noise.shape)]:
        raise broken(
            "stock-sampler",
            value=draw.shapes,
            expected=f"one draw of shape {tuple(noise.shape)}",
            fix="give noise of shape [B, C, D]; if it is, this LeRobot samples differently",
        )
    return chunk


class _GivenNoise(TorchFunctionMode):
    """Answers `torch.randn` with a given tensor within its scope, and notes what was asked for."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self._noise = noise

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        wanted = torch.zeros(*args, **(kwargs or {}))
        self.shapes.append(tuple(wanted.shape))
        return self._noise.to(wanted) if wanted.shape == self._noise.shape else wanted
