"""How long a learner waits counts from the last version, not from the start of the process."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from pirl.errors import LinkClosedError
from pirl.records import EpisodeRecord
from pirl.runtime import store
from pirl.runtime.store import RolloutStore


class StopAfterOneLook:
    """Set from the second time on that it is looked at."""

    def __init__(self):
        self.looks = 0

    def is_set(self):
        self.looks += 1
        return self.looks > 1


def test_a_new_version_starts_the_wait_anew(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: clock.now))
    rollouts = RolloutStore(actors=1, mode="sync", staleness_threshold=0)
    clock.now = 100.0
    rollouts.begin_version(1)
    stop = StopAfterOneLook()
    assert rollouts.take(min_decisions=1, timeout_s=10.0, stop=stop) is None
    assert stop.looks == 2


def test_what_arrived_and_is_held_starts_the_wait_anew(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: clock.now))
    rollouts = RolloutStore(actors=1, mode="sync", staleness_threshold=0)
    clock.now = 100.0
    record = EpisodeRecord(
        task_id=0,
        task="press",
        init_state_id=0,
        seed=0,
        episode_id=0,
        policy_version=0,
        env_steps=2,
        decisions=2,
        reward=1.0,
        success=True,
        truncated=False,
    )
    report = {"type": "rollout_done", "version": 0, "decisions": 2, "episodes": [asdict(record)]}
    rollouts.on_interaction(0, "a", report)
    clock.now = 109.0
    assert rollouts.take(min_decisions=1, timeout_s=10.0, stop=StopAfterOneLook()) is None
    clock.now = 111.0
    with pytest.raises(LinkClosedError, match="0/2"):
        rollouts.take(min_decisions=1, timeout_s=10.0, stop=StopAfterOneLook())
