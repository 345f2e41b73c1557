"""The on-policy rollout store: every decision is consumed once or dropped with a reason.

Owns versions, completeness and the counters sent = received = consumed + dropped. Called from the
server's threads (deposit) and the learner's loop (take). Why not LeRobot's `ReplayBuffer`: it converts
to float32, augments and samples with replacement (`algorithm.md` 13.4). Read `pirl.runtime.learner` next.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lerobot.utils.transition import Transition

from pirl.errors import LinkClosedError, TransportError
from pirl.records import EpisodeRecord


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """What one actor incarnation has delivered for one version."""

    transitions: list[Transition] = field(default_factory=list[Transition])
    episodes: list[EpisodeRecord] = field(default_factory=list[EpisodeRecord])
    expected_decisions: int | None = None
    metrics: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def is_complete(self) -> bool:
        return self.expected_decisions == len(self.transitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenRollouts:
    """The decisions of one update, with the episode records and actor metrics that belong to them."""

    transitions: list[Transition]
    episodes: list[EpisodeRecord]
    actor_metrics: list[dict[str, float]]
    policy_lag_max: int


class RolloutStore:
    """Collects rollouts by (version, rank, actor id) until an update may consume them."""

    def __init__(self, *, actors: int, mode: str, staleness_threshold: int) -> None:
        self._ranks = range(actors)
        self._mode = mode
        self._staleness_threshold = staleness_threshold
        self._rollouts: dict[tuple[int, int, str], _Rollout] = {}
        self._reports: list[_Rollout] = []
        self._current_version = 0
        self._last_arrival = time.monotonic()
        self._error: TransportError | None = None
        self._ready = threading.Condition()
        self.received = 0
        self.consumed = 0
        self.bytes_received = 0
        self.dropped: Counter[str] = Counter()

    # -- deposit: called from the server's threads -------------------------------------------------

    def on_transitions(
        self, rank: int, actor_id: str, transitions: Sequence[Transition], num_bytes: int
    ) -> None:
        """Accept decisions; stale or future ones are counted and dropped."""
        with self._ready:
            self._last_arrival = time.monotonic()
            self.bytes_received += num_bytes
            for transition in transitions:
                self.received += 1
                version = _version_of(transition)
                if self._is_too_old(version):
                    self.dropped["stale"] += 1
                elif version > self._current_version:
                    self.dropped["version_from_the_future"] += 1
                else:
                    self._rollout(version, rank, actor_id).transitions.append(transition)
            self._ready.notify_all()

    def on_interaction(self, rank: int, actor_id: str, message: Mapping[str, Any]) -> None:
        """Accept an actor's end-of-rollout or episode message; heartbeats only show life."""
        if message.get("type") != "rollout_done":
            return
        with self._ready:
            self._last_arrival = time.monotonic()
            version = int(message["version"])
            if self._mode == "async":
                # Episodes are admitted one by one; the report only carries their records.
                rollout = _Rollout()
                self._reports.append(rollout)
            elif self._is_too_old(version):
                return
            else:
                rollout = self._rollout(version, rank, actor_id)
            rollout.expected_decisions = int(message["decisions"])
            rollout.episodes = [EpisodeRecord(**episode) for episode in message["episodes"]]
            rollout.metrics = {k: float(v) for k, v in message.get("metrics", {}).items()}
            self._ready.notify_all()

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        """Forget what a lost actor delivered only in part; its replacement collects it again."""
        with self._ready:
            for key in [k for k in self._rollouts if k[1:] == (rank, actor_id)]:
                if not self._rollouts[key].is_complete:
                    self.dropped["actor_lost"] += len(self._rollouts.pop(key).transitions)
            self._ready.notify_all()

    def fail(self, error: TransportError) -> None:
        """Make every waiting `take` raise `error`."""
        with self._ready:
            self._error = error
            self._ready.notify_all()

    # -- take: called from the learner's loop ------------------------------------------------------

    def begin_version(self, version: int) -> None:
        """Admit decisions of `version`; called before it is published, so that none arrives too early."""
        with self._ready:
            self._current_version = version
            self._last_arrival = time.monotonic()
            for key in [k for k in self._rollouts if self._is_too_old(k[0])]:
                self.dropped["stale"] += len(self._rollouts.pop(key).transitions)

    def take(
        self, *, min_decisions: int, timeout_s: float, stop: threading.Event
    ) -> TakenRollouts | None:
        """Block until an update's decisions are there; None when `stop` is set meanwhile.

        `sync`: exactly one complete rollout of the current version from every rank. `async`: every held
        episode of an admissible version, once they have at least `min_decisions` decisions in all.

        Raises:
            LinkClosedError: nothing arrived for `timeout_s`.
            TransportError: a rollout is inconsistent.
        """
        with self._ready:
            while True:
                if self._error is not None:
                    raise self._error
                keys = self._complete_keys(min_decisions)
                if keys:
                    return self._consume(keys)
                if stop.is_set():
                    return None
                silent_s = time.monotonic() - self._last_arrival
                if silent_s > timeout_s:
                    raise LinkClosedError(
                        f"no decision for version {self._current_version} arrived for {silent_s:.0f} s "
                        f"(runtime.rollout_timeout_s = {timeout_s}); have: {self._summary()}"
                    )
                self._ready.wait(timeout=0.2)

    def counters(self) -> dict[str, int]:
        """received = consumed + dropped + held; the dropped ones by reason as well."""
        with self._ready:
            row = {
                "received": self.received,
                "consumed": self.consumed,
                "dropped": sum(self.dropped.values()),
                "held": sum(len(r.transitions) for r in self._rollouts.values()),
                "bytes_received": self.bytes_received,
            }
            return row | {f"dropped_{k}": v for k, v in sorted(self.dropped.items())}

    def restore_counters(self, counters: Mapping[str, int]) -> None:
        """Continue the counts of a checkpoint; what was held then is collected again."""
        with self._ready:
            self.consumed = counters["consumed"]
            self.bytes_received = counters["bytes_received"]
            prefix = "dropped_"
            self.dropped = Counter(
                {k.removeprefix(prefix): v for k, v in counters.items() if k.startswith(prefix)}
            )
            self.received = self.consumed + sum(self.dropped.values())

    def drop_held(self, reason: str) -> None:
        """Count everything still held as dropped, so that a finished run's books close."""
        with self._ready:
            for key in list(self._rollouts):
                self.dropped[reason] += len(self._rollouts.pop(key).transitions)

    # -- inside the lock ---------------------------------------------------------------------------

    def _rollout(self, version: int, rank: int, actor_id: str) -> _Rollout:
        return self._rollouts.setdefault((version, rank, actor_id), _Rollout())

    def _is_too_old(self, version: int) -> bool:
        lag = self._current_version - version
        return lag > (self._staleness_threshold if self._mode == "async" else 0)

    def _complete_keys(self, min_decisions: int) -> list[tuple[int, int, str]]:
        """Keys of the rollouts an update may consume now; empty while it must wait."""
        if self._mode == "async":
            held = sum(len(rollout.transitions) for rollout in self._rollouts.values())
            return sorted(self._rollouts) if held >= max(min_decisions, 1) else []
        chosen: dict[int, tuple[int, int, str]] = {}
        for key in sorted(self._rollouts):
            version, rank, actor_id = key
            rollout = self._rollouts[key]
            expected = rollout.expected_decisions
            if expected is not None and len(rollout.transitions) > expected:
                raise TransportError(
                    f"actor {actor_id} (rank {rank}) sent {len(rollout.transitions)} decisions for "
                    f"version {version} and announced {expected}"
                )
            if rollout.is_complete:
                chosen.setdefault(rank, key)
        return list(chosen.values()) if len(chosen) == len(self._ranks) else []

    def _consume(self, keys: Sequence[tuple[int, int, str]]) -> TakenRollouts:
        version = self._current_version
        taken = [self._rollouts.pop(key) for key in keys]
        transitions = [t for rollout in taken for t in rollout.transitions]
        self.consumed += len(transitions)
        if self._mode == "sync":
            reports = taken
            # What a replaced actor had delivered for this version is a second copy of the same decisions.
            for key in [k for k in self._rollouts if k[0] == version]:
                self.dropped["superseded"] += len(self._rollouts.pop(key).transitions)
        else:
            reports, self._reports = self._reports, []
        return TakenRollouts(
            transitions=transitions,
            episodes=[episode for report in reports for episode in report.episodes],
            actor_metrics=[report.metrics for report in reports],
            policy_lag_max=version - min(key[0] for key in keys),
        )

    def _summary(self) -> str:
        parts = [
            f"version {v} rank {rank}: {len(r.transitions)}/{r.expected_decisions or '?'}"
            for (v, rank, _), r in sorted(self._rollouts.items())
        ]
        return ", ".join(parts) or "nothing"


def _version_of(transition: Transition) -> int:
    info = transition.get("complementary_info") or {}
    return int(info["pirl_version"])
