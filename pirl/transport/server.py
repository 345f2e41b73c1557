"""The learner's end of the link: LeRobot's `LearnerService`, with every call checked first.

Owns admission, publication, reception and liveness. Refuses to know what is learned: received data
goes to a `RolloutSink`. Read `pirl.transport.client` next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Protocol

import grpc
from lerobot.transport import services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.config.recipe import RuntimeConfig
from pirl.errors import EnvironmentNotReadyError, TransportError
from pirl.transport import admission, channel, messages, wire
from pirl.transport.admission import Handshake
from pirl.transport.board import Board, Publication
from pirl.transport.identity import Identity
from pirl.transport.members import Member, Members, TakenError
from pirl.transport.schema import TransitionSchema

_logger = logging.getLogger(__name__)

_CONTROL_THREADS = 4
_STREAMS_PER_ACTOR = 4
"""Three long streams and one short call; LeRobot's three threads are one actor's streams."""
FINISHED_KEY = "pirl-finished"
"""Trailing metadata of a parameter stream that ended because the run is complete."""
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


class LearnerServer(services_pb2_grpc.LearnerServiceServicer):
    """Serves one run: `start`, `publish` each version, `finish` when complete, `stop`.

    Args:
        ours: the learner's identity; its run id must be set.
        runtime: host, port (0 picks a free one), token, TLS, actors, heartbeat and timeouts.
        schema: what a transition of this run looks like.
    """

    def __init__(
        self,
        ours: Identity,
        *,
        runtime: RuntimeConfig,
        schema: TransitionSchema,
        sink: RolloutSink,
        limits: wire.Limits = wire.DEFAULT_LIMITS,
    ) -> None:
        if not ours.run_id:
            raise ValueError("a learner's identity needs a run id")
        self._ours = ours
        self._runtime = runtime
        self._schema = schema
        self._sink = sink
        self._limits = limits
        self._members = Members(actors=runtime.actors, on_lost=self._on_lost)
        self._board = Board()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._counters: Counter[str] = Counter()
        self._handshakes: deque[Handshake] = deque(maxlen=_MAX_HANDSHAKES)
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._monitor: threading.Thread | None = None
        self.port = 0
        """The bound port, after `start`."""

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
            ConfigError: a bind that others can reach without a token.
            EnvironmentNotReadyError: the address cannot be bound.
        """
        channel.require_safe_bind(self._runtime)
        threads = _STREAMS_PER_ACTOR * self._runtime.actors + _CONTROL_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pirl-learner-rpc")
        server = grpc.server(
            self._pool,
            options=channel.server_options(self._runtime.heartbeat_s),
            # Beyond the pool a call would wait for ever; refuse it instead.
            maximum_concurrent_rpcs=threads,
        )
        services_pb2_grpc.add_LearnerServiceServicer_to_server(self, server)
        self.port = self._bind(server)
        server.start()
        self._server = server
        self._monitor = threading.Thread(
            target=self._watch_members, name="pirl-learner-monitor", daemon=True
        )
        self._monitor.start()
        _logger.info(
            "learner listens on %s for %d actors, run %s",
            channel.address_of(self._runtime, self.port),
            self._runtime.actors,
            self._ours.run_id,
        )
        return self.port

    def publish(self, version: int, weights: Mapping[str, Tensor]) -> int:
        """Encode one version once and wake every actor's stream; returns the bytes of the message.

        Args:
            version: higher than any published before.
            weights: trained tensors by name.
        """
        payload = wire.encode_parameters(weights, version, identity=self._ours)
        self._board.put(Publication(version=version, payload=payload))
        self._count(published_versions=1)
        return len(payload)

    def finish(self) -> None:
        """Tell every actor that the run is complete: it gets a final message without weights."""
        self._board.finalise()

    def stop(self, deadline_s: float = 10.0) -> None:
        """End all calls and free the port; whatever still runs after `deadline_s` is cut off."""
        end = time.monotonic() + deadline_s
        while self._board.is_final and self._members.alive() and time.monotonic() < end:
            time.sleep(0.02)
        self._is_stopping.set()
        self._board.wake()
        if self._server is not None:
            grace_s = max(0.0, min(1.0, end - time.monotonic()))
            self._server.stop(grace_s).wait(timeout=grace_s + 5.0)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._monitor is not None:
            self._monitor.join(timeout=5.0)

    # -- what the runtime and evidence read --------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Accepted, refused, received and sent, by name (`docs/envelope.md`)."""
        with self._lock:
            return dict(self._counters)

    def handshakes(self) -> list[Handshake]:
        """The latest first contacts and refusals, oldest first."""
        with self._lock:
            return list(self._handshakes)

    def alive_ranks(self) -> list[int]:
        """Ranks with a living actor."""
        return [member.rank for member in self._members.alive()]

    # -- the four calls of LeRobot's LearnerService ------------------------------------------------

    def Ready(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """First contact; answers with the learner's identity as initial metadata."""
        self._admit(context, "Ready")
        context.send_initial_metadata(self._ours.to_metadata())
        return channel.EMPTY

    def StreamParameters(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """The latest version at once, then each new one the moment it is published."""
        member = self._admit(context, "StreamParameters")
        self._attach(member, context)

        def goes_on() -> bool:
            is_stopping = self._is_stopping.is_set()
            return not is_stopping and member.lost_because is None and context.is_active()

        cursor = -1
        while (publication := self._board.next_after(cursor, goes_on=goes_on)) is not None:
            yield from send_bytes_in_chunks(publication.payload, channel.PB.Parameters)
            cursor = publication.version
            self._count(parameter_messages=1, bytes_sent=len(publication.payload))
        if member.lost_because is not None:
            _abort(context, grpc.StatusCode.ABORTED, member.lost_because)
        if not self._board.is_final:
            _abort(context, grpc.StatusCode.UNAVAILABLE, "the learner stopped before its run ended")
        context.set_trailing_metadata(((FINISHED_KEY, "1"),))

    def SendTransitions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Decisions, until the actor ends the stream."""
        member = self._admit(context, "SendTransitions")
        self._attach(member, context)
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
        return channel.EMPTY

    def SendInteractions(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Heartbeats, ends of rollouts and the goodbye, until the actor ends the stream."""
        member = self._admit(context, "SendInteractions")
        self._attach(member, context)
        try:
            for raw in wire.assemble(
                _beating(request_iterator, member),
                max_bytes=self._limits.interaction_bytes,
                what="interactions",
            ):
                if messages.is_pickle(raw):
                    self._count(pickles_refused=1)
                    _logger.warning("actor %r sent a pickle; it was not loaded", member.actor_id)
                    continue
                self._deliver_interaction(member, messages.decode_interaction(raw))
        except TransportError as error:
            self._refuse_message(member, context, error)
        return channel.EMPTY

    # -- admission ---------------------------------------------------------------------------------

    def _admit(self, context: grpc.ServicerContext, call: str) -> Member:
        """The member behind a call; ends the call when there is none."""
        try:
            member, answer = admission.admit(
                context.invocation_metadata(),
                call=call,
                ours=self._ours,
                runtime=self._runtime,
                members=self._members,
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
        self._count(**{f"handshakes_{name}": 1})
        with self._lock:
            self._handshakes.append(answer)

    def _attach(self, member: Member, context: grpc.ServicerContext) -> None:
        try:
            self._members.attach(member, context)
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
                self._count(transitions_received=len(transitions), transition_messages=1)
                self._count(bytes_received=num_bytes)

    def _deliver_interaction(self, member: Member, message: dict[str, Any]) -> None:
        kind = message["type"]
        self._count(**{f"{kind}_received": 1})
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
        self._count(messages_refused=1)
        _logger.warning("refused a message of actor %r: %s", member.actor_id, error)
        with member.lock:
            if context in member.calls:
                # This call ends with its own status, not by cancellation.
                member.calls.remove(context)
        self._members.lose(member, f"sent what no actor may send: {error}")
        _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error)[:1000])

    # -- liveness ----------------------------------------------------------------------------------

    def _watch_members(self) -> None:
        pause_s = max(
            0.05, min(1.0, self._runtime.heartbeat_s / 2, self._runtime.actor_timeout_s / 4)
        )
        while not self._is_stopping.wait(pause_s):
            self._members.lose_silent(self._runtime.actor_timeout_s)

    def _on_call_ended(self, member: Member, context: grpc.ServicerContext) -> None:
        self._members.detach(member, context)
        self._board.wake()

    def _on_lost(self, rank: int, actor_id: str, reason: str) -> None:
        self._count(actors_lost=1)
        self._board.wake()
        self._sink.on_actor_lost(rank, actor_id, reason)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            self._counters.update(amounts)

    def _bind(self, server: grpc.Server) -> int:
        address = channel.address_of(self._runtime, self._runtime.port)
        credentials = channel.server_credentials(self._runtime)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise EnvironmentNotReadyError(
                f"the learner cannot listen on {address}: {error}",
                remedy="end the process that holds the port, or choose another runtime.port",
            ) from error
        return port


def _beating(pieces: Iterator[Any], member: Member) -> Iterator[Any]:
    """Every received piece is a sign of life: a long message must not look like silence."""
    for piece in pieces:
        member.seen()
        yield piece


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("gRPC's abort always raises")
