"""How exact a run computes, and how far two computations of the same thing may then lie apart.

Owns the modes of `pirl.precision`, CUDA's process-wide switch and every tolerance that follows from mode, device
and the std of the last step. The audit keeps thresholds of its own, which a test compares with these. Read
`pirl.policies.xvla.policy` for what is kept in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pirl.config.recipe import PRECISIONS
from pirl.contract.clauses import broken

FP32, TF32, BF16_FROZEN = PRECISIONS

_NARROW = 0.005
"""The std, in action units, that the limits below were measured with: D6's 5 mm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """Largest differences that are rounding."""

    parity: float
    """Recorded and replayed log-prob of a decision, nats (`algorithm.md` I11)."""
    ratio: float
    """Of the first ratio from one (I12)."""
    batching: float
    """A row in a batch and alone, in flow units (I20)."""
    stock: float
    """pirl's chain without noise and LeRobot's sampler, in action units."""


_CPU = Tolerances(parity=1e-3, ratio=1e-3, batching=1e-5, stock=1e-5)
_TABLE = {
    # Measured on a CPU with the tiny X-VLA, passes of other sizes than the actor's: 0 in fp32 and with bfloat16,
    # so that nothing is added for it. The limit is 3 SNR e sqrt(dims) of an fp32 ulp (docs/paper_map.md, I11).
    ("cpu", FP32): _CPU,
    ("cpu", TF32): _CPU,
    ("cpu", BF16_FROZEN): _CPU,
    # Not measured by pirl. fp32: 3.3e-5 in actions at batch 64 and .04 nats, by a third party (algorithm.md 14.3).
    # The others: what the clip range of 0.2 leaves; beyond it a recorded log-prob says nothing.
    ("cuda", FP32): Tolerances(parity=0.1, ratio=0.01, batching=1e-4, stock=1e-4),
    ("cuda", TF32): Tolerances(parity=0.2, ratio=0.05, batching=1e-3, stock=1e-3),
    ("cuda", BF16_FROZEN): Tolerances(parity=0.2, ratio=0.05, batching=1e-3, stock=1e-3),
}


def tolerances(precision: str, *, device: str, std: float = _NARROW) -> Tolerances:
    """What a mode allows on a type of device; an accelerator that is not CUDA counts as one.

    Args:
        std: the smallest of the last step: an error in the mean counts in units of it, so that less noise
            makes the same rounding a larger log-prob.
    """
    found = _TABLE["cpu" if device == "cpu" else "cuda", precision]
    scale = max(1.0, _NARROW / std)
    return replace(found, parity=scale * found.parity, ratio=scale * found.ratio)


def precision_of(policy: object) -> str:
    """The mode that a policy was built for; one that offers no other need not say fp32."""
    return str(getattr(policy, "precision", FP32))


def switch_tf32(precision: str) -> None:
    """Let CUDA round matrix products and convolutions to 10 bits of mantissa, or not; process-wide.

    LeRobot's own entry points turn it on.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == TF32
    torch.backends.cudnn.allow_tf32 = precision == TF32


def tf32_is_on() -> bool:
    """Whether either switch is on."""
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


def require_tf32(device: torch.device, precision: str) -> None:
    """Refuse a CUDA device whose switches are not those of the mode.

    Raises:
        ContractError: `precision`.
    """
    if device.type == "cuda" and tf32_is_on() != (precision == TF32):
        raise broken(
            "precision",
            value=f"TF32 {'on' if tf32_is_on() else 'off'}",
            expected=f"what pirl.precision={precision} says: recorded log-probs depend on it",
            fix="call pirl.contract.precision.switch_tf32() after LeRobot turned it on",
        )
