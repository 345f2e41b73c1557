"""The clauses of the flow-policy contract, one function each.

Each returns what is wrong, or an empty string. Owns the measurements; refuses to know order,
reports and concrete policies. Read `pirl.contract.check` next.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import ContractError
from pirl.records import Context, Observation, Prediction

BATCHING_TOLERANCE = 1e-5
"""Largest difference between a row in a batch and alone, fp32 (`algorithm.md` I20)."""

PADDED_VIEW = "observation.images.empty_camera_0"
"""LeRobot's name of a view that is padding."""

_GROUPS = {"xyz", "rot6d", "joint", "gripper_logit", "other"}


@dataclass(frozen=True)
class Probe:
    """A policy and the inputs it is asked with; the same bits whenever they are read."""

    policy: FlowPolicy
    observation: Observation

    @cached_property
    def context(self) -> Context:
        """The encoded observation."""
        return self.policy.encode(self.observation)

    @cached_property
    def x(self) -> Tensor:
        """Noise of shape [B, C, D]."""
        return self.noise(0)

    @cached_property
    def t(self) -> Tensor:
        """Flow times within (0, 1], different in every row."""
        rows = len(self.observation)
        return (1 - torch.arange(rows) / (2 * rows)).to(self.policy.device)

    def noise(self, seed: int) -> Tensor:
        """Standard normal [B, C, D], a function of `seed`."""
        spec = self.policy.spec
        shape = (len(self.observation), spec.chunk_size, spec.model_dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(
            self.policy.device
        )

    def predict(self, x: Tensor) -> Prediction:
        """Prediction without a graph."""
        with torch.no_grad():
            return self.policy.predict(self.context, x, self.t)


def protocol(probe: Probe) -> str:
    """Every attribute of the protocol exists."""
    names = [name for name in vars(FlowPolicy) if not name.startswith("_")]
    missing = [name for name in names if not hasattr(probe.policy, name)]
    return f"missing: {', '.join(missing)}" if missing else ""


def spec(probe: Probe) -> str:
    """The spec is consistent in itself."""
    s = probe.policy.spec
    executed, hidden = set(s.executed_dims), set(s.hidden_gripper_dims)
    dims = set(range(s.model_dim))
    faults = {
        f"group_of_dim has {len(s.group_of_dim)} entries, model_dim = {s.model_dim}": (
            len(s.group_of_dim) == s.model_dim
        ),
        f"unknown groups {sorted(set(s.group_of_dim) - _GROUPS)}": set(s.group_of_dim) <= _GROUPS,
        f"executed_dims {s.executed_dims} not rising within 0..{s.model_dim - 1}": (
            bool(executed) and executed <= dims and list(s.executed_dims) == sorted(executed)
        ),
        f"hidden_gripper_dims {s.hidden_gripper_dims} outside the model": hidden <= dims,
        "a hidden gripper dim is not in group gripper_logit": all(
            s.group_of_dim[d] == "gripper_logit" for d in hidden if d < len(s.group_of_dim)
        ),
        f"executed_steps = {s.executed_steps}, chunk_size = {s.chunk_size}": (
            1 <= s.executed_steps <= s.chunk_size
        ),
        f"denoising_steps = {s.denoising_steps}": s.denoising_steps >= 1,
        f"env_dim = {s.env_dim}": s.env_dim >= 1,
    }
    return "; ".join(text for text, holds in faults.items() if not holds)


def eval_mode(probe: Probe) -> str:
    """No module is in train mode."""
    names = [name or "(root)" for name, m in probe.policy.module.named_modules() if m.training]
    return f"in train mode: {_some(names)}" if names else ""


def precision(probe: Probe) -> str:
    """fp32 throughout the trained part."""
    wrong = {
        name: str(p.dtype)
        for name, p in probe.policy.trained_parameters().items()
        if p.dtype != torch.float32
    }
    if wrong:
        return f"not float32: {_some([f'{name} {dtype}' for name, dtype in wrong.items()])}"
    if probe.policy.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return "TF32 matrix products are on"
    return ""


def parameters(probe: Probe) -> str:
    """Trained and frozen parameters are a partition of the module's."""
    trained, frozen = probe.policy.trained_parameters(), probe.policy.frozen_parameters()
    own = dict(probe.policy.module.named_parameters())
    claimed = {**trained, **frozen}
    faults = {
        "in both": sorted(set(trained) & set(frozen)),
        "in neither": sorted(set(own) - set(claimed)),
        "not in the module": sorted(set(claimed) - set(own)),
        "another tensor than the module's": sorted(
            name for name in set(own) & set(claimed) if own[name] is not claimed[name]
        ),
        "trained but requires_grad is off": sorted(
            name for name, p in trained.items() if not p.requires_grad
        ),
    }
    if not trained:
        return "nothing is trained"
    return "; ".join(f"{what}: {_some(names)}" for what, names in faults.items() if names)


def encode(probe: Probe) -> str:
    """Shapes and dtypes of the context."""
    policy, context, rows = probe.policy, probe.context, len(probe.observation)
    tokens, width = policy.primary_view_shape
    faults = {
        f"critic_features {tuple(context.critic_features.shape)}": (
            context.critic_features.shape == (rows, policy.critic_width)
        ),
        f"vlm_features {tuple(context.vlm_features.shape)}": (
            context.vlm_features.ndim == 3
            and len(context.vlm_features) == rows
            and context.vlm_features.shape[1] >= tokens
            and context.vlm_features.shape[2] == width
        ),
        f"aux_visual_inputs {tuple(context.aux_visual_inputs.shape)}": (
            context.aux_visual_inputs.ndim == 3 and len(context.aux_visual_inputs) == rows
        ),
        f"proprio {tuple(context.proprio.shape)}": (
            context.proprio.ndim == 2 and len(context.proprio) == rows
        ),
        f"domain_id {tuple(context.domain_id.shape)}": context.domain_id.shape == (rows,),
    }
    wrong = [text for text, holds in faults.items() if not holds]
    for name in ("vlm_features", "aux_visual_inputs", "proprio", "critic_features"):
        value: Tensor = getattr(context, name)
        if value.dtype != torch.float32:
            wrong.append(f"{name} is {value.dtype}")
        elif not bool(value.isfinite().all()):
            wrong.append(f"{name} is not finite")
    return "; ".join(wrong)


def predict(probe: Probe) -> str:
    """Shapes and dtypes of a prediction."""
    s, rows = probe.policy.spec, len(probe.observation)
    got = probe.predict(probe.x)
    expected = {
        "clean": (got.clean, (rows, s.chunk_size, s.model_dim)),
        "features": (got.features, (rows, s.chunk_size, probe.policy.feature_width)),
    }
    wrong: list[str] = []
    for name, (value, shape) in expected.items():
        if tuple(value.shape) != shape:
            wrong.append(f"{name} has shape {tuple(value.shape)}, expected {shape}")
        elif value.dtype != torch.float32:
            wrong.append(f"{name} is {value.dtype}")
        elif not bool(value.isfinite().all()):
            wrong.append(f"{name} is not finite")
    return "; ".join(wrong)


def postprocess(probe: Probe) -> str:
    """Shape of the environment chunk."""
    s = probe.policy.spec
    shape = tuple(probe.policy.postprocess(probe.x.clone()).shape)
    expected = (len(probe.observation), s.chunk_size, s.env_dim)
    return "" if shape == expected else f"shape {shape}, expected {expected}"


def postprocess_pure(probe: Probe) -> str:
    """The stored chain survives."""
    chunk = probe.x.clone()
    probe.policy.postprocess(chunk)
    dims = (chunk != probe.x).flatten(0, 1).any(dim=0).nonzero().flatten().tolist()
    return f"altered dims {dims} of its argument" if dims else ""


def encode_deterministic(probe: Probe) -> str:
    """Two encodings, equal bits."""
    names = _differing(probe.policy.encode(probe.observation), probe.context)
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
    clean = probe.policy.predict(probe.context, probe.x, probe.t).clean
    gradients = cast(
        "tuple[Tensor | None, ...]",
        torch.autograd.grad(
            (clean * probe.noise(1)).sum(), list(trained.values()), allow_unused=True
        ),
    )
    missing = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    return f"no gradient: {_some(missing)}" if missing else ""


def frozen(probe: Probe) -> str:
    """Nothing frozen can receive a gradient (I28)."""
    leaks = [n for n, p in probe.policy.frozen_parameters().items() if p.requires_grad]
    if leaks:
        return f"requires_grad is on: {_some(leaks)}"
    carried = [
        f.name
        for f in fields(probe.context)
        if f.name != "critic_features" and getattr(probe.context, f.name).requires_grad
    ]
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
    padded = probe.policy.encode(replace(probe.observation, images=images))
    names = _differing(padded, probe.policy.encode(probe.observation))
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
    return f"rows differ by up to {gap:.3g}" if not gap <= BATCHING_TOLERANCE else ""


def _differing(one: Context, two: Context) -> list[str]:
    return [
        f.name for f in fields(one) if not torch.equal(getattr(one, f.name), getattr(two, f.name))
    ]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
