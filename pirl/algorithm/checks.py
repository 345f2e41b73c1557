"""The live checks of an update: parity, ratio one, everything finite. A violation stops the run.

Owns the decision that numbers are wrong and the text that says which part differs
(`algorithm.md` I11, I12). Repairs nothing. Read `pirl.algorithm.update` next.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pirl.algorithm.diagnostics import Parity, RatioStats
from pirl.algorithm.log_prob import recorded_log_prob, reduce_log_prob
from pirl.algorithm.loss import rows_like
from pirl.algorithm.networks import Networks, replay
from pirl.algorithm.prepare import Prepared
from pirl.decision import CHUNK_INDEX, DENOISE_INDEX, EPISODE_ID, VERSION
from pirl.errors import NumericsError, ParityError
from pirl.hooks import disabled


def require_parity(
    nets: Networks,
    prepared: Prepared,
    replayed: Tensor,
    *,
    rows: Tensor,
    tolerance: float,
) -> Parity:
    """Replayed log-prob equals the recorded one for every decision of the learner's own version.

    Args:
        replayed: samples of `rows`, [R, ...], under the weights the update starts from.
        tolerance: largest |replayed - recorded| per sample, nats.

    Raises:
        ParityError: decisions were altered, or made from other inputs or weights. Names the worst
            one, its denoising step, both values and the part that differs.
        NumericsError: the learner's own replay does not repeat itself.
    """
    behaviour = prepared.behaviour[rows]
    fresh = prepared.sample_mask[rows] & rows_like(prepared.lag[rows] == 0, behaviour)
    gap = torch.where(fresh, (replayed - behaviour).abs(), torch.zeros_like(behaviour)).detach()
    count = int(fresh.sum())
    if count == 0:
        return Parity(max_abs=0.0, mean_abs=0.0, decisions=0)
    # NaN compares false with everything: ask for "within", not for "beyond".
    if not bool((gap <= tolerance).all()) and not disabled("parity"):
        per_row = torch.nan_to_num(gap, nan=torch.inf).flatten(1).amax(dim=1)
        place = int(per_row.argmax())
        row = int(rows[place])
        said = (
            f"replayed log-prob differs from the recorded one by {float(per_row[place]):.3g} nats "
            f"(tolerance {tolerance:g})\n  {_describe(prepared, row)}\n"
            f"  recorded {_shown(behaviour[place])}, replayed {_shown(replayed[place])}\n  differs: "
        )
        own = _own_fault(nets, prepared, row=row, tolerance=tolerance)
        if own:
            raise NumericsError(said + own)
        part = _altered_part(nets, prepared, row=row, tolerance=tolerance)
        raise ParityError(said + part, gaps=_gaps(prepared, rows, per_row, tolerance=tolerance))
    return Parity(
        max_abs=float(gap.max()),
        mean_abs=float(gap.double().sum()) / count,
        decisions=int(fresh.flatten(1).any(dim=1).sum()),
    )


def require_ratio_one(stats: RatioStats, *, tolerance: float) -> None:
    """Before the first optimiser step every ratio is one (`algorithm.md` I12).

    Raises:
        NumericsError: some ratio is further from one than `tolerance`.
    """
    if stats.samples and not stats.max_abs <= tolerance and not disabled("parity"):
        raise NumericsError(
            f"ratio is off by {stats.max_abs:.3g} before the first optimiser step "
            f"(tolerance {tolerance:g})\n"
            "  differs: the gradient pass and the anchor pass of the same weights; "
            "dropout, autocast or a kernel that depends on gradient mode"
        )


def require_finite(named: Mapping[str, Tensor], *, what: str) -> None:
    """Every tensor is finite.

    Raises:
        NumericsError: names the first tensor that is not.
    """
    for name, value in named.items():
        if not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise NumericsError(f"{what} {name}: {bad} of {value.numel()} values are not finite")


def _describe(prepared: Prepared, row: int) -> str:
    fields = prepared.fields
    episode, chunk = int(fields[EPISODE_ID][row]), int(fields[CHUNK_INDEX][row])
    step = f"k={int(fields['pirl_denoise_idx'][row])}" if DENOISE_INDEX in fields else "all k"
    version = int(fields[VERSION][row])
    where = f"decision: row {row}, episode {episode}, chunk {chunk}, {step}"
    return f"{where}, acted under version {version}"


def _shown(values: Tensor) -> str:
    flat = values.detach().reshape(-1)
    head = ", ".join(f"{float(v):.6g}" for v in flat[:4])
    return head if flat.numel() <= 4 else f"{head}, ... ({flat.numel()} samples)"


def _gaps(
    prepared: Prepared, rows: Tensor, per_row: Tensor, *, tolerance: float
) -> dict[int, float]:
    """The largest gap of every episode that is beyond the tolerance somewhere."""
    found: dict[int, float] = {}
    episodes = prepared.fields[EPISODE_ID].reshape(-1)[rows]
    for episode, gap in zip(episodes.tolist(), per_row.tolist(), strict=True):
        if gap > tolerance:
            found[episode] = max(found.get(episode, 0.0), gap)
    return found


def _own_fault(nets: Networks, prepared: Prepared, *, row: int, tolerance: float) -> str:
    """What of this side makes a replay differ, found by replaying the worst decision alone; or nothing."""
    training = [name for name, m in nets.policy.module.named_modules() if m.training]
    if training:
        first = training[0] or "the policy"
        return f"dropout: {len(training)} modules are in train mode, first {first}"
    rows = torch.tensor([row], device=prepared.lag.device)
    fields = {name: value[rows] for name, value in prepared.fields.items()}
    recorded, mask = recorded_log_prob(nets.policy.spec, nets.pirl, fields)
    with torch.no_grad():
        once = replay(nets, prepared.context, prepared.fields, rows=rows)
        again = replay(nets, prepared.context, prepared.fields, rows=rows)
    if not torch.equal(once.log_prob, again.log_prob):
        return "dropout or another random module: two replays of one decision disagree"
    sample_gap = reduce_log_prob(once.log_prob - recorded, mask=mask, level=nets.pirl.logprob_level)
    if bool((sample_gap.value.abs() <= tolerance).all()):
        return (
            "kernels: replayed alone the decision agrees, so the result depends on the batch size"
        )
    return ""


def _altered_part(nets: Networks, prepared: Prepared, *, row: int, tolerance: float) -> str:
    """Which part of the worst decision differs from what its actor recorded."""
    rows = torch.tensor([row], device=prepared.lag.device)
    fields = {name: value[rows] for name, value in prepared.fields.items()}
    recorded, mask = recorded_log_prob(nets.policy.spec, nets.pirl, fields)
    with torch.no_grad():
        once = replay(nets, prepared.context, prepared.fields, rows=rows)
    gap = (once.log_prob - recorded).abs()
    counted = int(mask.sum())
    off = int((gap > tolerance / max(1, counted)).sum())
    place = [int(i) for i in torch.unravel_index(gap.argmax(), gap.shape)]
    worst = (
        f"sample {place[1]}, row {place[2]}, dim {place[3]}: recorded "
        f"{float(recorded[tuple(place)]):.6g}, replayed {float(once.log_prob[tuple(place)]):.6g}"
    )
    if off <= counted // 4:
        return (
            f"chain fields: {off} of {counted} elements disagree ({worst}); the recorded states or "
            "log-probs of this decision were altered"
        )
    return (
        f"context or weights: {off} of {counted} elements disagree ({worst}); the learner sees "
        "another observation, other weights or another dtype than the actor did"
    )
