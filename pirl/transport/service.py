"""LeRobot's `LearnerService`, answered: every call is checked before it does anything.

Owns what happens inside the four calls: admission, delivery, refusal, books. Refuses to know ports
and what is learned: received data goes to a `RolloutSink`. Read `pirl.transport.server` next.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import grpc
from lerobot.transport import services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks
from lerobot.utils.transition import Transition

from pirl.config.recipe import RuntimeConfig
from pirl.errors import TransportError
from pirl.transport import admission, messages, wire
from pirl.transport.admission import Handshake
from pirl.transport.board import Board
from pirl.transport.channel import EMPTY, FINISHED_KEY, PB
from pirl.transport.identity import Identity
from pirl.transport.members import Member, Members, TakenError
from pirl.transport.schema import TransitionSchema

_logger = logging.getLogger(__name__)

_MAX_HANDSHAKES = 1024


class RolloutSink(Protocol):
    """Where received data goes; called from server threads."""

    def on_transitions(
        self, rank: int, actor_id: str, transitions: Sequence[Transition], num_bytes: int
    ) -> None:
        """Transitions of one message, checked against the schema."""
        ...

    def on_interaction(self, rank: int, actor_id: str, message: Mapping[str, Any]) -> None:
        """A `rollout_done`; it may overtake its transitions. Heartbeats stay in the server."""
        ...

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        """The actor is gone; nothing of this incarnation arrives after this call."""
        ...


class LearnerService(services_pb2_grpc.LearnerServiceServicer):
    """One run's side of every call; the server drives `board`, `members` and `is_stopping`."""

    def __init__(
        self,
        ours: Identity,
        *,
        runtime: RuntimeConfig,
        schema: TransitionSchema,
        sink: RolloutSink,
        limits: wire.Limits,
    ) -> None:
        self._ours = ours
        self._runtime = runtime
        self._schema = schema
        self._sink = sink
        self._limits = limits
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()
        self._handshakes: deque[Handshake] = deque(maxlen=_MAX_HANDSHAKES)
        self.members = Members(actors=runtime.actors, on_lost=self._on_lost)
        self.board = Board()
        self.is_stopping = threading.Event()

    def count(self, **amounts: int) -> None:
        """Add to the books."""
        with self._lock:
            self._counters.update(amounts)

    def counters(self) -> dict[str, int]:
        """Accepted, refused, received and sent, by name (`docs/envelope.md`)."""
        with self._lock:
            return dict(self._counters)

    def handshakes(self) -> list[Handshake]:
        """The latest first contacts and refusals, oldest first."""
        with self._lock:
            return list(self._handshakes)

    # -- the four calls of LeRobot's LearnerService ------------------------------------------------

    def Ready(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """First contact; answers with the learner's identity as initial metadata."""
        self._admit(context, "Ready")
        context.send_initial_metadata(self._ours.to_metadata())
        return EMPTY

    def StreamParameters(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """The latest version at once, then each new one the moment it is published."""
        member = self._admit(context, "StreamParameters")
        self._attach(member, context, is_upload=False)

        def goes_on() -> bool:
            is_stopping = self.is_stopping.is_set()
            return not is_stopping and member.lost_because is None and context.is_active()

        cursor = -1
        while (publication := self.board.next_after(cursor, goes_on=goes_on)) is not None:
            yield from send_bytes_in_chunks(publication.payload, PB.Parameters)
            cursor = publication.version
            self.count(parameter_messages=1, bytes_sent=len(publication.payload))
        if member.lost_because is not None:
            _abort(context, grpc.StatusCode.ABORTED, member.lost_because)
        if not self.board.is_final:
            _abort(context, grpc.StatusCode.UNAVAILABLE, "the learner stopped before its run ended")
        context.set_trailing_metadata(((FINISHED_KEY, "1"),))

    def SendTransitions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Decisions, until the actor ends the stream."""
        member = self._admit(context, "SendTransitions")
        self._attach(member, context, is_upload=True)
        try:
            for message in wire.assemble(
                _beating(request_iterator, member),
                max_bytes=self._limits.transition_bytes,
                what="transitions",
            ):
                num_bytes = len(message)
                transitions = wire.decode_transitions(message, self._schema, limits=self._limits)
                self._deliver_transitions(member, transitions, num_bytes)
        except TransportError as error:
            self._refuse_message(member, context, error)
        return EMPTY

    def SendInteractions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Heartbeats, ends of rollouts and the goodbye, until the actor ends the stream."""
        member = self._admit(context, "SendInteractions")
        self._attach(member, context, is_upload=True)
        try:
            for raw in wire.assemble(
                _beating(request_iterator, member),
                max_bytes=self._limits.interaction_bytes,
                what="interactions",
            ):
                if messages.is_pickle(raw):
                    self.count(pickles_refused=1)
                    _logger.warning("actor %r sent a pickle; it was not loaded", member.actor_id)
                    continue
                self._deliver_interaction(member, messages.decode_interaction(raw))
        except TransportError as error:
            self._refuse_message(member, context, error)
        return EMPTY

    # -- admission ---------------------------------------------------------------------------------

    def _admit(self, context: grpc.ServicerContext, call: str) -> Member:
        """The member behind a call; ends the call when there is none."""
        try:
            member, answer = admission.admit(
                context.invocation_metadata(),
                call=call,
                ours=self._ours,
                runtime=self._runtime,
                members=self.members,
            )
        except admission.RefusedError as refusal:
            _logger.warning("%s", refusal)
            self._record(refusal.answer)
            _abort(context, refusal.code, refusal.details)
        if call == admission.FIRST_CONTACT:
            _logger.info("actor %r accepted as rank %d", member.actor_id, member.rank)
            self._record(answer)
        return member

    def _record(self, answer: Handshake) -> None:
        name = "accepted" if answer.accepted else f"refused_{answer.reason}"
        self.count(**{f"handshakes_{name}": 1})
        with self._lock:
            self._handshakes.append(answer)

    def _attach(self, member: Member, context: grpc.ServicerContext, *, is_upload: bool) -> None:
        try:
            self.members.attach(member, context, is_upload=is_upload)
        except TakenError as error:
            _abort(context, grpc.StatusCode.ABORTED, str(error))
        if not context.add_callback(lambda: self._on_call_ended(member, context)):
            self._on_call_ended(member, context)

    # -- publication and reception -----------------------------------------------------------------

    def _deliver_transitions(
        self, member: Member, transitions: Sequence[Transition], num_bytes: int
    ) -> None:
        with member.lock:
            if member.lost_because is None:
                self._sink.on_transitions(member.rank, member.actor_id, transitions, num_bytes)
                self.count(transitions_received=len(transitions), transition_messages=1)
                self.count(bytes_received=num_bytes)

    def _deliver_interaction(self, member: Member, message: dict[str, Any]) -> None:
        kind = message["type"]
        self.count(**{f"{kind}_received": 1})
        with member.lock:
            if kind == messages.GOODBYE:
                member.said_goodbye = True
            elif kind == messages.ROLLOUT_DONE and member.lost_because is None:
                if message["rank"] != member.rank:
                    raise TransportError(
                        f"rollout_done of rank {message['rank']} from rank {member.rank}"
                    )
                self._sink.on_interaction(member.rank, member.actor_id, message)

    def _refuse_message(
        self, member: Member, context: grpc.ServicerContext, error: TransportError
    ) -> NoReturn:
        """A rollout with a refused message can never be complete: give its actor up."""
        self.count(messages_refused=1)
        _logger.warning("refused a message of actor %r: %s", member.actor_id, error)
        with member.lock:
            # This call ends with its own status, not by cancellation.
            member.forget(context)
        self.members.lose(member, f"sent what no actor may send: {error}")
        _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error)[:1000])

    # -- liveness and books ------------------------------------------------------------------------

    def _on_call_ended(self, member: Member, context: grpc.ServicerContext) -> None:
        self.members.detach(member, context)
        self.board.wake()

    def _on_lost(self, rank: int, actor_id: str, reason: str) -> None:
        self.count(actors_lost=1)
        self.board.wake()
        self._sink.on_actor_lost(rank, actor_id, reason)


def _beating(pieces: Iterator[Any], member: Member) -> Iterator[Any]:
    """Every received piece is a sign of life: a long message must not look like silence."""
    for piece in pieces:
        member.seen()
        yield piece


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("gRPC's abort always raises")
