"""The on-policy rollout store: every decision is consumed once or dropped with a reason.

Owns versions, who delivered what, and the counters sent = received = consumed + dropped. Called from the
server's threads (deposit) and the learner's loop (take). What a rollout may mean is `pirl.runtime.door`.
Why not LeRobot's `ReplayBuffer`: it converts to float32, augments and samples with replacement
(`algorithm.md` 13.4). Read `pirl.runtime.learner` next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lerobot.utils.transition import Transition

from pirl.decision import EPISODE_ID, VERSION
from pirl.errors import LinkClosedError
from pirl.records import EpisodeRecord
from pirl.runtime.door import Rollout, RolloutBounds
from pirl.transport.refusal import RefusedMessageError

_WHOLE_VERSION = -1
_MAX_COPIES = 4
"""`sync`: complete rollouts of one rank for one version that are held, each of another actor incarnation."""
_MAX_OPEN = 8192
"""`async`: episodes of one actor that may be under way; announcements overtake decisions that wait."""

type _Key = tuple[int, int, str, int]
"""Version, rank, actor, and what is complete at once: in `sync` mode all that the actor has for the version, in
`async` mode one episode, by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenRollouts:
    """The decisions of one update, with the records of their episodes."""

    transitions: list[Transition]
    episodes: list[EpisodeRecord]


