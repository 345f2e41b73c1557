"""What the actor records of a decision, and how it is read back.

Owns reading the chain's fields back; their names and shapes are in `pirl.decision`. Refuses to know networks
and how anything is sampled or scored. Read `pirl.algorithm.chain` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pirl.config.recipe import PiRLConfig
from pirl.decision import (
    CARRIED,
    CHAIN,
    DENOISE_INDEX,
    GRIPPER,
    LOG_PROB,
    NOISE,
    X_K,
    X_LAST,
    X_NEXT,
    stores_all_steps,
)
from pirl.errors import ContractError, FieldError
from pirl.records import ActionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSteps:
    """The stochastic transitions of a batch of decisions, S per decision: 1 (hybrid) or K."""

    step: Int64[Tensor, "B S"]
    x: Float[Tensor, "B S C D"]
    x_next: Float[Tensor, "B S C D"]
    carried: Float[Tensor, "B S C D"]
    initial: Float[Tensor, "B C D"]
    """x_0, the start of the chain."""
    x_last: Float[Tensor, "B C D"] | None
    """x_{K-1}; only with a Bernoulli gripper and S = 1, where it needs its own network pass."""
    gripper: Float[Tensor, "B E G"] | None
    """Drawn gripper states, 0 or 1; only with a Bernoulli gripper."""


def read_steps(spec: ActionSpec, pirl: PiRLConfig, fields: Mapping[str, Tensor]) -> RecordedSteps:
    """The stored transitions, from the fields of the recipe's schema."""
    num_steps = spec.denoising_steps
    one = (spec.chunk_size, spec.model_dim)
    bernoulli = pirl.gripper_mode == "bernoulli"
    grippers = (spec.executed_steps, len(spec.gripper_dims))
    gripper = _field(fields, GRIPPER, grippers) if bernoulli else None
    if not stores_all_steps(pirl):
        noise, x_k = _field(fields, NOISE, one), _field(fields, X_K, one)
        return RecordedSteps(
            step=_field(fields, DENOISE_INDEX, ())[:, None],
            x=x_k[:, None],
            x_next=_field(fields, X_NEXT, one)[:, None],
            carried=noise[:, None],
            initial=noise,
            x_last=_field(fields, X_LAST, one) if bernoulli else None,
            gripper=gripper,
        )
    chain = _field(fields, CHAIN, (num_steps + 1, *one))
    carried = chain[:, :1].expand(-1, num_steps, -1, -1)
    if not pirl.is_flow_noise and pirl.base_sampler == "native":
        carried = _field(fields, CARRIED, (num_steps, *one))
    return RecordedSteps(
        step=torch.arange(num_steps, device=chain.device).expand(len(chain), -1),
        x=chain[:, :-1],
        x_next=chain[:, 1:],
        carried=carried,
        initial=chain[:, 0],
        x_last=None,
        gripper=gripper,
    )


def _field(fields: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A recorded tensor of shape [B, *shape]."""
    value = fields.get(name)
    if value is None or tuple(value.shape[1:]) != shape:
        clause = FieldError(
            field=name,
            value="absent" if value is None else tuple(value.shape),
            expected=f"a tensor of shape (B, {', '.join(map(str, shape))})",
            fix="replay only decisions sampled with noise, under the same recipe and policy shape",
        )
        raise ContractError([clause])
    return value


def recorded_step_index(
    spec: ActionSpec, pirl: PiRLConfig, fields: Mapping[str, Tensor]
) -> Int64[Tensor, "B S"]:
    """Denoising index of each stored step."""
    if stores_all_steps(pirl):
        stored = fields[LOG_PROB]
        return torch.arange(spec.denoising_steps, device=stored.device).expand(len(stored), -1)
    return fields[DENOISE_INDEX][:, None]
