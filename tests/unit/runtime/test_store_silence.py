"""How long a learner waits counts from the last version, not from the start of the process."""

from __future__ import annotations

from types import SimpleNamespace

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
