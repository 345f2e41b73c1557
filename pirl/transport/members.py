"""Which actors belong to the learner right now: secrets, signs of life, loss, replacement.

Owns ranks and incarnations. A first contact hands out a secret and takes up no room; the rank belongs
to the first incarnation that opens a call with its secret. Refuses to know bytes, and gRPC beyond "a
call that can be cancelled". Read `pirl.transport.service` next.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pirl.errors import TransportError
from pirl.transport.refusal import RefusalLog

_logger = logging.getLogger(__name__)

_LEAVING_GRACE_S = 2.0
"""A lost member's parameter stream has this long to tell it why."""

CALLS_PER_MEMBER = 4
"""Three long streams and one short call; more of one incarnation are refused."""

_MAX_ENDED = 4096
"""Incarnations that were given up for good and are remembered."""


class Call(Protocol):
    """A call in progress; gRPC's server context is one."""

    def cancel(self) -> bool | None:
        """End the call from this side."""
        ...


class FullError(TransportError):
    """The rank does not exist in this run."""


class TakenError(TransportError):
    """The rank belongs to another living actor."""


class StrangerError(TransportError):
    """The call carries no secret that this learner gave to this actor."""


class GivenUpError(TransportError):
    """The incarnation was given up; its actor has to make contact again."""


