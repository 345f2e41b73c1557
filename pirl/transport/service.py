"""LeRobot's `LearnerService`, answered: every call is checked before it does anything.

Owns what happens inside the four calls: admission, delivery, refusal, books. Refuses to know ports
and what is learned: received data goes to a `RolloutSink`. Read `pirl.transport.server` next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from pirl.transport.channel import EMPTY, FINISHED_KEY, PB, REFUSED_KEY
from pirl.transport.identity import SECRET_KEY, Identity, sealed
from pirl.transport.members import CrowdedError, GivenUpError, Member, Members
from pirl.transport.refusal import UNREADABLE, RefusalLog, RefusedMessageError, reason_of
from pirl.transport.schema import TransitionSchema

_logger = logging.getLogger(__name__)

_SERVICE = "transport.LearnerService"
_MAX_ACCEPTED = 1024
_MAX_REFUSED = 256
_MAX_DETAILS = 1000


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

    def on_actor_refused(self, rank: int, actor_id: str, reason: str) -> None:
        """The actor sent what no actor may send: whatever it delivered and nobody used is discarded.

        Args:
            reason: a short name; `on_actor_lost` follows.
        """
        ...

    def on_actor_lost(self, rank: int, actor_id: str, reason: str) -> None:
        """The actor is gone; nothing of this incarnation arrives after this call."""
        ...

    def wait_for_room(self, rank: int, *, goes_on: Callable[[], bool]) -> None:
        """Hold the caller up while more of `rank` is held than a rollout needs, as long as `goes_on`."""
        ...

    def owes_since(self, rank: int, actor_id: str) -> float | None:
        """Monotonic time since when decisions are missing that the actor announced; None if none are."""
        ...


def call_handlers(service: LearnerService) -> grpc.GenericRpcHandler:
    """LeRobot's four calls as gRPC handlers.

    The requests of `Ready` and `StreamParameters` are empty. Served as streams of requests nobody
    waits for them, so a peer that never sends its request occupies no thread: the metadata alone
    decides, at once.
    """
    empty, done = PB.Empty.FromString, PB.Empty.SerializeToString
    table = {
        "Ready": grpc.stream_unary_rpc_method_handler(service.Ready, empty, done),
        "StreamParameters": grpc.stream_stream_rpc_method_handler(
            service.StreamParameters, empty, PB.Parameters.SerializeToString
        ),
        "SendTransitions": grpc.stream_unary_rpc_method_handler(
            service.SendTransitions, PB.Transition.FromString, done
        ),
        "SendInteractions": grpc.stream_unary_rpc_method_handler(
            service.SendInteractions, PB.InteractionMessage.FromString, done
        ),
    }
    return grpc.method_handlers_generic_handler(_SERVICE, table)


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
        # Apart, so that a flood of refusals cannot push out the record of an actor that was let in.
        self._accepted: deque[Handshake] = deque(maxlen=_MAX_ACCEPTED)
        self._refused: deque[Handshake] = deque(maxlen=_MAX_REFUSED)
        self._refusals = RefusalLog(_logger)
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
            return sorted([*self._accepted, *self._refused], key=lambda answer: answer.unix_s)

    # -- the four calls of LeRobot's LearnerService ------------------------------------------------

    def Ready(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """First contact; answers with the learner's identity and the actor's secret as metadata."""
        try:
            caller = self._identify(context, "Ready")
            secret, answer = admission.contact(caller, self.members)
        except admission.RefusedError as refusal:
            self._turn_away(context, refusal)
        text = f"actor {caller.actor_id!r} may come in as rank {caller.rank}"
        self._refusals.line(f"contact {caller.rank}", text, level=logging.INFO)
        self._record(answer)
        context.send_initial_metadata(sealed((*self._ours.to_metadata(), (SECRET_KEY, secret))))
        return EMPTY

    def StreamParameters(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """The latest version at once, then each new one the moment it is published."""
        member = self._admit(context, "StreamParameters")
        self._attach(member, context, is_upload=False)

        goes_on = self._goes_on(member, context)
        cursor = -1
        while (publication := self.board.next_after(cursor, goes_on=goes_on)) is not None:
            yield from send_bytes_in_chunks(publication.payload, PB.Parameters)
            cursor = publication.version
            self.count(parameter_messages=1, bytes_sent=len(publication.payload))
        if member.lost_because is not None:
            code = grpc.StatusCode.ABORTED
            _abort(context, code, member.lost_because, refused=member.refused)
        if not self.board.is_final:
            _abort(context, grpc.StatusCode.UNAVAILABLE, "the learner stopped before its run ended")
        context.set_trailing_metadata(((FINISHED_KEY, "1"),))

    def SendTransitions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Decisions, until the actor ends the stream."""
        member = self._admit(context, "SendTransitions")
        self._attach(member, context, is_upload=True)
        with self._blamed(member, context):
            for message in wire.assemble(
                _beating(request_iterator, member, is_decision=True),
                max_bytes=self._limits.transition_bytes,
                what="transitions",
            ):
                num_bytes = len(message)
                transitions = wire.decode_transitions(message, self._schema, limits=self._limits)
                self._hold_up(member, context)
                self._deliver_transitions(member, transitions, num_bytes)
        return EMPTY

    def SendInteractions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Heartbeats, ends of rollouts and the goodbye, until the actor ends the stream."""
        member = self._admit(context, "SendInteractions")
        self._attach(member, context, is_upload=True)
        with self._blamed(member, context):
            for raw in wire.assemble(
                _beating(request_iterator, member),
                max_bytes=self._limits.interaction_bytes,
                what="interactions",
            ):
                if messages.is_pickle(raw):
                    self.count(pickles_refused=1)
                    self._refusals.line("pickle", "an actor sent a pickle; it was not loaded")
                    continue
                self._deliver_interaction(member, messages.decode_interaction(raw))
        return EMPTY

    # -- admission ---------------------------------------------------------------------------------

    def _identify(self, context: grpc.ServicerContext, call: str) -> admission.Caller:
        return admission.identify(
            context.invocation_metadata(), call=call, ours=self._ours, runtime=self._runtime
        )

    def _admit(self, context: grpc.ServicerContext, call: str) -> Member:
        """The member behind a call; ends the call when there is none."""
        try:
            return admission.admit(self._identify(context, call), self.members)
        except admission.RefusedError as refusal:
            self._turn_away(context, refusal)

    def _turn_away(
        self, context: grpc.ServicerContext, refusal: admission.RefusedError
    ) -> NoReturn:
        self._refusals.line(refusal.answer.reason, str(refusal))
        self._record(refusal.answer)
        refused = refusal.answer.reason if refusal.is_final else ""
        _abort(context, refusal.code, refusal.details, refused=refused)

    def _record(self, answer: Handshake) -> None:
        name = "accepted" if answer.accepted else f"refused_{answer.reason}"
        self.count(**{f"handshakes_{name}": 1})
        with self._lock:
            (self._accepted if answer.accepted else self._refused).append(answer)

    def _attach(self, member: Member, context: grpc.ServicerContext, *, is_upload: bool) -> None:
        try:
            self.members.attach(member, context, is_upload=is_upload)
        except GivenUpError as error:
            _abort(context, grpc.StatusCode.ABORTED, str(error), refused=member.refused)
        except CrowdedError as error:
            self._refusals.line("crowded", str(error))
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
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
                    raise RefusedMessageError(
                        "rank", f"rollout_done of rank {message['rank']} from rank {member.rank}"
                    )
                self._sink.on_interaction(member.rank, member.actor_id, message)

    @contextmanager
    def _blamed(self, member: Member, context: grpc.ServicerContext) -> Generator[None]:
        """Whatever goes wrong with a message costs the actor that sent it, and nobody else."""
        try:
            yield
        except TransportError as error:
            self._blame(member, context, error)
            _abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                str(error)[:_MAX_DETAILS],
                refused=member.refused,
            )
        except grpc.RpcError:
            # The connection ended; `_on_call_ended` does the rest.
            raise
        except Exception as error:
            # A message that no check foresaw. The traceback goes to the log, the actor goes away.
            text = f"{type(error).__name__} while reading a message"
            self._blame(member, context, TransportError(text))
            raise

    def _blame(self, member: Member, context: grpc.ServicerContext, error: TransportError) -> None:
        """A rollout with a refused message can never be complete: give its actor up."""
        reason = reason_of(error)
        self.count(messages_refused=1, **{f"messages_refused_{reason}": 1})
        self._refusals.line(
            f"message {reason}", f"refused a message of rank {member.rank}: {error}"
        )
        with member.lock:
            # This call ends with its own status, not by cancellation.
            member.forget(context)
            self._give_up(member, reason, f"sent what no actor may send: {error}")

    def _give_up(self, member: Member, reason: str, text: str) -> None:
        """In one step, so that nothing of the member is delivered in between."""
        with member.lock:
            if member.lost_because is None:
                member.refused = "" if reason == UNREADABLE else reason
                self._sink.on_actor_refused(member.rank, member.actor_id, reason)
                self.members.lose(member, text[:_MAX_DETAILS], is_logged=True)

    def _goes_on(self, member: Member, context: grpc.ServicerContext) -> Callable[[], bool]:
        """Whether somebody waits for what a call is about to do."""

        def goes_on() -> bool:
            is_stopping = self.is_stopping.is_set()
            return not is_stopping and member.lost_because is None and context.is_active()

        return goes_on

    def _hold_up(self, member: Member, context: grpc.ServicerContext) -> None:
        """Let the stream wait while the runtime holds enough of this actor; it is no debtor meanwhile."""
        member.is_held_up = True
        self._sink.wait_for_room(member.rank, goes_on=self._goes_on(member, context))
        member.last_decision_piece = time.monotonic()
        member.is_held_up = False

    def refuse_actor(self, rank: int, actor_id: str, error: RefusedMessageError) -> None:
        """Give an actor up whose messages the runtime found wrong after it had taken them.

        The rank may be another actor's by now, and that one goes on.
        """
        self.count(messages_refused=1, **{f"messages_refused_{error.reason}": 1})
        for member in self.members.alive():
            if (member.rank, member.actor_id) == (rank, actor_id):
                self._give_up(member, error.reason, f"sent what no actor may send: {error}")

    def give_up_debtors(self, timeout_s: float) -> None:
        """Give up actors that announced decisions and have sent no piece of them for `timeout_s`."""
        now = time.monotonic()
        for member in self.members.alive():
            since = self._sink.owes_since(member.rank, member.actor_id)
            if since is None or member.is_held_up:
                continue
            if now - max(since, member.last_decision_piece) <= timeout_s:
                continue
            text = f"announced decisions that did not come for {timeout_s:g} s"
            self.count(messages_refused=1, messages_refused_missing=1)
            self._refusals.line("message missing", f"rank {member.rank} {text}")
            self._give_up(member, "missing", f"{text} (runtime.actor_timeout_s)")

    # -- liveness and books ------------------------------------------------------------------------

    def _on_call_ended(self, member: Member, context: grpc.ServicerContext) -> None:
        self.members.detach(member, context)
        self.board.wake()

    def _on_lost(self, rank: int, actor_id: str, reason: str) -> None:
        self.count(actors_lost=1)
        self.board.wake()
        self._sink.on_actor_lost(rank, actor_id, reason)


def _beating(pieces: Iterator[Any], member: Member, *, is_decision: bool = False) -> Iterator[Any]:
    """Every received piece is a sign of life: a long message must not look like silence."""
    for piece in pieces:
        member.seen()
        if is_decision:
            member.last_decision_piece = member.last_seen
        yield piece


def _abort(
    context: grpc.ServicerContext, code: grpc.StatusCode, details: str, *, refused: str = ""
) -> NoReturn:
    """End a call. `refused`, a short name, tells the actor that another try is useless."""
    if refused:
        context.set_trailing_metadata(((REFUSED_KEY, refused),))
    context.abort(code, details)
    raise AssertionError("gRPC's abort always raises")
