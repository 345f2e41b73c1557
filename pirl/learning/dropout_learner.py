"""A learner whose dropout eval mode cannot turn off: the control that the live parity check must stop.

`python -m pirl.learning.dropout_learner` takes the arguments of `pirl.learner`. X-VLA's transformer, for one,
carries dropout 0.1; with it the replayed log-prob is another random number than the recorded one, and PPO's ratio
means nothing (`algorithm.md` D9, I13). The flags that the eval-mode guard reads look right here on purpose.
"""

from __future__ import annotations

import sys
from itertools import takewhile
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pirl.contract.flow_policy import FlowPolicy
from pirl.guard import run_guarded
from pirl.runtime import learner
from pirl.runtime.session import Session, build_session


class _StuckDropout(nn.Module):
    """Dropout that ignores `eval()`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Zero entries of `x` with probability p, always."""
        return F.dropout(x, self.p, training=True)


def stick_dropout(policy: FlowPolicy) -> int:
    """Replace every active dropout among what trains; how many there were."""
    names = [name.split(".")[:-1] for name in policy.trained_parameters()]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    trained = policy.module.get_submodule(".".join(parts[0] for parts in shared))
    found = [
        (parent, name, child.p)
        for parent in trained.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Dropout) and child.p > 0
    ]
    for parent, name, p in found:
        setattr(parent, name, _StuckDropout(p))
    return len(found)


def build(*args: Any, **options: Any) -> Session:
    """As `build_session`, with dropout stuck on.

    Any: whatever `build_session` takes.
    """
    session = build_session(*args, **options)
    stick_dropout(session.policy)
    return session


if __name__ == "__main__":
    sys.exit(run_guarded(lambda argv: learner.main(argv, build=build), sys.argv[1:]))
