"""Generators that are functions of what is drawn, so that resume needs no hidden random state.

Owns the mapping from (seed, integers) to a `torch.Generator`. Knows nothing of who draws.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Which draw of the learner a generator serves; part of its seed, so the numbers are fixed."""

    CRITIC_INIT = 1
    NOISE_HEAD_INIT = 2
    SHUFFLE_ADVANTAGES = 3
    MINIBATCH = 4
    VALUE_MINIBATCH = 5
    DEMO_NOISE = 6
    DEMO_ROWS = 7


def seeded_generator(seed: int, stream: Stream, *position: int) -> torch.Generator:
    """A CPU generator that depends only on its arguments (e.g. seed, stream, version, epoch)."""
    entropy = np.random.SeedSequence([seed, int(stream), *position])
    # 63 bits: torch takes a signed 64-bit seed.
    state = int(entropy.generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator().manual_seed(state)
