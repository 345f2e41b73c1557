"""The optimiser of piRL: named parameter groups, learning-rate schedules, clipping per group.

Owns one AdamW, called `pi_rl`, and what scales its rates (`algorithm.md` 14.2). Refuses to know
losses and batches. Read `pirl.algorithm.update` next.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW

from pirl.config.recipe import PiRLConfig

OPTIMIZER = "pi_rl"

ACTOR_GROUPS = ("actor", "actor_no_decay", "noise_head")
"""Groups that share the schedule and one clipping norm; `critic` has its own."""

ADAPT_FACTOR = 1.5
"""`kl_adaptive` multiplies or divides by this, and reacts outside [target / 1.5, target * 1.5]."""

ADAPT_FLOOR = 0.01
"""`kl_adaptive` never goes below this share of `actor_lr`: from zero it could not come back."""

COSINE_END = 0.1
"""Share of the initial rate at which the cosine schedule ends."""


def make_optimizer(
    trained: Mapping[str, nn.Parameter],
    *,
    noise_head: nn.Module | None,
    critic: nn.Module | None,
    pirl: PiRLConfig,
    no_decay: Collection[str] = (),
) -> AdamW:
    """AdamW with groups `actor`, `actor_no_decay`, `noise_head`, `critic`, without empty ones.

    Args:
        no_decay: names of trained parameters without weight decay (`FlowPolicy.no_decay`).
    """
    tables = {n: p for n, p in trained.items() if n in no_decay}
    noise_lr = pirl.actor_lr
    if pirl.flow_noise is not None and pirl.flow_noise.noise_lr is not None:
        noise_lr = pirl.flow_noise.noise_lr
    members: dict[str, tuple[list[nn.Parameter], float, float]] = {
        "actor": (
            [p for n, p in trained.items() if n not in tables],
            pirl.actor_lr,
            pirl.weight_decay,
        ),
        "actor_no_decay": (list(tables.values()), pirl.actor_lr, 0.0),
        "noise_head": (
            [] if noise_head is None else list(noise_head.parameters()),
            noise_lr,
            pirl.weight_decay,
        ),
        "critic": (
            [] if critic is None else list(critic.parameters()),
            pirl.value_lr,
            pirl.weight_decay,
        ),
    }
    groups = [
        {"params": params, "lr": lr, "initial_lr": lr, "weight_decay": decay, "name": name}
        for name, (params, lr, decay) in members.items()
        if params
    ]
    return AdamW(groups, betas=pirl.betas, eps=pirl.eps)


def group_parameters(optimizer: AdamW, names: Iterable[str]) -> list[nn.Parameter]:
    """The parameters of the named groups, in group order."""
    wanted = set(names)
    return [
        p for group in optimizer.param_groups if group["name"] in wanted for p in group["params"]
    ]


def clip_gradients(optimizer: AdamW, *, limit: float) -> dict[str, float]:
    """Clip actor groups and critic separately; the norms before clipping.

    Keys: `actor` (joint norm of all actor groups), `critic`, and `noise_head` for its share of
    `actor`; a key is absent when no such parameter has a gradient.
    """
    joint = {"noise_head": ("noise_head",), "actor": ACTOR_GROUPS, "critic": ("critic",)}
    norms: dict[str, float] = {}
    for name, groups in joint.items():
        members = [p for p in group_parameters(optimizer, groups) if p.grad is not None]
        if not members:
            continue
        norm = nn.utils.get_total_norm([p.grad for p in members if p.grad is not None])
        norms[name] = float(norm)
        if name != "noise_head":
            nn.utils.clip_grads_with_norm_(members, limit, norm)
    return norms


@dataclass(slots=True, kw_only=True)
class RateSchedule:
    """Scale of the actor groups' learning rates; the critic's rate is constant.

    `scale` is the only state: `constant` leaves it at 1, `cosine` derives it from the update
    number, `kl_adaptive` moves it after each update.
    """

    pirl: PiRLConfig
    total_updates: int
    scale: float = 1.0

    def apply(self, optimizer: AdamW, *, update: int) -> None:
        """Set the rates for update number `update`, counted from 0."""
        if self.pirl.lr_schedule == "cosine":
            progress = min(1.0, update / max(1, self.total_updates))
            self.scale = COSINE_END + (1.0 - COSINE_END) * 0.5 * (
                1.0 + math.cos(math.pi * progress)
            )
        for group in optimizer.param_groups:
            if group["name"] in ACTOR_GROUPS:
                group["lr"] = group["initial_lr"] * self.scale

    def adapt(self, approx_kl: float | None) -> None:
        """React to the k3 estimate of a finished update; None when the actor did not train."""
        target = self.pirl.target_kl
        if self.pirl.lr_schedule != "kl_adaptive" or target is None or approx_kl is None:
            return
        if approx_kl > target * ADAPT_FACTOR:
            self.scale = max(ADAPT_FLOOR, self.scale / ADAPT_FACTOR)
        elif approx_kl < target / ADAPT_FACTOR:
            cap = math.inf if self.pirl.actor_lr_max is None else self.pirl.actor_lr_max
            self.scale = min(self.scale * ADAPT_FACTOR, cap / self.pirl.actor_lr)


def learning_rates(optimizer: AdamW) -> dict[str, float]:
    """Current rate of every group, by group name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make the optimiser leave these parameters alone: no gradient, no decay, no momentum step."""
    for parameter in parameters:
        parameter.grad = None


def swap_values(
    parameters: Mapping[str, nn.Parameter], values: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Copy `values` into `parameters` and return what they held; call again to restore."""
    held = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    return held
