"""TF32, which log-probs of metre-scale actions do not survive (`algorithm.md` 14.3).

Owns the process-wide switch. Refuses to know policies. Read `pirl.policies.xvla.policy` next.
"""

from __future__ import annotations

import torch


def turn_off_tf32() -> None:
    """Full fp32 on CUDA, process-wide; LeRobot's own entry points turn TF32 on."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def tf32_is_on() -> bool:
    """Whether CUDA may round matrix products or convolutions to 10 bits of mantissa."""
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
