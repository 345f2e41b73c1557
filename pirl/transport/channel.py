"""gRPC options and addresses that learner and actors share.

Owns keepalive, message limits, credentials and the loopback rule. Knows no calls. Read
`pirl.transport.server` and `pirl.transport.client` next.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import grpc
from lerobot.transport import services_pb2
from lerobot.transport.utils import MAX_MESSAGE_SIZE

from pirl.config.recipe import RuntimeConfig
from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError

type Option = tuple[str, int]

PB: Any = services_pb2
"""LeRobot's generated messages; protobuf adds the classes at import, unseen by type checkers."""
EMPTY: Any = PB.Empty()

FINISHED_KEY = "pirl-finished"
"""Trailing metadata of a parameter stream that ended because the run is complete."""


_MIN_PING_TIMEOUT_S = 2.0


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
    ]


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
    """An address that others can reach needs a token.

    Raises:
        ConfigError: `runtime.host` is not loopback and there is no token, or half of TLS is set.
    """
    errors: list[FieldError] = []
    if not is_loopback(runtime.host) and not runtime.token:
        errors.append(
            FieldError(
                field="runtime.token",
                value=runtime.token,
                expected=f"a shared secret, as runtime.host = {runtime.host!r} is not loopback",
                fix="set runtime.token on learner and actors, or runtime.host=127.0.0.1",
            )
        )
    if runtime.tls_key and not runtime.tls_cert:
        errors.append(
            FieldError(
                field="runtime.tls_cert",
                value=None,
                expected="the certificate that belongs to runtime.tls_key",
                fix="set both on the learner, runtime.tls_cert alone on actors",
            )
        )
    if errors:
        raise ConfigError(errors, source="runtime")


def server_credentials(runtime: RuntimeConfig) -> grpc.ServerCredentials | None:
    """TLS credentials of the learner, None without TLS.

    Raises:
        EnvironmentNotReadyError: a file cannot be read.
    """
    if not runtime.tls_cert or not runtime.tls_key:
        return None
    pair = (_read(runtime.tls_key), _read(runtime.tls_cert))
    return grpc.ssl_server_credentials([pair])


def open_channel(runtime: RuntimeConfig) -> grpc.Channel:
    """The actor's channel; nothing is dialled yet.

    Raises:
        EnvironmentNotReadyError: the certificate cannot be read.
    """
    target = address_of(runtime, runtime.port)
    options = client_options(runtime.heartbeat_s)
    if not runtime.tls_cert:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(root_certificates=_read(runtime.tls_cert))
    return grpc.secure_channel(target, credentials, options)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"TLS file {Path(path).name} cannot be read: {error.strerror}",
            remedy="check runtime.tls_cert and runtime.tls_key",
        ) from error