class RolloutStore:
    """Collects rollouts by version and actor until an update may consume them."""

    def __init__(
        self,
        *,
        actors: int,
        mode: str,
        staleness_threshold: int,
        bounds: RolloutBounds | None = None,
    ) -> None:
        self._ranks = range(actors)
        self._mode = mode
        self._staleness_threshold = staleness_threshold
        self._bounds = bounds
        self._rollouts: dict[_Key, Rollout] = {}
        self._owners: dict[tuple[int, int], str] = {}
        """`async`: who delivers, or delivered, which episode of which version."""
        self._taken: dict[_Key, Rollout] = {}
        """What the update under way works with."""
        self._used: set[_Key] = set()
        """Keys of admissible versions that an update has consumed."""
        self._refused: dict[int, str] = {}
        """Why the last actor of a rank was given up, since an update last used what was taken."""
        self._losses = 0
        self._current_version = 0
        self._begun = time.monotonic()
        self._ready = threading.Condition()
        self.received = 0
        self.consumed = 0
        self.bytes_received = 0
        self.dropped: Counter[str] = Counter()

    # -- deposit: called from the server's threads -------------------------------------------------

    def on_transitions(
        self, rank: int, actor_id: str, transitions: Sequence[Transition], num_bytes: int
    ) -> None:
        """Keep decisions; stale ones and copies of what another actor delivered are counted and dropped.

        Raises:
            RefusedMessageError: the actor may not send that; all it delivered is dropped with the reason.
        """
        with self._ready:
            self.bytes_received += num_bytes
            self.received += len(transitions)
            for place, transition in enumerate(transitions):
                try:
                    self._keep(rank, actor_id, transition)
                except RefusedMessageError as error:
                    self.dropped[error.reason] += len(transitions) - place
                    self.on_actor_refused(rank, actor_id, error.reason)
                    raise
            self._ready.notify_all()

    def on_interaction(self, rank: int, actor_id: str, message: Mapping[str, Any]) -> None:
        """Accept an actor's end-of-rollout message; heartbeats only show life.

        Raises:
            RefusedMessageError: as `on_transitions`.
        """
        if message.get("type") != "rollout_done":
            return
        records = [EpisodeRecord(**episode) for episode in message["episodes"]]
        with self._ready:
            try:
                self._announce(rank, actor_id, message, records)
            except RefusedMessageError as error:
                self.on_actor_refused(rank, actor_id, error.reason)
                raise
            self._ready.notify_all()

    def on_actor_refused(self, rank: int, actor_id: str, reason: str) -> None:
        """Discard all that an actor delivered and no update has consumed, complete or not."""
        with self._ready:
            self._refused[rank] = reason
            for key in self._keys_of(rank, actor_id):
                version, _, _, episode = key
                self.dropped[reason] += len(self._rollouts.pop(key).transitions)
                self._owners.pop((version, episode), None)
            self._ready.notify_all()

    def wait_for_room(self, rank: int, *, goes_on: Callable[[], bool]) -> None:
        """Hold up a `async` actor that is ahead of the learner; a `sync` one has a limit of its own."""
        bounds = self._bounds
        if self._mode != "async" or bounds is None:
            return
        with self._ready:
            while self._held_of(rank) >= bounds.max_held and goes_on():
                self._ready.wait(timeout=0.2)

    def owes_since(self, rank: int, actor_id: str) -> float | None:
        """Since when decisions are missing that the actor announced, or an episode's announcement."""
        with self._ready:
            owed = [
                rollout.changed
                for key in self._keys_of(rank, actor_id)
                if not (rollout := self._rollouts[key]).is_complete
                and (rollout.announced is not None or self._mode == "async")
            ]
            return min(owed, default=None)

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        """Forget what a lost actor delivered only in part; its replacement collects it again.

        What is complete stays, under a name that the same actor cannot add to when it comes back.
        """
        with self._ready:
            self._losses += 1
            kept_as = f"{actor_id} (loss {self._losses})"
            self._rename(rank, actor_id, kept_as)
            for key in self._keys_of(rank, actor_id):
                version, _, _, episode = key
                rollout = self._rollouts.pop(key)
                if rollout.is_complete:
                    self._rollouts[(version, rank, kept_as, episode)] = rollout
                    self._owners[(version, episode)] = kept_as
                else:
                    self.dropped["actor_lost"] += len(rollout.transitions)
                    self._owners.pop((version, episode), None)
            self._ready.notify_all()

    # -- take: called from the learner's loop ------------------------------------------------------

    def begin_version(self, version: int) -> None:
        """Admit decisions of `version`; called before it is published, so that none arrives too early."""
        with self._ready:
            self._current_version = version
            self._begun = time.monotonic()
            self._used = {key for key in self._used if not self._is_too_old(key[0])}
            for key in [k for k in self._rollouts if self._is_too_old(k[0])]:
                self.dropped["stale"] += len(self._rollouts.pop(key).transitions)
            for owned in [k for k in self._owners if self._is_too_old(k[0])]:
                del self._owners[owned]
            self._ready.notify_all()

    def take(
        self,
        *,
        min_decisions: int,
        timeout_s: float,
        stop: threading.Event,
        replacement_s: float = math.inf,
        has_actors: Callable[[], bool] = lambda: True,
    ) -> TakenRollouts | None:
        """Block until an update's decisions are there; None when `stop` is set meanwhile.

        They stay held until `consume` or `refuse_taken` says what became of the update.

        `sync`: exactly one complete rollout of the current version from every rank. `async`: every complete
        episode of an admissible version, once they have at least `min_decisions` decisions in all.

        Args:
            replacement_s: how long nobody may be there after an actor was given up for what it sent.
            has_actors: whether somebody is.

        Raises:
            LinkClosedError: nothing that is still held arrived for `timeout_s`, or nobody came for
                `replacement_s`.
        """
        with self._ready:
            deserted = time.monotonic()
            while True:
                keys = self._complete_keys(min_decisions)
                if keys:
                    return self._take(keys)
                if stop.is_set():
                    return None
                # Of what is held only: decisions that were dropped must not put the deadline off.
                arrivals = (rollout.changed for rollout in self._rollouts.values())
                silent_s = time.monotonic() - max((self._begun, *arrivals))
                if silent_s > timeout_s:
                    raise LinkClosedError(
                        f"no usable decision for version {self._current_version} arrived for {silent_s:.0f} s "
                        f"(runtime.rollout_timeout_s = {timeout_s}); have: {self._summary()}; "
                        f"dropped so far: {self._dropped_summary()}"
                    )
                # Whoever went away by itself may come back; who was given up has shown what its like would send.
                if not self._refused or has_actors():
                    deserted = time.monotonic()
                elif time.monotonic() - deserted > replacement_s:
                    raise LinkClosedError(
                        f"no actor is left for version {self._current_version}, and none came for "
                        f"{replacement_s:g} s (runtime.replacement_timeout_s); given up: "
                        f"{self._refused_summary()}; dropped so far: {self._dropped_summary()}"
                    )
                self._ready.wait(timeout=0.2)

    def consume(self) -> None:
        """The update with what was taken is done: every decision of it was used once."""
        with self._ready:
            self.consumed += sum(len(r.transitions) for r in self._taken.values())
            self._used.update(self._taken)
            self._taken.clear()
            self._refused.clear()
            if self._mode == "sync":
                # What a replaced actor had delivered for this version is a second copy of the same decisions.
                for key in [k for k in self._rollouts if k[0] == self._current_version]:
                    self.dropped["superseded"] += len(self._rollouts.pop(key).transitions)

    def refuse_taken(
        self, episodes: Collection[int], reason: str
    ) -> dict[tuple[int, str], list[int]]:
        """The update cannot use `episodes`: discard what their senders delivered with them, keep the rest.

        Returns:
            The refused episodes of each sender, by rank and actor.
        """
        with self._ready:
            senders: dict[tuple[int, str], list[int]] = {}
            for key, rollout in self._taken.items():
                version, rank, actor_id, unit = key
                wrong = [episode for episode in rollout.arrived if episode in episodes]
                if not wrong:
                    self._rollouts[key] = rollout
                    continue
                self.dropped[reason] += len(rollout.transitions)
                self._owners.pop((version, unit), None)
                self._refused[rank] = reason
                senders.setdefault((rank, actor_id), []).extend(wrong)
            self._taken.clear()
            return senders

    def counters(self) -> dict[str, int]:
        """received = consumed + dropped + held; the dropped ones by reason as well."""
        with self._ready:
            row = {
                "received": self.received,
                "consumed": self.consumed,
                "dropped": sum(self.dropped.values()),
                "held": sum(len(r.transitions) for r in self._all_held()),
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
            for rollout in self._all_held():
                self.dropped[reason] += len(rollout.transitions)
            self._rollouts.clear()
            self._taken.clear()

    # -- inside the lock ---------------------------------------------------------------------------

    def _keep(self, rank: int, actor_id: str, transition: Transition) -> None:
        version, episode = _identifiers(transition)
        rollout = self._open(rank, actor_id, version=version, episode=episode)
        if isinstance(rollout, str):
            self.dropped[rollout] += 1
            return
        rollout.add(transition, self._bounds)
        rollout.changed = time.monotonic()

    def _announce(
        self,
        rank: int,
        actor_id: str,
        message: Mapping[str, Any],
        records: Sequence[EpisodeRecord],
    ) -> None:
        version = int(message["version"])
        if self._mode == "async" and len(records) != 1:
            raise RefusedMessageError(
                "records",
                f"rollout_done of rank {rank} has {len(records)} episodes; async mode reports each "
                "by itself",
            )
        episode = records[0].episode_id if records else _WHOLE_VERSION
        rollout = self._open(rank, actor_id, version=version, episode=episode)
        if isinstance(rollout, str):
            return
        rollout.announce(int(message["decisions"]), records, self._bounds)
        rollout.changed = time.monotonic()

    def _open(self, rank: int, actor_id: str, *, version: int, episode: int) -> Rollout | str:
        """The rollout that a message is about; a text when it is about none that an update can use.

        Raises:
            RefusedMessageError: no actor can have acted with `version` yet, or the actor's own share of
                it is complete and was consumed.
        """
        if self._is_too_old(version):
            return "stale"
        if version > self._current_version:
            raise RefusedMessageError(
                "version_from_the_future",
                f"version {version}, the learner is at {self._current_version}",
            )
        unit = episode if self._mode == "async" else _WHOLE_VERSION
        key = (version, rank, actor_id, unit)
        if key in self._used or key in self._taken:
            raise RefusedMessageError("surplus", f"version {version} again, after it was used")
        if self._is_repeat(version, episode, actor_id) or self._is_used(version, rank):
            return "superseded"
        if key not in self._rollouts:
            if self._has_copies(version, rank):
                return "superseded"
            if len(self._keys_of(rank, actor_id)) >= _MAX_OPEN:
                raise RefusedMessageError("surplus", f"more than {_MAX_OPEN} rollouts at once")
            self._rollouts[key] = Rollout(rank=rank, version=version, changed=time.monotonic())
        return self._rollouts[key]

    def _is_used(self, version: int, rank: int) -> bool:
        """`sync`: whether the rank's rollout was consumed, which another actor had delivered."""
        return self._mode == "sync" and any(key[:2] == (version, rank) for key in self._used)

    def _has_copies(self, version: int, rank: int) -> bool:
        """`sync`: whether enough actors have delivered the whole of it; one more would only take memory."""
        if self._mode != "sync":
            return False
        held = [r for key, r in self._rollouts.items() if key[:2] == (version, rank)]
        return sum(rollout.is_complete for rollout in held) >= _MAX_COPIES

    def _rename(self, rank: int, actor_id: str, kept_as: str) -> None:
        """What an update took or used of an actor is no longer in the name that the actor comes back with."""

        def renamed(key: _Key) -> _Key:
            if key[1:3] != (rank, actor_id):
                return key
            self._owners[(key[0], key[3])] = kept_as
            return (*key[:2], kept_as, key[3])

        self._taken = {renamed(key): rollout for key, rollout in self._taken.items()}
        self._used = {renamed(key) for key in self._used}

    def _all_held(self) -> list[Rollout]:
        return [*self._rollouts.values(), *self._taken.values()]

    def _keys_of(self, rank: int, actor_id: str) -> list[_Key]:
        return [key for key in self._rollouts if key[1:3] == (rank, actor_id)]

    def _held_of(self, rank: int) -> int:
        return sum(len(r.transitions) for key, r in self._rollouts.items() if key[1] == rank)

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
            if self._rollouts[key].is_complete:
                chosen.setdefault(key[1], key)
        return list(chosen.values()) if len(chosen) == len(self._ranks) else []

    def _take(self, keys: Sequence[_Key]) -> TakenRollouts:
        self._taken = {key: self._rollouts.pop(key) for key in keys}
        taken = self._taken.values()
        return TakenRollouts(
            transitions=[t for rollout in taken for t in rollout.transitions],
            episodes=[record for rollout in taken for record in rollout.records],
        )

    def _dropped_summary(self) -> str:
        return (
            ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
            or "none"
        )

    def _refused_summary(self) -> str:
        return ", ".join(f"rank {rank} for {why}" for rank, why in sorted(self._refused.items()))

    def _summary(self) -> str:
        parts = [
            f"version {v} rank {rank}: {len(r.transitions)}/{r.announced or '?'}"
            for (v, rank, *_), r in sorted(self._rollouts.items())
        ]
        return ", ".join(parts) or "nothing"


def _identifiers(transition: Transition) -> tuple[int, int]:
    """Policy version and episode id."""
    info = transition.get("complementary_info") or {}
    return int(info[VERSION]), int(info[EPISODE_ID])
