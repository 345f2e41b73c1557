"""Which actors belong to the learner right now: admission, signs of life, loss, replacement.

Owns ranks and incarnations. Refuses to know bytes, and gRPC beyond "a call that can be cancelled".
Read `pirl.transport.service` next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pirl.errors import TransportError

_logger = logging.getLogger(__name__)

_LEAVING_GRACE_S = 2.0
"""A lost member's parameter stream has this long to tell it why."""


class Call(Protocol):
    """A call in progress; gRPC's server context is one."""

    def cancel(self) -> bool | None:
        """End the call from this side."""
        ...


class FullError(TransportError):
    """The rank does not exist in this run."""


class TakenError(TransportError):
    """The rank belongs to another living actor."""


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """One incarnation of an actor. `lock` is held while data is delivered or a loss declared."""

    rank: int
    actor_id: str
    last_seen: float
    calls: list[Call] = field(default_factory=list[Call])
    """Open calls; those that send to us are also in `uploads`."""
    uploads: list[Call] = field(default_factory=list[Call])
    said_goodbye: bool = False
    lost_because: str | None = None
    lost_at: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def seen(self) -> None:
        """A sign of life."""
        self.last_seen = time.monotonic()

    def forget(self, call: Call) -> None:
        """`call` has ended or ends by itself."""
        for calls in (self.calls, self.uploads):
            if call in calls:
                calls.remove(call)


class Members:
    """The living actors by rank; at most `actors`, one per rank."""

    def __init__(self, *, actors: int, on_lost: Callable[[int, str, str], None]) -> None:
        self._actors = actors
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._by_rank: dict[int, Member] = {}
        self._lost: list[Member] = []
        self._last_sweep = time.monotonic()

    def admit(self, rank: int, actor_id: str, *, anew: bool) -> Member:
        """The member that a call belongs to, registered when it is new.

        Args:
            anew: the call opens a contact: the same actor coming back is a new incarnation, and
                what the old one delivered only in part is lost.

        Raises:
            FullError: `rank` is outside the run.
            TakenError: another living actor holds `rank`.
        """
        if not 0 <= rank < self._actors:
            raise FullError(
                f"this learner takes {self._actors} actors, ranks 0 to {self._actors - 1}; rank "
                f"{rank} is one too many. Raise runtime.actors for both sides"
            )
        with self._lock:
            current = self._by_rank.get(rank)
            if current is None:
                current = Member(rank=rank, actor_id=actor_id, last_seen=time.monotonic())
                self._by_rank[rank] = current
                return current
            if current.actor_id != actor_id:
                raise TakenError(
                    f"rank {rank} belongs to the living actor {current.actor_id!r}; stop it first, "
                    "or give this actor another rank"
                )
            if not (anew and current.calls):
                current.seen()
                return current
        # Outside the lock: a loss takes the member's lock first.
        self.lose(current, "came back in a new incarnation")
        return self.admit(rank, actor_id, anew=anew)

    def attach(self, member: Member, call: Call, *, is_upload: bool) -> None:
        """`call` shows that `member` lives for as long as it is open.

        Args:
            is_upload: the call waits for the actor, so only a cancellation ends it; other calls end
                by themselves once the member is lost, and say why.

        Raises:
            TakenError: the member was lost meanwhile.
        """
        with member.lock:
            if member.lost_because is not None:
                raise TakenError(f"actor {member.actor_id!r} was given up: {member.lost_because}")
            member.calls.append(call)
            if is_upload:
                member.uploads.append(call)
            member.seen()

    def detach(self, member: Member, call: Call) -> None:
        """`call` has ended; a member without any open call is lost."""
        with member.lock:
            member.forget(call)
            if member.calls or member.lost_because is not None:
                return
        self.lose(member, "goodbye" if member.said_goodbye else "connection closed")

    def lose(self, member: Member, reason: str) -> None:
        """Free `member`'s rank and end its calls; tells the runtime once."""
        with member.lock:
            if member.lost_because is not None:
                return
            member.lost_because = reason
            member.lost_at = time.monotonic()
            uploads = list(member.uploads)
            with self._lock:
                self._lost.append(member)
                if self._by_rank.get(member.rank) is member:
                    del self._by_rank[member.rank]
            level = logging.INFO if member.said_goodbye else logging.WARNING
            _logger.log(level, "actor %r (rank %d) left: %s", member.actor_id, member.rank, reason)
            self._on_lost(member.rank, member.actor_id, reason)
        for call in uploads:
            call.cancel()

    def sweep(self, timeout_s: float) -> None:
        """Give up members silent for `timeout_s`; cut off calls that outlive their lost member.

        A sweep that comes far too late means that this process stood still (suspended, stopped): then
        the silence was ours, and members get another `timeout_s`.
        """
        now = time.monotonic()
        stood_still = now - self._last_sweep > timeout_s / 2
        self._last_sweep = now
        if stood_still:
            _logger.warning("no sweep for %g s or more: members are not judged", timeout_s / 2)
            for member in self.alive():
                member.seen()
            return
        with self._lock:
            lost = [member for member in self._lost if member.calls]
            self._lost = lost
        for member in lost:
            if now - member.lost_at > _LEAVING_GRACE_S:
                for call in list(member.calls):
                    call.cancel()
        for member in self.alive():
            silent_s = now - member.last_seen
            if silent_s > timeout_s:
                self.lose(
                    member,
                    f"silent for {silent_s:.1f} s (runtime.actor_timeout_s = {timeout_s:g})",
                )

    def alive(self) -> list[Member]:
        """Members by rank."""
        with self._lock:
            return [self._by_rank[rank] for rank in sorted(self._by_rank)]
