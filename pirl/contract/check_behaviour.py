"""Clauses on what a policy does: determinism, gradients, what is seen and what is not.

Each returns what is wrong, or an empty string. Owns the measurements; refuses to know order and
reports. Read `pirl.contract.check` next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from pirl.contract.check_probe import Probe, differing, some
from pirl.contract.precision import precision_of, tolerances
from pirl.errors import ContractError

PADDED_VIEW = "observation.images.empty_camera_0"
"""LeRobot's name of a view that is padding."""


def postprocess_pure(probe: Probe) -> str:
    """The stored chain survives."""
    chunk = probe.x.clone()
    probe.policy.postprocess(chunk)
    dims = (chunk != probe.x).flatten(0, 1).any(dim=0).nonzero().flatten().tolist()
    return f"altered dims {dims} of its argument" if dims else ""


def encode_deterministic(probe: Probe) -> str:
    """Two encodings, equal bits."""
    names = differing(probe.policy.encode(probe.observation), probe.context)
    return f"differs between two calls: {', '.join(names)}" if names else ""


def predict_deterministic(probe: Probe) -> str:
    """Two predictions, equal bits."""
    one, two = probe.predict(probe.x), probe.predict(probe.x)
    gap = (one.clean - two.clean).abs().max()
    same = torch.equal(one.clean, two.clean) and torch.equal(one.features, two.features)
    return "" if same else f"two calls differ, clean by up to {float(gap):.3g}"


def train_mode_refused(probe: Probe) -> str:
    """Dropout can never enter a ratio."""
    accepted: list[str] = []
    probe.policy.module.train()
    try:
        for name, call in {
            "encode": lambda: probe.policy.encode(probe.observation),
            "predict": lambda: probe.predict(probe.x),
        }.items():
            try:
                call()
            except ContractError:
                continue
            accepted.append(name)
    finally:
        probe.policy.module.eval()
    return f"worked in train mode: {', '.join(accepted)}" if accepted else ""


def trained_gradient(probe: Probe) -> str:
    """Every trained parameter is in the graph of the prediction."""
    trained = probe.policy.trained_parameters()
    context = probe.context
    if probe.policy.trains_encoder:
        context = probe.policy.encode(probe.observation, gradient=True)
    clean = probe.policy.predict(context, probe.x, probe.t).clean
    gradients = cast(
        "tuple[Tensor | None, ...]",
        torch.autograd.grad(
            (clean * probe.noise(1)).sum(), list(trained.values()), allow_unused=True
        ),
    )
    missing = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    return f"no gradient: {some(missing)}" if missing else ""


def frozen(probe: Probe) -> str:
    """Nothing frozen can receive a gradient (I28)."""
    leaks = [n for n, p in probe.policy.frozen_parameters().items() if p.requires_grad]
    if leaks:
        return f"requires_grad is on: {some(leaks)}"
    carried = [name for name, value in probe.context.tensors.items() if value.requires_grad]
    return f"encoded with a graph: {', '.join(carried)}" if carried else ""


def hidden_gripper(probe: Probe) -> str:
    """Hidden channels of x are not read (I17)."""
    other = probe.x.clone()
    hidden = list(probe.policy.spec.hidden_gripper_dims)
    other[..., hidden] = probe.noise(2)[..., hidden]
    gap = (probe.predict(other).clean - probe.predict(probe.x).clean).abs().max()
    return f"dims {hidden} move the prediction by {float(gap):.3g}" if gap > 0 else ""


def visible_dims(probe: Probe) -> str:
    """All other channels of x are read, those of an unused arm included (I17)."""
    x = probe.x.clone().requires_grad_()
    clean = probe.policy.predict(probe.context, x, probe.t).clean
    (gradient,) = torch.autograd.grad((clean * probe.noise(1)).sum(), x)
    silent = (gradient == 0).flatten(0, 1).all(dim=0).nonzero().flatten().tolist()
    unread = sorted(set(silent) - set(probe.policy.spec.hidden_gripper_dims))
    return f"no effect of dims {unread}" if unread else ""


def critic_features(probe: Probe) -> str:
    """The value is a function of the observation (I44)."""
    if probe.context.critic_features.requires_grad:
        return "carries a graph"
    probe.predict(probe.noise(3))
    again = probe.policy.encode(probe.observation).critic_features
    if not torch.equal(again, probe.context.critic_features):
        return "changed by a prediction at another (x, t)"
    return ""


def padded_views(probe: Probe) -> str:
    """A padded view may hold anything (I44)."""
    images = dict(probe.observation.images)
    shape = next(iter(images.values())).shape
    images[PADDED_VIEW] = torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(4), dtype=torch.uint8
    )
    try:
        padded = probe.policy.encode(replace(probe.observation, images=images))
    except ContractError:
        # A policy that has no such views refuses them.
        return ""
    names = differing(padded, probe.policy.encode(probe.observation))
    return f"changed by {PADDED_VIEW}: {', '.join(names)}" if names else ""


def batching(probe: Probe) -> str:
    """Rows do not see each other, and each has its own flow time (I20)."""
    count = max(3, len(probe.observation))
    rows = torch.arange(count) % len(probe.observation)
    context = probe.context.index(rows.to(probe.policy.device))
    x = torch.cat([probe.noise(5 + i)[:1] for i in range(count)])
    t = (1 - torch.arange(count) / count).to(x)
    with torch.no_grad():
        together = probe.policy.predict(context, x, t).clean
        alone = torch.cat(
            [
                probe.policy.predict(
                    context.index(slice(i, i + 1)), x[i : i + 1], t[i : i + 1]
                ).clean
                for i in range(count)
            ]
        )
    gap = float((together - alone).abs().max())
    policy = probe.policy
    limit = tolerances(precision_of(policy), device=policy.device.type).batching
    return f"rows differ by up to {gap:.3g} (tolerance {limit:g})" if not gap <= limit else ""
