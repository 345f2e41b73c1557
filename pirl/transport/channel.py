"""gRPC options and addresses that learner and actors share.

Owns keepalive, message limits, credentials and the loopback rule. Knows no calls. Read
`pirl.transport.server` and `pirl.transport.client` next.
"""

from __future__ import annotations

import ipaddress
import resource
import ssl
from pathlib import Path
from typing import Any

import grpc
from lerobot.transport import services_pb2
from lerobot.transport.utils import MAX_MESSAGE_SIZE

from pirl.config.recipe import RuntimeConfig
from pirl.config.strictjson import read_bytes
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError

type Option = tuple[str, int]

PB: Any = services_pb2
"""LeRobot's generated messages; protobuf adds the classes at import, unseen by type checkers."""
EMPTY: Any = PB.Empty()

FINISHED_KEY = "pirl-finished"
"""Trailing metadata of a parameter stream that ended because the run is complete."""

REFUSED_KEY = "pirl-refused"
"""Trailing metadata of a refusal that another try would meet again: its short name."""


_MIN_PING_TIMEOUT_S = 2.0

HANDSHAKE_S = 10.0
"""A connection that has not begun to speak (TLS, HTTP/2) by then is closed by the learner."""
_IDLE_S = 60.0
"""So is one without a call; that of an actor always has some."""
_MANY = 10_000
"""Connections; each actor needs one."""

_MAX_PEM_BYTES = 4 * 2**20
"""The authorities that a whole distribution trusts have 0.2 MB."""


def ping_timeout_s(heartbeat_s: float) -> float:
    """A peer that answers no ping for this long is gone: two heartbeats, at least two seconds."""
    return max(2 * heartbeat_s, _MIN_PING_TIMEOUT_S)


def _common_options(heartbeat_s: float) -> list[Option]:
    """Limits and keepalive: a frozen or unreachable peer ends every call of its connection.

    gRPC waits `ping_timeout_ms` (a minute by default) for an answer whatever `keepalive_timeout_ms`
    says, so both are set.
    """
    beat_ms = max(100, int(heartbeat_s * 1000))
    timeout_ms = int(ping_timeout_s(heartbeat_s) * 1000)
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_SIZE),
        ("grpc.max_send_message_length", MAX_MESSAGE_SIZE),
        ("grpc.keepalive_time_ms", beat_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def server_options(heartbeat_s: float) -> list[Option]:
    """Options of the learner's server.

    gRPC shares a bound port between processes by default, so a second learner would silently take
    half of the first one's actors; and it drops clients that ping as often as a heartbeat.
    """
    return [
        *_common_options(heartbeat_s),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 50),
        ("grpc.http2.max_ping_strikes", 0),
        # Anybody can connect. What occupies a file descriptor must say something soon, and never take the ones
        # that checkpoints need.
        ("grpc.max_allowed_incoming_connections", _most_connections()),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
        ("grpc.max_connection_idle_ms", int(_IDLE_S * 1000)),
    ]


