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

_WHOLE_VERSION = -1

type _Key = tuple[int, int, str, int]
"""Version, rank, actor, and what is complete at once: in `sync` mode all that the actor has for the version, in
`async` mode one episode, by its id."""


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """What one actor incarnation has delivered under one key."""

    transitions: list[Transition] = field(default_factory=list[Transition])
    episodes: list[EpisodeRecord] = field(default_factory=list[EpisodeRecord])
    expected_decisions: int | None = None

    @property
    def is_complete(self) -> bool:
        return self.expected_decisions == len(self.transitions)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenRollouts:
    """The decisions of one update, with the records of their episodes."""

    transitions: list[Transition]
    episodes: list[EpisodeRecord]


class RolloutStore:
    """Collects rollouts by version and actor until an update may consume them."""

    def __init__(self, *, actors: int, mode: str, staleness_threshold: int) -> None:
        self._ranks = range(actors)
        self._mode = mode
        self._staleness_threshold = staleness_threshold
        self._rollouts: dict[_Key, _Rollout] = {}
        self._owners: dict[tuple[int, int], str] = {}
        self._losses = 0
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
                version, episode = _identifiers(transition)
                if self._is_too_old(version):
                    self.dropped["stale"] += 1
                elif version > self._current_version:
                    self.dropped["version_from_the_future"] += 1
                elif self._is_repeat(version, episode, actor_id):
                    self.dropped["superseded"] += 1
                else:
                    self._rollout(version, rank, actor_id, episode).transitions.append(transition)
            self._ready.notify_all()

    def on_interaction(self, rank: int, actor_id: str, message: Mapping[str, Any]) -> None:
        """Accept an actor's end-of-rollout message; heartbeats only show life.

        Raises:
            TransportError: in `async` mode, the message is not about exactly one episode.
        """
        if message.get("type") != "rollout_done":
            return
        episodes = [EpisodeRecord(**episode) for episode in message["episodes"]]
        if self._mode == "async" and len(episodes) != 1:
            raise TransportError(
                f"rollout_done of rank {rank} has {len(episodes)} episodes; async mode reports each by itself"
            )
        with self._ready:
            self._last_arrival = time.monotonic()
            version = int(message["version"])
            episode = episodes[0].episode_id if episodes else _WHOLE_VERSION
            if self._is_too_old(version) or self._is_repeat(version, episode, actor_id):
                return
            rollout = self._rollout(version, rank, actor_id, episode)
            rollout.expected_decisions = int(message["decisions"])
            rollout.episodes = episodes
            self._ready.notify_all()

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        """Forget what a lost actor delivered only in part; its replacement collects it again.

        What is complete stays, under a name that the same actor cannot add to when it comes back.
        """
        with self._ready:
            self._losses += 1
            kept_as = f"{actor_id} (loss {self._losses})"
            for key in [k for k in self._rollouts if k[1:3] == (rank, actor_id)]:
                version, _, _, episode = key
                rollout = self._rollouts.pop(key)
                if rollout.is_complete:
                    self._rollouts[(version, rank, kept_as, episode)] = rollout
                    self._owners[(version, episode)] = kept_as
                else:
                    self.dropped["actor_lost"] += len(rollout.transitions)
                    self._owners.pop((version, episode), None)
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
            for owned in [k for k in self._owners if self._is_too_old(k[0])]:
                del self._owners[owned]

    def take(
        self, *, min_decisions: int, timeout_s: float, stop: threading.Event
    ) -> TakenRollouts | None:
        """Block until an update's decisions are there; None when `stop` is set meanwhile.

        `sync`: exactly one complete rollout of the current version from every rank. `async`: every complete
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

    def settled_counters(self) -> dict[str, int]:
        """`counters` as a checkpoint carries them: what is held now will be collected again."""
        with self._ready:
            row = self.counters()
            return row | {"received": row["consumed"] + row["dropped"], "held": 0}

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

    def _rollout(self, version: int, rank: int, actor_id: str, episode: int) -> _Rollout:
        unit = episode if self._mode == "async" else _WHOLE_VERSION
        return self._rollouts.setdefault((version, rank, actor_id, unit), _Rollout())

    def _is_repeat(self, version: int, episode: int, actor_id: str) -> bool:
        """Whether another actor already owns this episode (`async`; whole versions are compared when taken).

        Episodes are a function of (seed, version, rank), so a replaced actor's successor plays them again.
        """
        if self._mode != "async":
            return False
        return self._owners.setdefault((version, episode), actor_id) != actor_id

    def _is_too_old(self, version: int) -> bool:
        lag = self._current_version - version
        return lag > (self._staleness_threshold if self._mode == "async" else 0)

    def _complete_keys(self, min_decisions: int) -> list[_Key]:
        """Keys of the rollouts an update may consume now; empty while it must wait."""
        if self._mode == "async":
            complete = sorted(key for key, rollout in self._rollouts.items() if rollout.is_complete)
            held = sum(len(self._rollouts[key].transitions) for key in complete)
            return complete if held >= max(min_decisions, 1) else []
        chosen: dict[int, _Key] = {}
        for key in sorted(self._rollouts):
            version, rank, actor_id, _ = key
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

    def _consume(self, keys: Sequence[_Key]) -> TakenRollouts:
        version = self._current_version
        taken = [self._rollouts.pop(key) for key in keys]
        transitions = [t for rollout in taken for t in rollout.transitions]
        self.consumed += len(transitions)
        if self._mode == "sync":
            # What a replaced actor had delivered for this version is a second copy of the same decisions.
            for key in [k for k in self._rollouts if k[0] == version]:
                self.dropped["superseded"] += len(self._rollouts.pop(key).transitions)
        return TakenRollouts(
            transitions=transitions,
            episodes=[episode for rollout in taken for episode in rollout.episodes],
        )

    def _summary(self) -> str:
        parts = [
            f"version {v} rank {rank}: {len(r.transitions)}/{r.expected_decisions or '?'}"
            for (v, rank, *_), r in sorted(self._rollouts.items())
        ]
        return ", ".join(parts) or "nothing"


def _identifiers(transition: Transition) -> tuple[int, int]:
    """Policy version and episode id."""
    info = transition.get("complementary_info") or {}
    return int(info["pirl_version"]), int(info["pirl_episode_id"])
