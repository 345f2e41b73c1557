"""pirl and the oracle on one recipe: the same batches, losses, gradients, weights and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from oracle_toys import (
    DEMOS,
    SEED,
    Episode,
    OraclePolicy,
    a_batch,
    a_recipe,
    a_spec,
    an_algorithm,
)
from plain_update import PlainLearner
from torch import Tensor

from pirl.algorithm.pi_rl import PiRLAlgorithm, metric_row

RELATIVE, ABSOLUTE = 1e-9, 1e-11
"""Both sides compute in fp64 from the same fp32 inputs, so what differs is the order of sums:
some 1e-16 times the number of terms, grown by clipping norms and by AdamW's division by the root
of a squared gradient (eps 1e-8 bounds it by 1e8 times the gradient's own error)."""
TOTAL_UPDATES = 5
EPISODES = (
    Episode(rewards=(0.0, 0.0, 1.0), last_rows=1),
    Episode(rewards=(0.0, 0.5), end="truncated", human=(0,)),
    Episode(rewards=(1.0,)),
    Episode(rewards=(0.0,), end="truncated", last_rows=1),
    Episode(rewards=(0.25, 0.0), end="open"),
)
"""Nine decisions: both ends and none, chunks cut short, one that a human executed."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe and what it trains on."""

    variant: str = "flow-sde"
    steps: int = 3
    knobs: Mapping[str, object]
    episodes: Sequence[Episode] = EPISODES
    updates: int = 1
    executed_dims: tuple[int, ...] = (0, 1, 2, 3)
    seed: int = 0


def compare(case: Case) -> None:
    """Assert that pirl and the oracle agree before, during and after every update."""
    pirl = a_recipe(case.variant, **case.knobs)
    spec = a_spec(steps=case.steps, executed_dims=case.executed_dims)
    policy = OraclePolicy(spec, trains_encoder=pirl.train_scope == "all", seed=case.seed)
    algorithm = an_algorithm(policy, pirl, total_updates=TOTAL_UPDATES)
    oracle = PlainLearner(
        policy.network,
        spec,
        pirl,
        weights=all_weights(algorithm),
        policy_names=list(policy.trained_parameters()),
        total_updates=TOTAL_UPDATES,
        seed=SEED,
        demo_loss=policy.network.demo_loss,
        demos=DEMOS if pirl.bc_weight > 0 else None,
    )
    old = algorithm.get_weights()
    for version in range(case.updates):
        # The first update has data from other weights too, as an `async` learner would.
        acted = old if version else drifted(old)
        stale = any(e.stale for e in case.episodes)
        batch = a_batch(
            algorithm,
            case.episodes,
            version=version + 3,
            seed=case.seed,
            old_weights=acted if stale else None,
        )
        if version == 0:
            compare_losses(algorithm, oracle, batch)
        old = algorithm.get_weights()
        row = metric_row(algorithm.update(iter([batch])))
        for name, value in oracle.update(batch).items():
            close(double(row[f"update/{name}"]), double(value), f"metric {name}")
        for name, weight in all_weights(algorithm).items():
            close(weight, oracle.weights[name], f"weight {name} after update {version}")


def compare_losses(algorithm: PiRLAlgorithm, oracle: PlainLearner, batch: object) -> None:
    """Every term of the whole batch's loss, and its gradient."""
    ours = algorithm.forward_batch(batch)
    algorithm.get_optimizers()["pi_rl"].zero_grad(set_to_none=True)
    terms = oracle.loss_of_batch(batch)
    for name, value in {
        "policy_loss": terms.policy,
        "value_loss": terms.value,
        "entropy": terms.entropy,
        "kl_reference": terms.kl,
        "total_loss": terms.total,
    }.items():
        close(ours.losses[name].detach(), torch.as_tensor(value, dtype=torch.float64), name)
    if not ours.total.requires_grad:
        assert not terms.total.requires_grad
        return
    ours.total.backward()
    theirs = oracle.gradient(terms.total)
    found = algorithm._nets.gradients()
    for name in oracle.trained():
        zero = torch.zeros_like(oracle.weights[name])
        close(found.get(name, zero), theirs.get(name, zero), f"gradient of {name}")
    algorithm.get_optimizers()["pi_rl"].zero_grad(set_to_none=True)


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(
        ours.detach().double(),
        theirs.detach().double(),
        rtol=RELATIVE,
        atol=ABSOLUTE,
        msg=lambda text: f"{what}: pirl against the oracle\n{text}",
    )


def all_weights(algorithm: PiRLAlgorithm) -> dict[str, Tensor]:
    """Policy (trained or not), noise head and critic, by the oracle's names."""
    named = {n: p.detach().clone() for n, p in algorithm.policy.module.named().items()}
    return named | {n: p.detach().clone() for n, p in algorithm._nets.parameters().items()}


def drifted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an earlier version: some per cent away."""
    rng = torch.Generator().manual_seed(23)
    return {
        n: w + 0.03 * torch.randn(w.shape, generator=rng, dtype=w.dtype) for n, w in weights.items()
    }
