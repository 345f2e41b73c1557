"""From Gaussian steps to the log-prob of a decision, and the only reductions of it.

Owns the joint log-prob of Flow-Noise, the Bernoulli gripper, entropy, KL and the reductions of
`algorithm.md` 6, 7.2, 7.4 and 10.3. Refuses to know networks and samplers. Read
`pirl.algorithm.chain` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pirl.algorithm import gaussian
from pirl.algorithm.gaussian import GaussianStep
from pirl.algorithm.mask import DecisionMasks, decision_masks
from pirl.algorithm.recording import RecordedSteps, recorded_step_index
from pirl.algorithm.transition import flow_noise_settings
from pirl.config.recipe import PiRLConfig
from pirl.decision import LOG_PROB, LOG_PROB_LAST, LOG_PROB_MASK
from pirl.errors import ContractError, FieldError
from pirl.records import ActionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedLogProb:
    """Log-prob of recorded decisions, and what losses and checks need of it."""

    log_prob: Float[Tensor, "B J E D"]
    """Per element, nats, 0 where `mask` is False; not reduced."""
    mask: Bool[Tensor, "B J E D"]
    entropy: Float[Tensor, "B J"]
    """Gaussian entropy per masked element, nats; in Flow-Noise averaged over the K+1 terms."""
    mean: Float[Tensor, "B S E D"]
    std: Float[Tensor, "B S E D"]
    """1 where `step_mask` is False."""
    step_mask: Bool[Tensor, "B S E D"]
    last_share: Float[Tensor, "B E D"]
    """What the last denoising step contributes to `log_prob[:, -1]`; 0 unless Flow-Noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedLogProb:
    """A log-prob at one level: `chunk` [B, J], `action` [B, J, E] or `token` [B, J, E, D]."""

    value: Tensor
    mask: Tensor
    """True where any element of the reduced group is in the mask."""


def score_steps(
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    steps: RecordedSteps,
    law: GaussianStep,
    gripper_logit: Float[Tensor, "B E G"] | None,
    masks: DecisionMasks,
) -> ReplayedLogProb:
    """Log-prob of recorded transitions under `law` ([B, S, C, D]).

    Flow-SDE: each stored step is a sample (J = S). Flow-Noise: log N(x_0; 0, I) plus all K steps,
    summed, or divided by K+1 under `joint_reduction=mean` (J = 1).

    Raises:
        NumericsError: a masked coordinate has no density or the result is not finite.

    Source: `algorithm.md` 6, 7.2, 7.4.
    """
    rows = spec.executed_steps
    mean, std = law.mean[:, :, :rows], law.std[:, :, :rows]
    per_step = gaussian.log_density(
        steps.x_next[:, :, :rows], GaussianStep(mean=mean, std=std), mask=masks.step
    )
    safe_std = torch.where(masks.step, std, torch.ones_like(std))
    entropy = _masked_mean(gaussian.entropy(safe_std), masks.step)
    last = _bernoulli_log_prob(spec, steps.gripper, gripper_logit, like=per_step[:, -1])
    last = torch.where(masks.gripper, last, torch.zeros_like(last))
    if pirl.is_flow_noise:
        terms = spec.denoising_steps + 1
        scale = 1 / terms if flow_noise_settings(pirl).joint_reduction == "mean" else 1.0
        start = steps.initial[:, :rows]
        unit = GaussianStep(mean=torch.zeros_like(start), std=torch.ones_like(start))
        initial = gaussian.log_density(start, unit, mask=masks.step[:, 0])
        last_share = (per_step[:, -1] + last) * scale
        log_prob = ((initial + per_step[:, :-1].sum(dim=1)) * scale + last_share)[:, None]
        initial_entropy = _masked_mean(gaussian.entropy(unit.std), masks.step[:, 0])
        entropy = ((initial_entropy + entropy.sum(dim=1)) / terms)[:, None]
    else:
        last_share = torch.zeros_like(last)
        log_prob = torch.cat([per_step[:, :-1], (per_step[:, -1] + last)[:, None]], dim=1)
    return ReplayedLogProb(
        log_prob=log_prob,
        mask=masks.sample,
        entropy=entropy,
        mean=mean,
        std=safe_std,
        step_mask=masks.step,
        last_share=last_share,
    )


