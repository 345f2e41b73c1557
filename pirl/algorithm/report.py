"""What an update reports: LeRobot's `TrainingStats`, and the same numbers under declared names.

Owns the mapping to the names of `docs/metrics.md`. Computes nothing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from lerobot.rl.algorithms.configs import TrainingStats

from pirl.algorithm.demonstrations import Imitation
from pirl.algorithm.diagnostics import UpdateStats
from pirl.algorithm.prepare import Prepared
from pirl.records import DecisionBatch


def training_stats(
    stats: UpdateStats,
    prepared: Prepared,
    batch: DecisionBatch,
    *,
    rates: Mapping[str, float],
    imitation: Imitation | None,
) -> TrainingStats:
    """Metrics of an update; `metric_row` gives them the names of `docs/metrics.md`."""
    passes = max(1, stats.minibatches)
    steps = max(1, stats.optimiser_steps - stats.critic_steps)
    extra = {
        **stats.ratio.metrics(),
        **stats.parity.metrics(),
        "approx_kl": stats.approx_kl or 0.0,
        "ratio_first_max_abs": stats.first.max_abs,
        "clip_first_fraction": stats.first.clip_fraction,
        "kl_first": stats.first.approx_kl,
        "epochs": float(stats.epochs),
        "optimiser_steps": float(stats.optimiser_steps),
        "reward_mean": float(batch.reward.double().mean()),
        **{f"lr_{name}": rate for name, rate in rates.items() if name != "actor_no_decay"},
        **prepared.metrics,
        "version/lag_max": float(prepared.lag.max()),
        "version/lag_mean": float(prepared.lag.double().mean()),
    }
    if stats.noise_std:
        extra["noise_std_mean"] = sum(stats.noise_std) / len(stats.noise_std)
    if imitation is not None:
        extra["bc_weight"] = imitation.weight
    if stats.value_epoch_loss is not None:
        extra["value_epoch_loss"] = stats.value_epoch_loss
    return TrainingStats(
        losses={name: total / passes for name, total in stats.losses.items()},
        grad_norms={name: total / steps for name, total in stats.grad_norms.items()},
        extra=extra,
    )


def metric_row(stats: TrainingStats) -> dict[str, float]:
    """`stats` under the names that `pirl.journal.metrics` declares."""
    row = {f"update/{name}": value for name, value in stats.losses.items()}
    row |= {f"update/grad_norm_{name}": value for name, value in stats.grad_norms.items()}
    for name, value in stats.extra.items():
        row[name if "/" in name else f"update/{name}"] = value
    return row
