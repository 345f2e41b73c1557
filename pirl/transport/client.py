"""The actor's end of the link: newest parameters in, decisions out, a prompt end when it breaks.

Owns three streams and the heartbeat of one actor. Refuses to know policies and simulators. A broken
link stays broken: `reconnect` opens a new incarnation. Read `docs/envelope.md` next.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
from lerobot.transport import services_pb2_grpc
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.config.recipe import RuntimeConfig
from pirl.config.secret import with_token
from pirl.errors import LinkClosedError, PirlError, TransportError
from pirl.transport import identity, messages, status, wire
from pirl.transport.channel import EMPTY, FINISHED_KEY, PB, address_of, open_channel
from pirl.transport.contact import Contact, DamagedContactError, meet_learner, verify_learner
from pirl.transport.identity import Claims, Identity
from pirl.transport.outbox import Outbox
from pirl.transport.refusal import UNREADABLE, RefusedMessageError

_logger = logging.getLogger(__name__)

_PAUSE_S = 0.2
_OUTBOX_BYTES = 64 * 2**20
_MESSAGE_BYTES = 32 * 2**20
"""Aim for the size of one message of transitions."""


class ActorLink:
    """One actor's connection to its learner.

    Args:
        ours: the actor's identity; run id "" until the learner's is adopted.
        runtime: address, token, certificate, heartbeat and timeouts.
        rank: this actor's rank, below `runtime.actors`.
        actor_id: unique per process; None makes one.
        expected: tensors whose names, shapes and dtypes a publication must have; None takes any.
        secret: what the learner gave to this actor's incarnation before, if there was one.
        send_timeout_s: a send that finds no room for this long ends the link.
        limits: None means what `expected` needs.
    """

    def __init__(
        self,
        ours: Identity,
        *,
        runtime: RuntimeConfig,
        rank: int,
        actor_id: str | None = None,
        expected: Mapping[str, Tensor] | None = None,
        secret: str | None = None,
        send_timeout_s: float = 60.0,
        limits: wire.Limits | None = None,
    ) -> None:
        self._ours = ours
        self._runtime = with_token(runtime)
        self._rank = rank
        self.actor_id = actor_id or f"actor-{rank}-{uuid.uuid4().hex[:12]}"
        self._expected = expected
        self._send_timeout_s = send_timeout_s
        self._secret = secret
        self._limits = limits or (
            wire.DEFAULT_LIMITS if expected is None else wire.limits_of_parameters(expected)
        )
        self._changed = threading.Condition()
        self._latest: wire.ParameterMessage | None = None
        self._error: PirlError | None = None
        self._is_finished = False
        self._contact: Contact | None = None
        self._is_closing = threading.Event()
        self._channel: grpc.Channel | None = None
        self._stop: threading.Event | None = None
        self._parameter_call: Any = None
        self._uploads: dict[str, Any] = {}
        self._transitions = Outbox(max_bytes=_OUTBOX_BYTES)
        self._interactions = Outbox(max_bytes=_OUTBOX_BYTES)
        self._threads: list[threading.Thread] = []
        self.bytes_sent = 0
        self.transitions_sent = 0
        self.encode_seconds = 0.0
        """Spent on turning transitions into bytes."""

    @property
    def identity(self) -> Identity:
        """Our identity, with the learner's run id once it is known."""
        return self._ours

    def handshake(self) -> dict[str, Any]:
        """The record of this link's first contact, for evidence; empty before it."""
        if self._contact is None:
            return {}
        return {
            "unix_s": self._contact.unix_s,
            "seconds": self._contact.seconds,
            "actor_id": self.actor_id,
            "rank": self._rank,
            "learner": dict(self._contact.theirs),
        }

    @property
    def finished(self) -> bool:
        """Whether the learner said that the run is complete."""
        return self._is_finished

    # -- life --------------------------------------------------------------------------------------

    def connect(
        self, timeout_s: float | None = None, *, stop: threading.Event | None = None
    ) -> Self:
        """Meet the learner, check it and be checked, open the streams.

        Args:
            timeout_s: deadline for all of it; None means `runtime.connect_timeout_s`.
            stop: ends the wait for a learner early, and later every wait for room to send.

        Raises:
            EnvironmentNotReadyError: TLS with the learner fails.
            MismatchError: the two sides differ; every field with both values.
            LinkClosedError: no learner answered in time, or `stop` was set.
            TransportError: the learner has no room for this actor.
        """
        limit_s = self._runtime.connect_timeout_s if timeout_s is None else timeout_s
        self._stop = stop
        contact, stub = self._meet(limit_s, stop)
        self._contact = contact
        self._ours = contact.identity
        self._secret = contact.secret
        self._open_streams(stub)
        return self

    @property
    def learner_address(self) -> str:
        """Where the learner is."""
        return address_of(self._runtime, self._runtime.port)

    def reconnect(
        self, timeout_s: float | None = None, *, stop: threading.Event | None = None
    ) -> ActorLink:
        """A new link of the same actor after this one broke; what was under way is to be redone.

        Its counts go on from this one's.

        Args:
            timeout_s: deadline; None means `runtime.reconnect_s`.
            stop: ends the wait for a learner early.

        Raises:
            As `connect`; a learner of another run is a mismatch.
        """
        self.close(flush_s=0.0)
        link = ActorLink(
            self._ours,
            runtime=self._runtime,
            rank=self._rank,
            actor_id=self.actor_id,
            expected=self._expected,
            secret=self._secret,
            send_timeout_s=self._send_timeout_s,
            limits=self._limits,
        )
        link.bytes_sent, link.transitions_sent = self.bytes_sent, self.transitions_sent
        link.encode_seconds = self.encode_seconds
        return link.connect(
            self._runtime.reconnect_s if timeout_s is None else timeout_s, stop=stop
        )

    def close(self, flush_s: float = 10.0) -> None:
        """Send what waits, say goodbye, end streams and threads; a second call does nothing."""
        if self._channel is None or self._is_closing.is_set():
            return
        self._is_closing.set()
        if self._error is None and flush_s > 0:
            self._say_goodbye(flush_s)
        self._transitions.discard()
        self._interactions.discard()
        if self._parameter_call is not None:
            self._parameter_call.cancel()
        self._channel.close()
        with self._changed:
            self._error = self._error or LinkClosedError("this side closed the link")
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- parameters --------------------------------------------------------------------------------

    def wait_for_version(self, min_version: int, timeout_s: float) -> wire.ParameterMessage | None:
        """The newest published version, once it is at least `min_version`; its identity is checked.

        Returns:
            A message with `final` set when the learner said that its run is complete; None when
            nothing came within `timeout_s` and the link is whole.

        Raises:
            MismatchError: the parameters' identity differs; no tensor was handed out.
            LinkClosedError: the learner is gone.
            TransportError: the parameters are malformed.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                # First: nobody waits for what would be collected with the newest version.
                if self._is_finished:
                    return wire.ParameterMessage(
                        identity=self._ours.claims(), version=min_version, weights={}, final=True
                    )
                if self._latest is not None and self._latest.version >= min_version:
                    return self._latest
                if self._error is not None:
                    raise self._error
                left_s = end - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)

    # -- decisions and messages --------------------------------------------------------------------

    def send_transitions(self, transitions: Sequence[Transition]) -> None:
        """Queue decisions in order; long lists travel in several messages. Blocks while full.

        Raises:
            LinkClosedError: the learner is gone or takes nothing.
            MismatchError, TransportError: why the learner ended the link.
        """
        start = 0
        while start < len(transitions):
            fitting = max(1, _MESSAGE_BYTES // wire.size_of(transitions[start]))
            stop = start + min(fitting, self._limits.transitions)
            began = time.perf_counter()
            payload = wire.encode_transitions(transitions[start:stop])
            self.encode_seconds += time.perf_counter() - began
            self._put(self._transitions, payload)
            self.bytes_sent += len(payload)
            self.transitions_sent += len(transitions[start:stop])
            start = stop

    def send_interaction(self, message: Mapping[str, Any]) -> None:
        """Queue one message (`pirl.transport.messages`).

        Raises:
            As `send_transitions`; TransportError also when the message breaks the format.
        """
        self._put(self._interactions, messages.encode_interaction(dict(message)))

    # -- inside ------------------------------------------------------------------------------------

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        who = identity.caller_metadata(
            actor_id=self.actor_id,
            rank=self._rank,
            token=self._runtime.token,
            secret=self._secret,
        )
        return identity.sealed((*self._ours.to_metadata(), *who))

    def _meet(self, limit_s: float, stop: threading.Event | None) -> tuple[Contact, Any]:
        """First contact, over another connection after one that damaged it."""
        since, failures = time.monotonic(), 0
        while True:
            self._channel = open_channel(self._runtime)
            stub = services_pb2_grpc.LearnerServiceStub(self._channel)
            try:
                contact = meet_learner(
                    stub,
                    self._ours,
                    runtime=self._runtime,
                    metadata=self._metadata(),
                    limit_s=limit_s,
                    since=since,
                    is_first=not self._ours.run_id,
                    is_doubted=not failures,
                    stop=stop,
                )
                return contact, stub
            except DamagedContactError as error:
                self._channel.close()
                failures += 1
                # Each attempt says the same: the 1st, 2nd, 4th, 8th, ... are told.
                if failures.bit_count() == 1:
                    _logger.warning("%s; trying another connection (failure %d)", error, failures)
                (stop or threading.Event()).wait(_PAUSE_S)
            except PirlError:
                self._channel.close()
                raise

    def _verify(self, theirs: Claims) -> None:
        verify_learner(
            self._ours,
            theirs,
            config_identity=self._runtime.config_identity,
            where="published parameters",
        )

    def _open_streams(self, stub: Any) -> None:
        metadata = self._metadata()
        self._parameter_call = stub.StreamParameters(EMPTY, metadata=metadata)
        self._uploads = {
            "transitions": stub.SendTransitions.future(
                self._transitions.pieces(PB.Transition),
                metadata=metadata,
            ),
            "interactions": stub.SendInteractions.future(
                self._interactions.pieces(PB.InteractionMessage),
                metadata=metadata,
            ),
        }
        for name, upload in self._uploads.items():
            upload.add_done_callback(self._upload_watcher(name))
        for target, name in ((self._receive, "parameters"), (self._beat, "heartbeat")):
            thread = threading.Thread(target=target, name=f"pirl-actor-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _receive(self) -> None:
        """Body of the receiving thread: every complete publication replaces the one before."""
        with self._ends_the_link("receiving parameters"):
            call = self._parameter_call
            for message in wire.assemble(
                call, max_bytes=self._limits.parameter_bytes, what="parameters"
            ):
                self._accept(
                    wire.decode_parameters(
                        message,
                        verify=self._verify,
                        expected=self._expected,
                        limits=self._limits,
                    )
                )
            if any(key == FINISHED_KEY for key, _ in call.trailing_metadata() or ()):
                _logger.info("the learner finished its run")
                with self._changed:
                    self._is_finished = True
                    self._changed.notify_all()
                return
            raise LinkClosedError("the learner ended the parameter stream")

    @contextmanager
    def _ends_the_link(self, doing: str) -> Generator[None]:
        """Whatever ends a thread of this link ends the link with that reason, foreign errors too."""
        reason: PirlError | None = TransportError(f"{doing}: the thread died, see its traceback")
        try:
            yield
            reason = None
        except grpc.RpcError as error:
            reason = status.from_rpc_error(error, doing=doing, was_admitted=True)
        except RefusedMessageError as error:
            # Damaged on the way; whole but wrong parameters would be so again.
            is_damaged = error.reason == UNREADABLE
            reason = LinkClosedError(f"{doing}: {error}") if is_damaged else error
        except PirlError as error:
            reason = error
        finally:
            if reason is not None:
                self._fail(reason)

    def _accept(self, message: wire.ParameterMessage) -> None:
        with self._changed:
            if self._latest is not None and message.version <= self._latest.version:
                raise TransportError(
                    f"version {message.version} came after version {self._latest.version}"
                )
            self._latest = message
            self._changed.notify_all()

    def _beat(self) -> None:
        """Body of the heartbeat thread."""
        beat = messages.encode_interaction({"type": messages.HEARTBEAT})
        with self._ends_the_link("sending heartbeats"):
            while not self._is_closing.wait(self._runtime.heartbeat_s) and self._error is None:
                self._interactions.put(beat, timeout_s=self._runtime.actor_timeout_s)

    def _upload_watcher(self, name: str) -> Callable[[Any], None]:
        def on_done(upload: Any) -> None:
            code = upload.code()
            # The learner cancels a given-up actor's uploads and says why on the parameter stream.
            if self._is_closing.is_set() or code is grpc.StatusCode.CANCELLED:
                return
            self._fail(status.from_call(upload, doing=f"sending {name}", was_admitted=True))

        return on_done

    def _fail(self, error: PirlError) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()
        self._transitions.discard()
        self._interactions.discard()

    def _put(self, outbox: Outbox, payload: bytes) -> None:
        try:
            outbox.put(payload, timeout_s=self._send_timeout_s, give_up=self._is_told_to_stop)
        except LinkClosedError as error:
            if self._error is not None:
                raise self._error from error
            raise

    def _is_told_to_stop(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _say_goodbye(self, flush_s: float) -> None:
        end = time.monotonic() + flush_s
        try:
            goodbye = messages.encode_interaction({"type": messages.GOODBYE})
            self._interactions.put(goodbye, timeout_s=flush_s)
        except PirlError as error:
            _logger.warning("no goodbye: %s", error)
            return
        self._transitions.close()
        self._interactions.close()
        for name, upload in self._uploads.items():
            try:
                upload.result(timeout=max(0.1, end - time.monotonic()))
            except (grpc.RpcError, grpc.FutureTimeoutError, grpc.FutureCancelledError) as error:
                _logger.warning("the learner did not confirm the last %s: %r", name, error)
