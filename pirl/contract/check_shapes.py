"""Clauses on what a policy is: its questions, spec, parameters, shapes and dtypes.

Each returns what is wrong, or an empty string. Owns the measurements; refuses to know order and
reports. Read `pirl.contract.check` next.
"""

from __future__ import annotations

import torch

from pirl.contract.check_probe import Probe, parts, some
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.precision import TF32, precision_of, tf32_is_on

GROUPS = {"xyz", "rot6d", "joint", "gripper_logit", "other"}
"""Channel groups that have a last-step std."""


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
        f"unknown groups {sorted(set(s.group_of_dim) - GROUPS)}": set(s.group_of_dim) <= GROUPS,
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
    return f"in train mode: {some(names)}" if names else ""


def precision(probe: Probe) -> str:
    """fp32 throughout the trained part."""
    wrong = {
        name: str(p.dtype)
        for name, p in probe.policy.trained_parameters().items()
        if p.dtype != torch.float32
    }
    if wrong:
        return f"not float32: {some([f'{name} {dtype}' for name, dtype in wrong.items()])}"
    wanted = precision_of(probe.policy) == TF32
    if probe.policy.device.type != "cuda" or tf32_is_on() == wanted:
        return ""
    return f"TF32 is {'off' if wanted else 'on'}"


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
    return "; ".join(f"{what}: {some(names)}" for what, names in faults.items() if names)


def inputs(probe: Probe) -> str:
    """The observation's further inputs, against what the policy says it reads."""
    declared, given = probe.policy.inputs, probe.observation.inputs
    if declared.keys() != given.keys():
        return f"declares {sorted(declared)}, prepares {sorted(given)}"
    wrong: list[str] = []
    for name, spec in declared.items():
        value, shape = given[name], (len(probe.observation), *spec.shape[1:])
        if value.dtype != spec.dtype or tuple(value.shape) != shape:
            found = f"{value.dtype} {tuple(value.shape)}"
            wrong.append(f"{name} is {found}, declared {spec.dtype} {shape}")
        elif spec.low is not None and bool((value < spec.low).any()):
            wrong.append(f"{name} is below {spec.low:g}")
        elif spec.high is not None and bool((value > spec.high).any()):
            wrong.append(f"{name} is above {spec.high:g}")
    unknown = sorted(set(probe.observation.images) - set(probe.policy.cameras))
    return "; ".join(wrong + ([f"no cameras of its own: {unknown}"] if unknown else []))


def encode(probe: Probe) -> str:
    """Shapes and dtypes of the context."""
    policy, context, rows = probe.policy, probe.context, len(probe.observation)
    view = policy.primary_view(context)
    faults = {
        f"critic_features {tuple(context.critic_features.shape)}": (
            context.critic_features.shape == (rows, policy.critic_width)
        ),
        f"primary view {tuple(view.shape)}": view.shape == (rows, *policy.primary_view_shape),
    } | {
        f"{name} {tuple(value.shape)}": value.ndim >= 1 and len(value) == rows
        for name, value in context.tensors.items()
    }
    wrong = [text for text, holds in faults.items() if not holds]
    for name, value in parts(context).items():
        if value.is_floating_point() and value.dtype != torch.float32:
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
