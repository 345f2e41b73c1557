"""An actor that records a denser chain than it sampled, as a lossy link or a wrong kernel would make it."""

from __future__ import annotations

import sys
from dataclasses import replace

from pirl.algorithm.chain import LOG_PROB
from pirl.guard import run_guarded
from pirl.runtime import actor, lockstep

LIE = 0.001
"""Nats per element; a decision has about a hundred."""

_sample_chunk = lockstep.sample_chunk


def lie(*arguments, **options):
    """Sample as usual, report another log-prob."""
    sampled = _sample_chunk(*arguments, **options)
    if LOG_PROB not in sampled.fields:
        return sampled
    return replace(sampled, fields={**sampled.fields, LOG_PROB: sampled.fields[LOG_PROB] + LIE})


if __name__ == "__main__":
    lockstep.sample_chunk = lie
    sys.exit(run_guarded(actor.main, sys.argv[1:]))
