"""The learner's end of the link: bind, publish each version once, watch the actors, end in order.

Owns the port, the thread pool and the monitor. Refuses to know what a call does: that is
`pirl.transport.service`. Read `pirl.transport.client` for the other end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from torch import Tensor

from pirl.config.recipe import RuntimeConfig
from pirl.config.secret import with_token
from pirl.errors import EnvironmentNotReadyError
from pirl.transport import channel, wire
from pirl.transport.admission import Handshake
from pirl.transport.board import Publication
from pirl.transport.identity import RUN_ID, Identity, is_run_id
from pirl.transport.members import CALLS_PER_MEMBER
from pirl.transport.refusal import RefusedMessageError
from pirl.transport.schema import TransitionSchema
from pirl.transport.service import LearnerService, RolloutSink, call_handlers

_logger = logging.getLogger(__name__)

_CONTROL_THREADS = 8
_WAITING_CALLS = 1024
"""Calls that may wait for a thread. None holds one for long without being a member's."""


class LearnerServer:
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
        if not is_run_id(ours.run_id):
            raise ValueError(f"a learner's run id is a name like {RUN_ID.pattern}")
        self._ours = ours
        self._runtime = runtime = with_token(runtime)
        self._service = LearnerService(
            ours, runtime=runtime, schema=schema, sink=sink, limits=limits
        )
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
        # A living incarnation of every rank, and one that is being told why it was given up.
        threads = 2 * CALLS_PER_MEMBER * self._runtime.actors + _CONTROL_THREADS
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pirl-learner-rpc")
        server = grpc.server(
            self._pool,
            options=channel.server_options(self._runtime.heartbeat_s),
            maximum_concurrent_rpcs=threads + _WAITING_CALLS,
        )
        server.add_generic_rpc_handlers((call_handlers(self._service),))
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
        self._service.board.put(Publication(version=version, payload=payload))
        self._service.count(published_versions=1)
        return len(payload)

    def refuse_actor(self, rank: int, actor_id: str, error: RefusedMessageError) -> None:
        """Give an actor up for what it sent; it is told the reason and is not let in again."""
        self._service.refuse_actor(rank, actor_id, error)

    def finish(self) -> None:
        """Tell every actor that the run is complete: it gets a final message without weights."""
        self._service.board.finalise()

    def stop(self, deadline_s: float = 10.0) -> None:
        """End all calls and free the port; whatever still runs after `deadline_s` is cut off."""
        end = time.monotonic() + deadline_s
        while (
            self._service.board.is_final
            and self._service.members.alive()
            and time.monotonic() < end
        ):
            time.sleep(0.02)
        self._service.is_stopping.set()
        self._service.board.wake()
        if self._server is not None:
            grace_s = max(0.0, min(1.0, end - time.monotonic()))
            self._server.stop(grace_s).wait(timeout=grace_s + 5.0)
        if self._pool is not None:
            # Handlers end by themselves now; waiting for one that hangs would have no deadline.
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._monitor is not None:
            self._monitor.join(timeout=5.0)

    # -- what the runtime and evidence read --------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Accepted, refused, received and sent, by name (`docs/envelope.md`)."""
        return self._service.counters()

    def handshakes(self) -> list[Handshake]:
        """The latest first contacts and refusals, oldest first."""
        return self._service.handshakes()

    def alive_ranks(self) -> list[int]:
        """Ranks with a living actor."""
        return [member.rank for member in self._service.members.alive()]

    # -- inside ------------------------------------------------------------------------------------

    def _watch_members(self) -> None:
        pause_s = max(
            0.05, min(1.0, self._runtime.heartbeat_s / 2, self._runtime.actor_timeout_s / 4)
        )
        while not self._service.is_stopping.wait(pause_s):
            self._service.members.sweep(self._runtime.actor_timeout_s)
            self._service.give_up_debtors(self._runtime.actor_timeout_s)

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
