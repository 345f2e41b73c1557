"""Running statistics of an update, summed over samples and turned into metrics once.

Owns the sums behind `update/*` metrics of the actor loss; the names are declared in
`pirl.journal.metrics`. Knows no network. Read `pirl.algorithm.update` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pirl.algorithm.loss import BehaviourWeight, Surrogate, k3
from pirl.journal.metrics import RATIO_EDGES


@dataclass(slots=True, kw_only=True)
class RatioStats:
    """Ratios, clipping, k3 and behaviour weights of the samples seen so far."""

    samples: int = 0
    ratio_sum: float = 0.0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    max_abs: float = 0.0
    clipped: int = 0
    dual_clipped: int = 0
    k3_sum: float = 0.0
    weight_sum: float = 0.0
    weight_max: float = 0.0
    not_admitted: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * (len(RATIO_EDGES) + 1))

    def add(self, surrogate: Surrogate, weight: BehaviourWeight, *, mask: Tensor) -> None:
        """Count the samples of one micro-batch that are in `mask`."""
        ratio = surrogate.ratio[mask].double()
        if ratio.numel() == 0:
            return
        self.samples += ratio.numel()
        self.ratio_sum += float(ratio.sum())
        self.ratio_min = min(self.ratio_min, float(ratio.min()))
        self.ratio_max = max(self.ratio_max, float(ratio.max()))
        self.max_abs = max(self.max_abs, float((ratio - 1.0).abs().max()))
        self.clipped += int(surrogate.clipped[mask].sum())
        self.dual_clipped += int(surrogate.dual_clipped[mask].sum())
        self.k3_sum += float(k3(surrogate.log_ratio[mask].double()).sum())
        self.weight_sum += float(weight.weight[mask].double().sum())
        self.weight_max = max(self.weight_max, float(weight.weight[mask].max()))
        self.not_admitted += int((~weight.admitted[mask]).sum())
        edges = torch.tensor(RATIO_EDGES, dtype=ratio.dtype, device=ratio.device)
        counts = torch.bincount(torch.bucketize(ratio, edges, right=True), minlength=len(self.bins))
        self.bins = [a + int(b) for a, b in zip(self.bins, counts.tolist(), strict=True)]

    @classmethod
    def together(cls, parts: Sequence[Mapping[str, Any]]) -> RatioStats:
        """All samples of `parts`, each what `asdict` makes of statistics."""
        whole = cls(**parts[0])
        for part in parts[1:]:
            whole.merge(cls(**part))
        return whole

    def merge(self, other: RatioStats) -> None:
        """Add the samples of `other`."""
        for name in ("samples", "ratio_sum", "clipped", "dual_clipped", "k3_sum", "weight_sum"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.not_admitted += other.not_admitted
        self.ratio_min = min(self.ratio_min, other.ratio_min)
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.max_abs = max(self.max_abs, other.max_abs)
        self.weight_max = max(self.weight_max, other.weight_max)
        self.bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]

    @property
    def approx_kl(self) -> float:
        """Mean k3 over samples, nats; 0 without samples."""
        return self.k3_sum / max(1, self.samples)

    @property
    def clip_fraction(self) -> float:
        """Share of samples at the clip."""
        return self.clipped / max(1, self.samples)

    def metrics(self) -> dict[str, float]:
        """Named metrics; empty when the actor did not train."""
        if not self.samples:
            return {}
        return {
            "ratio_mean": self.ratio_sum / self.samples,
            "ratio_min": self.ratio_min,
            "ratio_max": self.ratio_max,
            "ratio_clip_fraction": self.clip_fraction,
            "ratio_dual_clip_fraction": self.dual_clipped / self.samples,
            "behave_weight_mean": self.weight_sum / self.samples,
            "behave_weight_max": self.weight_max,
            "behave_masked_fraction": self.not_admitted / self.samples,
            **{f"ratio_bin_{index}": float(count) for index, count in enumerate(self.bins)},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far replayed log-probs are from those recorded with the same weights, in nats."""

    max_abs: float
    mean_abs: float
    decisions: int
    """Decisions of the learner's own version that were compared."""

    @classmethod
    def together(cls, parts: Sequence[Mapping[str, Any]]) -> Parity:
        """The parity of all decisions of `parts`, each what `asdict` makes of one."""
        whole = cls(**parts[0])
        for part in parts[1:]:
            whole = whole.merge(cls(**part))
        return whole

    def merge(self, other: Parity) -> Parity:
        """The parity of both sets of decisions."""
        total = self.decisions + other.decisions
        mean = self.mean_abs * self.decisions + other.mean_abs * other.decisions
        return Parity(
            max_abs=max(self.max_abs, other.max_abs),
            mean_abs=mean / max(1, total),
            decisions=total,
        )

    def metrics(self) -> dict[str, float]:
        """Named metrics; empty when nothing of this version was compared."""
        if not self.decisions:
            return {}
        return {"parity_max_abs": self.max_abs, "parity_mean_abs": self.mean_abs}


@dataclass(slots=True, kw_only=True)
class UpdateStats:
    """What one update did, for metrics and for the adaptive rate."""

    losses: dict[str, float] = field(default_factory=dict[str, float])
    grad_norms: dict[str, float] = field(default_factory=dict[str, float])
    ratio: RatioStats = field(default_factory=RatioStats)
    first: RatioStats = field(default_factory=RatioStats)
    """The first minibatch, before any optimiser step."""
    parity: Parity = field(default_factory=lambda: Parity(max_abs=0.0, mean_abs=0.0, decisions=0))
    last_epoch: RatioStats = field(default_factory=RatioStats)
    """How far the policy moved: the last epoch only."""
    minibatches: int = 0
    optimiser_steps: int = 0
    critic_steps: int = 0
    """Those of the critic epochs among them; `grad_norms` does not cover these."""
    epochs: int = 0
    value_epoch_loss: float | None = None
    noise_std: list[float] = field(default_factory=list[float])

    def add_losses(self, terms: Mapping[str, Tensor], *, train_actor: bool) -> None:
        """Add the terms of one micro-batch; actor terms only where they train."""
        for name, value in terms.items():
            if train_actor or name == "value_loss":
                self.losses[name] = self.losses.get(name, 0.0) + float(value.detach())

    def add_noise_std(self, noise_std: float) -> None:
        """Remember the mean std of one micro-batch."""
        self.noise_std.append(noise_std)

    def shared(self) -> dict[str, Any]:
        """What each process counted for its own rows, as JSON values; the rest is the same everywhere."""
        return {
            "losses": self.losses,
            "noise_std": self.noise_std,
            "value_epoch_loss": self.value_epoch_loss,
        }

    def put_together(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Replace the own share by that of all processes, each what `shared` gave there."""
        totals: dict[str, float] = dict(parts[0]["losses"])
        for part in parts[1:]:
            for name, loss in part["losses"].items():
                totals[name] = totals.get(name, 0.0) + loss
        self.losses = totals
        self.noise_std = [std for part in parts for std in part["noise_std"]]
        epochs = [part["value_epoch_loss"] for part in parts]
        self.value_epoch_loss = None if epochs[0] is None else sum(epochs[1:], epochs[0])

    @property
    def approx_kl(self) -> float | None:
        """Mean k3 over the last epoch, nats; None when nothing was measured after a step."""
        measured = self.last_epoch.samples > 0 and self.minibatches > 1
        return self.last_epoch.approx_kl if measured else None
