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


def a_rank_without_actor(monkeypatch, *, reason=None, has_actors=False, after_s=301.0):
    """`take` of a learner whose actor went away `after_s` ago, given up for `reason` or by itself."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: clock.now))
    rollouts = RolloutStore(actors=1, mode="sync", staleness_threshold=0)
    if reason is not None:
        rollouts.on_actor_refused(0, "a", reason)
    rollouts.on_actor_lost(0, "a", "connection closed")

    def later(*_):
        clock.now += after_s
        return has_actors

    return lambda: rollouts.take(
        min_decisions=1,
        timeout_s=1800.0,
        stop=StopAfterOneLook(),
        replacement_s=300.0,
        has_actors=later,
    )


def test_nobody_is_waited_for_as_long_as_a_rollout_once_all_were_given_up(monkeypatch):
    take = a_rank_without_actor(monkeypatch, reason="log_prob")
    with pytest.raises(LinkClosedError, match="rank 0 for log_prob"):
        take()


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": None},
        {"reason": "log_prob", "has_actors": True},
        {"reason": "log_prob", "after_s": 299.0},
    ],
)
def test_who_went_by_itself_is_at_work_or_may_still_come_is_waited_for(monkeypatch, changes):
    assert a_rank_without_actor(monkeypatch, **changes)() is None


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
