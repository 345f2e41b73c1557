"""Metric rows that learner and actors share: episodes (a rate never stands without its counts), machine use."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import psutil

from pirl.records import EpisodeRecord

_MIB = 2**20


def cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    used = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def system_metrics() -> dict[str, float]:
    """CPU seconds since the start and resident memory now, simulator workers included."""
    cpu_s = cpu_seconds()
    process = psutil.Process()
    rss = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
            rss += child.memory_info().rss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            # It ended meanwhile; once it is reaped it counts among the children's usage.
            continue
        cpu_s += times.user + times.system
    return {"system/cpu_s": cpu_s, "system/rss_mib": rss / _MIB}


def episode_metrics(episodes: Sequence[EpisodeRecord]) -> dict[str, float]:
    """The `rollout/*` metrics of some episodes."""
    count = len(episodes)
    successes = sum(e.success for e in episodes)
    env_steps = sum(e.env_steps for e in episodes)
    return {
        "rollout/episodes": float(count),
        "rollout/successes": float(successes),
        "rollout/success_rate": successes / count if count else 0.0,
        "rollout/env_steps": float(env_steps),
        "rollout/mean_env_steps": env_steps / max(count, 1),
        "rollout/mean_decisions": sum(e.decisions for e in episodes) / max(count, 1),
        "rollout/mean_return": sum(e.reward for e in episodes) / max(count, 1),
    }