def recorded_log_prob(
    spec: ActionSpec, pirl: PiRLConfig, fields: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "B J E D"], Bool[Tensor, "B J E D"]]:
    """The behaviour log-prob that the actor stored, under the mask of what was really executed.

    The actor scores a chunk before it knows how many rows will run; this removes the rest exactly
    as `replay_log_prob` does, so the two are comparable element by element.

    Raises:
        ContractError: an element of the mask was not scored by the actor.
    """
    stored, scored = fields[LOG_PROB], fields[LOG_PROB_MASK]
    if stored.ndim == 3:
        stored, scored = stored[:, None], scored[:, None]
    step = recorded_step_index(spec, pirl, fields)
    mask = decision_masks(spec, pirl, step=step, fields=fields).sample
    if bool((mask & ~scored).any()):
        clause = FieldError(
            field=LOG_PROB_MASK,
            value=f"{int((mask & ~scored).sum())} elements missing",
            expected="every element of the recipe's mask scored by the actor",
            fix="run actor and learner with the same recipe",
        )
        raise ContractError([clause])
    if pirl.is_flow_noise:
        full = decision_masks(spec, pirl, step=step, fields={})
        real = decision_masks(spec, pirl, step=step, fields=fields)
        dropped = (full.step[:, -1] | full.gripper) & ~(real.step[:, -1] | real.gripper)
        stored = stored - (fields[LOG_PROB_LAST] * dropped)[:, None]
    return torch.where(mask, stored, torch.zeros_like(stored)), mask


def reduce_log_prob(
    log_prob: Float[Tensor, "B J E D"], *, mask: Bool[Tensor, "B J E D"], level: str
) -> ReducedLogProb:
    """Sum of per-element log-probs at a level; never a mean, which would rescale the clip range.

    Args:
        level: `chunk` sums rows and dims, `action` sums dims, `token` sums nothing.

    Raises:
        ContractError: unknown level.

    Source: `algorithm.md` 7.4.
    """
    if level == "token":
        return ReducedLogProb(value=log_prob, mask=mask)
    if level == "action":
        return ReducedLogProb(value=log_prob.sum(dim=-1), mask=mask.any(dim=-1))
    if level == "chunk":
        return ReducedLogProb(value=log_prob.sum(dim=(-2, -1)), mask=mask.flatten(2).any(dim=-1))
    clause = FieldError(
        field="pirl.logprob_level",
        value=level,
        expected="chunk, action or token",
        fix="set pirl.logprob_level to one of them",
    )
    raise ContractError([clause])


def step_kl(current: ReplayedLogProb, reference: ReplayedLogProb) -> Float[Tensor, "B S"]:
    """Exact KL of each stored step from `reference`, summed over masked elements, in nats.

    Source: `algorithm.md` 10.3.
    """
    divergence = gaussian.kl_divergence(
        GaussianStep(mean=current.mean, std=current.std),
        GaussianStep(mean=reference.mean, std=reference.std),
    )
    return (divergence * current.step_mask).sum(dim=(-2, -1))


def _bernoulli_log_prob(
    spec: ActionSpec,
    gripper: Float[Tensor, "B E G"] | None,
    logit: Float[Tensor, "B E G"] | None,
    *,
    like: Float[Tensor, "B E D"],
) -> Float[Tensor, "B E D"]:
    """log Bernoulli(gripper; sigmoid(logit)) on the gripper channels, 0 elsewhere."""
    result = torch.zeros_like(like)
    if gripper is None or logit is None:
        return result
    # logsigmoid of the signed logit: exact for both outcomes, no log of a rounded 0.
    signed = torch.where(gripper > 0, logit, -logit)
    dims = torch.tensor(spec.gripper_dims, device=like.device)
    return result.index_copy(-1, dims, functional.logsigmoid(signed))


def _masked_mean(
    value: Float[Tensor, "*lead E D"], mask: Bool[Tensor, "*lead E D"]
) -> Float[Tensor, "*lead"]:
    """Mean over masked elements; 0 where none is."""
    counted = mask.sum(dim=(-2, -1)).clamp(min=1)
    return (value * mask).sum(dim=(-2, -1)) / counted