class CrowdedError(TransportError):
    """The incarnation has as many calls open as it may."""


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """One incarnation of an actor. `lock` is held while data is delivered or a loss declared."""

    rank: int
    actor_id: str
    incarnation: str
    """The public half of its secret."""
    last_seen: float
    last_decision_piece: float = 0.0
    """When a piece of a transition message arrived last, or could have."""
    is_held_up: bool = False
    """Its decisions wait for room at the learner."""
    calls: list[Call] = field(default_factory=list[Call])
    """Open calls; those that send to us are also in `uploads`."""
    uploads: list[Call] = field(default_factory=list[Call])
    said_goodbye: bool = False
    lost_because: str | None = None
    refused: str = ""
    """Short name of what it sent wrong, when that is why it was lost."""
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
        self._log = RefusalLog(_logger)
        self._key = secrets.token_bytes(32)
        self._by_rank: dict[int, Member] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Why an incarnation was given up, for the latest ones."""
        self._lost: list[Member] = []
        self._last_sweep = time.monotonic()

    def contact(self, rank: int, actor_id: str, secret: str | None) -> str:
        """A secret for a new incarnation of an actor; nothing is taken up until it is used.

        Args:
            secret: of the incarnation before, if there was one. It proves that a living member of the
                same name is the caller's own predecessor; what that one delivered only in part is lost.

        Raises:
            FullError: `rank` is outside the run.
            TakenError: a living actor holds `rank`, and the caller is not its successor.
        """
        self._require_rank(rank)
        with self._lock:
            current = self._by_rank.get(rank)
        if current is not None:
            proven = self._incarnation_of(rank, actor_id, secret)
            if current.actor_id != actor_id or proven != current.incarnation:
                raise _taken(rank)
            # Outside the lock: a loss takes the member's lock first.
            self.lose(current, "came back in a new incarnation")
        incarnation = secrets.token_hex(8)
        return f"{incarnation}.{self._seal(rank, actor_id, incarnation)}"

    def admit(self, rank: int, actor_id: str, secret: str | None) -> Member:
        """The member that a call belongs to, registered when it is the first of its incarnation.

        Raises:
            FullError: `rank` is outside the run.
            StrangerError: `secret` was not given to this actor by this learner.
            GivenUpError: its incarnation is over.
            TakenError: another living actor holds `rank`.
        """
        self._require_rank(rank)
        incarnation = self._incarnation_of(rank, actor_id, secret)
        if incarnation is None:
            raise StrangerError("no valid actor secret; `Ready` hands one out")
        with self._lock:
            if incarnation in self._ended:
                raise GivenUpError(f"this actor was given up: {self._ended[incarnation]}")
            current = self._by_rank.get(rank)
            if current is None:
                current = Member(
                    rank=rank,
                    actor_id=actor_id,
                    incarnation=incarnation,
                    last_seen=time.monotonic(),
                )
                self._by_rank[rank] = current
            if current.incarnation != incarnation:
                raise _taken(rank)
            current.seen()
            return current

    def attach(self, member: Member, call: Call, *, is_upload: bool) -> None:
        """`call` shows that `member` lives for as long as it is open.

        Args:
            is_upload: the call waits for the actor, so only a cancellation ends it; other calls end
                by themselves once the member is lost, and say why.

        Raises:
            GivenUpError: the member was lost meanwhile.
            CrowdedError: it has `CALLS_PER_MEMBER` calls open.
        """
        with member.lock:
            if member.lost_because is not None:
                raise GivenUpError(f"this actor was given up: {member.lost_because}")
            if len(member.calls) >= CALLS_PER_MEMBER:
                raise CrowdedError(f"an actor may have {CALLS_PER_MEMBER} calls open")
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
        reason = "goodbye" if member.said_goodbye else "connection closed"
        # A client that opens its calls one after the other goes on with the same secret.
        self.lose(member, reason, for_good=False)

    def lose(
        self, member: Member, reason: str, *, for_good: bool = True, is_logged: bool = False
    ) -> None:
        """Free `member`'s rank and end its calls; tells the runtime once.

        Args:
            for_good: its secret is worthless from now on.
            is_logged: whoever calls has said so already.
        """
        with member.lock:
            if member.lost_because is not None:
                return
            member.lost_because = reason
            member.lost_at = time.monotonic()
            uploads = list(member.uploads)
            with self._lock:
                self._lost.append(member)
                if for_good:
                    self._ended[member.incarnation] = reason
                    if len(self._ended) > _MAX_ENDED:
                        self._ended.popitem(last=False)
                if self._by_rank.get(member.rank) is member:
                    del self._by_rank[member.rank]
            level = logging.INFO if member.said_goodbye else logging.WARNING
            if not is_logged:
                # By rank, so that one who comes and goes does not hide that another one left.
                text = f"actor {member.actor_id!r} (rank {member.rank}) left: {reason}"
                self._log.line(f"left {member.rank}", text, level=level)
            self._on_lost(member.rank, member.actor_id, reason)
        for call in uploads:
            call.cancel()
        self._cut_off(max_leaving=self._actors)

    def _cut_off(self, *, max_leaving: int) -> None:
        """End the calls of lost members that had their time, or that are too many at once."""
        now = time.monotonic()
        with self._lock:
            self._lost = [member for member in self._lost if member.calls]
            leaving = list(self._lost)
        for place, member in enumerate(reversed(leaving)):
            if place >= max_leaving or now - member.lost_at > _LEAVING_GRACE_S:
                for call in list(member.calls):
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
                member.last_decision_piece = now
            return
        self._cut_off(max_leaving=self._actors)
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

    def _require_rank(self, rank: int) -> None:
        if not 0 <= rank < self._actors:
            raise FullError(
                f"this learner takes {self._actors} actors, ranks 0 to {self._actors - 1}; rank "
                f"{rank} is one too many. Raise runtime.actors for both sides"
            )

    def _incarnation_of(self, rank: int, actor_id: str, secret: str | None) -> str | None:
        """The incarnation that `secret` was handed out for; None when it was not, or to another actor."""
        incarnation, _, seal = (secret or "").partition(".")
        expected = self._seal(rank, actor_id, incarnation)
        return incarnation if hmac.compare_digest(seal.encode(), expected.encode()) else None

    def _seal(self, rank: int, actor_id: str, incarnation: str) -> str:
        text = f"{rank}/{incarnation}/{actor_id}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _taken(rank: int) -> TakenError:
    return TakenError(
        f"rank {rank} belongs to another living actor; stop it first, or give this actor another rank"
    )
