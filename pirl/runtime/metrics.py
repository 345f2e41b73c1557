"""Episode records to metric rows. Counts first; a rate never stands without them."""

from __future__ import annotations

from collections.abc import Sequence

from pirl.records import EpisodeRecord


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
