"""How long each part of a gate may take: what it takes on an idle machine, times a factor for a loaded one.

Owns the one table that every wait of the gate and every task's time limit follow from. A wait ends long before
its deadline when a process that it depends on ends (`pirl.runtime.procs.wait_until`).
"""

from __future__ import annotations

from collections.abc import Mapping

LOAD_FACTOR = 8.0
"""The slowest machine seen, with many other jobs on its two cores, took four times as long; twice that again."""

EXPECTED_S: dict[str, dict[str, float]] = {
    "embedded": {
        "validation": 15.0,
        "run": 35.0,
        "rewarded-run": 0.0,
        "first-checkpoint": 20.0,
        "resumed-run": 35.0,
        "first-save": 10.0,
        "checkpoint-checks": 10.0,
        "answer": 20.0,
        "contact": 2.5,
        "refusal": 15.0,
        "pair": 15.0,
        "stop": 4.0,
    },
    "libero": {
        "validation": 40.0,
        "run": 100.0,
        "rewarded-run": 60.0,
        "first-checkpoint": 60.0,
        "resumed-run": 80.0,
        "first-save": 10.0,
        "checkpoint-checks": 15.0,
        "answer": 20.0,
        "contact": 2.5,
        "refusal": 15.0,
        "pair": 50.0,
        "stop": 4.0,
    },
}
EXPECTED_S["own"] = {
    phase: max(of[phase] for of in EXPECTED_S.values()) for phase in EXPECTED_S["libero"]
}
"""Seconds by profile and phase on an idle machine of two cores; a config of one's own has the most generous. The
deadline of a refusal is evidence and may not exceed 180 s (`pirl.audit.criteria.mismatch`)."""

_PHASES: Mapping[str, Mapping[str, int]] = {
    "validate-config": {"validation": 1},
    "smoke-run": {"run": 1, "rewarded-run": 1},
    "resume-roundtrip": {
        "first-checkpoint": 1,
        "resumed-run": 1,
        "first-save": 3,
        "checkpoint-checks": 1,
    },
    "mismatch-negative": {"answer": 3, "pair": 2, "contact": 12, "refusal": 5, "stop": 1},
}
"""How often each phase may follow another in a step; wrong peers come four at a time."""


def allowed_s(profile: str, phase: str) -> float:
    """Deadline of one wait, seconds."""
    return LOAD_FACTOR * EXPECTED_S[profile][phase]


def step_allowed_s(profile: str, step: str) -> float:
    """Time limit of a whole step, seconds: all its waits one after the other."""
    return sum(count * allowed_s(profile, phase) for phase, count in _PHASES[step].items())
