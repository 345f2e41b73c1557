"""Which coordinates of a chunk are noised, and whose density counts.

Owns the masks of `algorithm.md` 7 (channels per step, executed rows, interventions) and the
per-channel std of the last step (section 3.9). Refuses to know densities and networks. Read
`pirl.algorithm.transition` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.config.recipe import LastStepStd, PiRLConfig
from pirl.decision import INTERVENTION, VALID_STEPS
from pirl.errors import ContractError, FieldError
from pirl.records import ActionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMasks:
    """Which elements of recorded decisions enter the log-prob; S stored steps per decision."""

    step: Bool[Tensor, "B S E D"]
    """Gaussian factors, per stored step."""
    gripper: Bool[Tensor, "B E D"]
    """Bernoulli factors; False everywhere unless `gripper_mode` is `bernoulli`."""
    sample: Bool[Tensor, "B J E D"]
    """Elements of each log-prob sample: a step (J = S), or their union in Flow-Noise (J = 1)."""


def density_coordinates(spec: ActionSpec, pirl: PiRLConfig) -> Bool[Tensor, "K C D"]:
    """M_k: coordinates whose Gaussian density enters the log-prob at step k (`algorithm.md` 7.1).

    Pose channels of executed rows at every step; hidden gripper channels only at the last step,
    because the network never reads them before, and only in `gripper_mode=last_step`.
    """
    mask = torch.zeros(spec.denoising_steps, spec.chunk_size, spec.model_dim, dtype=torch.bool)
    mask[:, : spec.executed_steps, list(spec.pose_dims)] = True
    if pirl.gripper_mode == "last_step":
        mask[-1, : spec.executed_steps, list(spec.gripper_dims)] = True
    return mask


def noise_coordinates(spec: ActionSpec, pirl: PiRLConfig) -> Bool[Tensor, "K C D"]:
    """Coordinates that receive noise at a stochastic step k; always includes M_k.

    With `noise_on_unused` all of them, as RLinf does, except gripper entries that would be executed
    at the last step without a density.
    """
    density = density_coordinates(spec, pirl)
    if not pirl.noise_on_unused:
        return density
    noise = torch.ones_like(density)
    executed_gripper = (slice(spec.executed_steps), list(spec.gripper_dims))
    noise[-1][executed_gripper] = density[-1][executed_gripper]
    return noise


def last_step_std(spec: ActionSpec, stds: LastStepStd) -> Float[Tensor, " D"]:
    """Std of the last step per channel in its own action unit, fp64 (`algorithm.md` 3.9)."""
    return torch.tensor([getattr(stds, group) for group in spec.group_of_dim], dtype=torch.float64)


def decision_masks(
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    step: Int64[Tensor, "B S"],
    fields: Mapping[str, Tensor],
) -> DecisionMasks:
    """Masks of recorded decisions, a function of the sample alone: old and new log-prob share them.

    Reads `pirl_valid_steps` and `is_intervention` from `fields` where present: rows that were never
    executed are dropped by the rule of `algorithm.md` 7.3, and a chunk that a human executed is
    dropped whole.

    Args:
        step: denoising index of each stored step.
    """
    device = step.device
    rows = spec.executed_steps
    density = density_coordinates(spec, pirl)[:, :rows].to(device)[step]
    executed = _executed_rows(spec, fields, step)
    keep = ~_drops_rows(spec, pirl, step)[..., None] | executed[:, None]
    gaussian = density & keep[..., None]
    gripper = torch.zeros_like(density[:, 0])
    if pirl.gripper_mode == "bernoulli":
        gripper[..., list(spec.gripper_dims)] = True
        last = torch.full_like(step[:, :1], spec.denoising_steps - 1)
        keep_last = ~_drops_rows(spec, pirl, last) | executed
        gripper &= keep_last[..., None]
    if INTERVENTION in fields:
        by_policy = (fields[INTERVENTION].to(device) == 0)[:, None, None]
        gaussian &= by_policy[..., None]
        gripper &= by_policy
    sample = gaussian.any(dim=1, keepdim=True) if pirl.is_flow_noise else gaussian.clone()
    sample[:, -1] |= gripper
    return DecisionMasks(step=gaussian, gripper=gripper, sample=sample)


def _executed_rows(
    spec: ActionSpec, fields: Mapping[str, Tensor], step: Int64[Tensor, "B S"]
) -> Bool[Tensor, "B E"]:
    rows = torch.arange(spec.executed_steps, device=step.device)
    if VALID_STEPS not in fields:
        return torch.ones(step.shape[0], len(rows), dtype=torch.bool, device=step.device)
    return rows < fields[VALID_STEPS].to(step.device)[:, None]


def _drops_rows(
    spec: ActionSpec, pirl: PiRLConfig, step: Int64[Tensor, "B S"]
) -> Bool[Tensor, "B S"]:
    """Whether unexecuted rows leave the mask at each step.

    Before the last step they stay under `auto`: executed rows depend on them through later passes.
    """
    rule = pirl.mask_unexecuted_rows
    if rule == "always" or pirl.logprob_level != "chunk":
        return torch.ones_like(step, dtype=torch.bool)
    if rule == "never":
        return torch.zeros_like(step, dtype=torch.bool)
    return step == spec.denoising_steps - 1


def require_hidden_gripper(spec: ActionSpec, pirl: PiRLConfig) -> None:
    """A Bernoulli gripper needs an executed gripper channel that is a logit.

    Raises:
        ContractError: the action mode has none.
    """
    if pirl.gripper_mode == "bernoulli" and not spec.gripper_dims:
        clause = FieldError(
            field="pirl.gripper_mode",
            value=pirl.gripper_mode,
            expected=f"an executed gripper logit; action mode {spec.action_mode} has none",
            fix="set pirl.gripper_mode to last_step",
        )
        raise ContractError([clause])