def _most_connections() -> int:
    """Half of the files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY if soft == resource.RLIM_INFINITY else min(_MANY, max(1, soft // 2))


def client_options(heartbeat_s: float) -> list[Option]:
    """Options of an actor's channel.

    A proxy from the environment would be used for loopback too; retries would repeat a stream; and
    the default reconnection pause grows to two minutes.
    """
    return [
        *_common_options(heartbeat_s),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def address_of(runtime: RuntimeConfig, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    host = f"[{runtime.host}]" if ":" in runtime.host else runtime.host
    return f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe_bind(runtime: RuntimeConfig) -> None:
    """What a learner must have before it listens; `runtime.token` is already looked up.

    Raises:
        ConfigError: `runtime.host` is not loopback and there is no token or no TLS, or TLS is set
            by half.
    """
    errors: list[FieldError] = []
    is_open = not is_loopback(runtime.host)
    if is_open and not runtime.token:
        errors.append(
            FieldError(
                field="runtime.token",
                value=None,
                expected=f"a shared secret, as runtime.host = {runtime.host!r} is not loopback",
                fix="set PIRL_TOKEN or runtime.token_file for learner and actors, or "
                "runtime.host=127.0.0.1",
            )
        )
    if is_open and not runtime.tls_key and not runtime.insecure:
        errors.append(
            FieldError(
                field="runtime.insecure",
                value=False,
                expected=f"TLS, as runtime.host = {runtime.host!r} is not loopback",
                fix="set runtime.tls_cert and runtime.tls_key, or accept that token and decisions can "
                "be read on the way with runtime.insecure=true",
            )
        )
    given = {name: getattr(runtime, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    missing = [name for name in ("tls_cert", "tls_key") if not given[name]]
    if any(given.values()) and missing:
        errors.append(
            FieldError(
                field=f"runtime.{missing[0]}",
                value=None,
                expected="certificate and key together: a learner would serve in plain text "
                "without one of them",
                fix="set runtime.tls_cert and runtime.tls_key on the learner; on actors "
                "runtime.tls_cert or runtime.tls_ca",
            )
        )
    if errors:
        raise ConfigError(errors, source="runtime")


def server_credentials(runtime: RuntimeConfig) -> grpc.ServerCredentials | None:
    """TLS credentials of the learner, None without TLS; with `tls_ca` actors must have their own.

    Raises:
        EnvironmentNotReadyError: a file cannot be read, or holds something else.
    """
    if not runtime.tls_cert or not runtime.tls_key:
        return None
    pair = (_read(runtime.tls_key), _read(runtime.tls_cert))
    authority = _read(runtime.tls_ca) if runtime.tls_ca else None
    # gRPC takes anything, and then says that the address cannot be bound.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password, or OpenSSL asks for one on the terminal; an encrypted key is refused.
        context.load_cert_chain(runtime.tls_cert, runtime.tls_key, password="")
        if runtime.tls_ca:
            context.load_verify_locations(runtime.tls_ca)
    except ssl.SSLError as error:
        raise EnvironmentNotReadyError(
            f"the TLS files cannot be used: {str(error.reason or error).replace('_', ' ').lower()}",
            remedy="runtime.tls_cert is a certificate in PEM, runtime.tls_key its key without a "
            "password, runtime.tls_ca the certificates that signed the actors'",
        ) from error
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def trust_root(runtime: RuntimeConfig) -> str | None:
    """The file by which an actor knows its learner; None without TLS."""
    return runtime.tls_ca or runtime.tls_cert


def own_certificate(runtime: RuntimeConfig) -> tuple[str, str] | None:
    """An actor's certificate and key for mutual TLS."""
    if runtime.tls_ca and runtime.tls_cert and runtime.tls_key:
        return runtime.tls_cert, runtime.tls_key
    return None


def open_channel(runtime: RuntimeConfig) -> grpc.Channel:
    """The actor's channel; nothing is dialled yet.

    Raises:
        EnvironmentNotReadyError: a certificate cannot be read.
    """
    target = address_of(runtime, runtime.port)
    options = client_options(runtime.heartbeat_s)
    root = trust_root(runtime)
    if root is None:
        return grpc.insecure_channel(target, options)
    own = own_certificate(runtime)
    cert, key = (None, None) if own is None else (_read(own[0]), _read(own[1]))
    credentials = grpc.ssl_channel_credentials(_read(root), key, cert)
    return grpc.secure_channel(target, credentials, options)


def _read(path: str) -> bytes:
    try:
        return read_bytes(Path(path), max_bytes=_MAX_PEM_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EnvironmentNotReadyError(
            f"TLS file {Path(path).name} cannot be read: {reason}",
            remedy="check runtime.tls_cert, runtime.tls_key and runtime.tls_ca",
        ) from error
