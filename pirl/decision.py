"""The fields of a decision: one row each with name, type, shape, range, who writes it and when.

Owns the table of `algorithm.md` 13.1 and the tensors that follow from it for a recipe. Everybody else takes
names and shapes from here: sampler, rollout, wire, store, learner and `docs/envelope.md`. Refuses to know
bytes, chains and networks. Read `pirl.transport.schema` next, which refuses everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pirl.config.recipe import PiRLConfig
from pirl.records import ActionSpec, TensorSpec

VERSION, EPISODE_ID, CHUNK_INDEX = "pirl_version", "pirl_episode_id", "pirl_chunk_idx"
GROUP_ID, VALID_STEPS, STEP_REWARDS = "pirl_group_id", "pirl_valid_steps", "pirl_step_rewards"
INTERVENTION = "is_intervention"
"""LeRobot's own name."""
DENOISE_INDEX, NOISE = "pirl_denoise_idx", "pirl_noise"
X_K, X_NEXT, X_LAST = "pirl_x_k", "pirl_x_next", "pirl_x_last"
CHAIN, CARRIED, GRIPPER = "pirl_chain", "pirl_carried", "pirl_gripper"
LOG_PROB, LOG_PROB_MASK = "pirl_logprob", "pirl_logprob_mask"
LOG_PROB_LAST = "pirl_logprob_last"

MAX_MAGNITUDE = 1e4
"""Largest |x| of a state, an action, a chain or an element's log-prob: metres, radians, flow units,
nats. Far above what occurs and far below what overflows in a network."""
MAX_ID = 2**62


def stores_all_steps(pirl: PiRLConfig) -> bool:
    """Whether every denoising step is stochastic and recorded (S = K), or one of them (S = 1)."""
    if pirl.is_flow_noise:
        return True
    return pirl.flow_sde is not None and pirl.flow_sde.stochastic_steps == "all"


def _always(_: PiRLConfig) -> bool:
    return True


def _one_step(pirl: PiRLConfig) -> bool:
    return not stores_all_steps(pirl)


def _flow_noise(pirl: PiRLConfig) -> bool:
    return pirl.is_flow_noise


def _carries(pirl: PiRLConfig) -> bool:
    return stores_all_steps(pirl) and not pirl.is_flow_noise and pirl.base_sampler == "native"


def _bernoulli(pirl: PiRLConfig) -> bool:
    return pirl.gripper_mode == "bernoulli"


def _bernoulli_one_step(pirl: PiRLConfig) -> bool:
    return _bernoulli(pirl) and _one_step(pirl)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionField:
    """One row of the table."""

    name: str
    dtype: torch.dtype
    shape: str = ""
    """Sizes after the leading 1, by the letters of `pirl.records`; `K?` is there where every step is a sample."""
    low: str = "-M"
    high: str = "M"
    """Inclusive: a number, a size, M (`MAX_MAGNITUDE`), R (the reward's bound) or I (`MAX_ID`); "" is none."""
    writer: str
    when: Callable[[PiRLConfig], bool] = _always
    told: str = "always"
    """`when`, in words."""


def _identifier(name: str, *, writer: str, low: str = "0", high: str = "I") -> DecisionField:
    return DecisionField(name=name, dtype=torch.int64, low=low, high=high, writer=writer)


_F32, _ROLLOUT, _SAMPLER = torch.float32, "rollout", "sampler"
_ONE, _ALL = "one stochastic step", "all steps stochastic, Flow-Noise"

FIELDS = (
    _identifier(VERSION, writer=_ROLLOUT),
    _identifier(EPISODE_ID, writer=_ROLLOUT),
    _identifier(CHUNK_INDEX, writer=_ROLLOUT),
    _identifier(VALID_STEPS, writer="environment", low="1", high="E"),
    _identifier(GROUP_ID, writer=_ROLLOUT, low="-1"),
    _identifier(INTERVENTION, writer=_ROLLOUT, high="1"),
    DecisionField(name=STEP_REWARDS, dtype=_F32, shape="E", low="-R", high="R", writer="reward"),
    DecisionField(name=LOG_PROB, dtype=_F32, shape="K? E D", writer=_SAMPLER),
    DecisionField(
        name=LOG_PROB_MASK, dtype=torch.bool, shape="K? E D", low="", high="", writer=_SAMPLER
    ),
    DecisionField(
        name=DENOISE_INDEX,
        dtype=torch.int64,
        low="0",
        high="K-1",
        writer=_SAMPLER,
        when=_one_step,
        told=_ONE,
    ),
    DecisionField(name=NOISE, dtype=_F32, shape="C D", writer=_SAMPLER, when=_one_step, told=_ONE),
    DecisionField(name=X_K, dtype=_F32, shape="C D", writer=_SAMPLER, when=_one_step, told=_ONE),
    DecisionField(name=X_NEXT, dtype=_F32, shape="C D", writer=_SAMPLER, when=_one_step, told=_ONE),
    DecisionField(
        name=CHAIN, dtype=_F32, shape="K+1 C D", writer=_SAMPLER, when=stores_all_steps, told=_ALL
    ),
    DecisionField(
        name=CARRIED,
        dtype=_F32,
        shape="K C D",
        writer=_SAMPLER,
        when=_carries,
        told="all steps stochastic, Flow-SDE, native base",
    ),
    DecisionField(
        name=LOG_PROB_LAST,
        dtype=_F32,
        shape="E D",
        writer=_SAMPLER,
        when=_flow_noise,
        told="Flow-Noise",
    ),
    DecisionField(
        name=GRIPPER,
        dtype=torch.uint8,
        shape="E G",
        low="0",
        high="1",
        writer=_SAMPLER,
        when=_bernoulli,
        told="Bernoulli gripper",
    ),
    DecisionField(
        name=X_LAST,
        dtype=_F32,
        shape="C D",
        writer=_SAMPLER,
        when=_bernoulli_one_step,
        told="Bernoulli gripper, one stochastic step",
    ),
)
"""Every field of a decision but the policy's own inputs (`FlowPolicy.inputs`)."""


def decision_fields(
    spec: ActionSpec, pirl: PiRLConfig, *, max_step_reward: float
) -> dict[str, TensorSpec]:
    """The fields that a recipe has, with the sizes of a policy.

    Args:
        max_step_reward: largest |reward| of one control action.
    """
    sizes: Mapping[str, int] = {
        "C": spec.chunk_size,
        "D": spec.model_dim,
        "E": spec.executed_steps,
        "G": len(spec.gripper_dims),
        "K": spec.denoising_steps,
        "K+1": spec.denoising_steps + 1,
    }
    bounds: Mapping[str, float] = {
        "M": MAX_MAGNITUDE,
        "-M": -MAX_MAGNITUDE,
        "R": max_step_reward,
        "-R": -max_step_reward,
        "I": MAX_ID,
        "E": spec.executed_steps,
        "K-1": spec.denoising_steps - 1,
    }
    every_step_is_a_sample = stores_all_steps(pirl) and not pirl.is_flow_noise

    def shape(field: DecisionField) -> tuple[int, ...]:
        letters = field.shape.split()
        kept = [one for one in letters if one != "K?" or every_step_is_a_sample]
        return (1, *(sizes[one.removesuffix("?")] for one in kept))

    def bound(text: str) -> float | None:
        if not text:
            return None
        return bounds[text] if text in bounds else int(text)

    return {
        field.name: TensorSpec(
            dtype=field.dtype, shape=shape(field), low=bound(field.low), high=bound(field.high)
        )
        for field in FIELDS
        if field.when(pirl)
    }
