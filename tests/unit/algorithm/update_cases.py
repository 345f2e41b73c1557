"""Updates of the toy policy that several processes compute together: threads here, processes in integration.

Every process makes the same batch, keeps its own rows' observations and returns what it has afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from toys import EPISODES, Episode, ToyPolicy, a_batch, a_recipe, an_algorithm, shown_actions

from pirl.algorithm.pi_rl import PiRLAlgorithm, metric_row
from pirl.algorithm.replicas import ALONE, Replicas
from pirl.records import DecisionBatch

GRADIENT, WEIGHT = 1e-7, 2e-7
"""Absolute; measured: 6e-8 and 6e-8. The toy's policy is fp64; its chain and critic are fp32, whose sums of eleven
rows round in the order of the rows."""
METRIC = 1e-5

GROUPS = (
    Episode(rewards=(0.0, 1.0), group=0),
    Episode(rewards=(0.0, 0.0), truncated=True, group=0),
    Episode(rewards=(1.0,), group=1),
    Episode(rewards=(0.0, 0.0), truncated=True, group=1),
)
SMALL = {"global_batch": 4, "micro_batch": 2}
"""Eleven decisions in minibatches of four, four and three: with three processes some have none of them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe and what it trains on."""

    variant: str = "flow-sde"
    knobs: dict[str, Any] = field(default_factory=dict)
    episodes: Sequence[Episode] = EPISODES
    updates: int = 2
    stale: bool = False


CASES = {
    "flow-sde": Case(),
    "flow-noise": Case(variant="flow-noise"),
    "small minibatches": Case(knobs=SMALL),
    "small minibatches, flow-noise": Case(variant="flow-noise", knobs=SMALL),
    "critic epochs": Case(knobs={**SMALL, "value_epochs": 2, "value_buffer_updates": 2}),
    "reference": Case(knobs={**SMALL, "kl_beta": 0.1, "entropy_bonus": 0.01}),
    "open ends": Case(knobs={"bootstrap_on_truncation": True, "value_source": "action_tokens"}),
    "early stop": Case(knobs={**SMALL, "target_kl": 1e-5, "update_epochs": 4}),
    "adaptive rate": Case(knobs={"target_kl": 1e-3, "lr_schedule": "kl_adaptive"}),
    "demonstrations": Case(knobs={**SMALL, "bc_weight": 0.5}),
    "groups": Case(
        knobs={"adv_type": "grpo", "group_size": 2, "reward_filter": (0.1, 0.9)}, episodes=GROUPS
    ),
    "recorded anchor": Case(knobs={"recompute_proximal": False}, stale=True),
    "warm-up": Case(knobs={"critic_warmup_steps": 1}),
    "tokens": Case(knobs={"logprob_level": "token", "micro_batch": 1}),
}


def an_algorithm_of(case: Case, replicas: Replicas = ALONE) -> PiRLAlgorithm:
    policy = ToyPolicy(
        chunk_size=3, executed_steps=2, dims=3, denoising_steps=4, hidden=16, dtype=torch.float64
    )
    recipe = a_recipe(case.variant, **case.knobs)
    algorithm = an_algorithm(policy, recipe, demonstrations=shown_actions())
    algorithm.replicas = replicas
    return algorithm


Found = tuple[list[dict[str, float]], dict[str, torch.Tensor]]
"""The metric rows, and weights, state and the gradient of the first step by name."""


def run_case(
    case: Case, algorithm: PiRLAlgorithm, share: Callable[[DecisionBatch], DecisionBatch]
) -> Found:
    """All updates of a case.

    Args:
        share: the batch with the observations of the own rows.
    """
    first: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        found = {f"gradient/{n}": g.clone() for n, g in algorithm._nets.gradients().items()}
        first.update({} if first else found)

    algorithm.get_optimizers()["pi_rl"].register_step_pre_hook(keep)
    rows = []
    for version in range(case.updates):
        acted = version - 1 if case.stale and version else None
        batch = a_batch(algorithm, episodes=case.episodes, version=version, acted=acted)
        rows.append(metric_row(algorithm.update(iter([share(batch)]))))
    state = {**algorithm.get_weights(), **algorithm.state_dict(), **algorithm.training_state()}
    return rows, {**first, **{f"after/{n}": t.contiguous() for n, t in state.items()}}
