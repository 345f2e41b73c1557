"""Interaction messages: small JSON records from actor to learner behind a checksum, checked field by field.

Owns their three types and bounds (`docs/envelope.md`). The checksum tells damage on the way, which costs
another try, from a wrong message: a flipped bit makes another number of what JSON reads without complaint.
Stock LeRobot pickles its interactions; those are recognised by their first byte and never loaded. Read
`pirl.transport.service` next.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import fields
from typing import Any

from pirl.errors import TransportError
from pirl.records import EpisodeRecord
from pirl.transport.bounded_json import parse_json
from pirl.transport.refusal import UNREADABLE, RefusedMessageError

ROLLOUT_DONE = "rollout_done"
HEARTBEAT = "heartbeat"
GOODBYE = "goodbye"

MAX_BYTES = 4 * 2**20
MAX_EPISODES = 8192
MAX_METRICS = 256
_MAX_TEXT = 256
_MAX_DEPTH = 3
_MAX_WHOLE = 2**62
_CHECKSUM_BYTES = 8
_PICKLE_PROTOCOL_MARK = b"\x80"
_EPISODE_TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(EpisodeRecord)}
_OPTIONAL = frozenset({"metrics"})


def encode_interaction(message: dict[str, Any]) -> bytes:
    """Checksum and UTF-8 JSON of one message.

    Raises:
        TransportError: the message is none of the three types, or holds what JSON cannot.
    """
    try:
        raw = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise TransportError(f"interaction cannot be written as JSON: {error}") from error
    check_interaction(message)
    return with_checksum(raw)


def with_checksum(text: bytes) -> bytes:
    """`text` behind its CRC-32, as eight hexadecimal digits."""
    return b"%08x" % zlib.crc32(text) + text


def is_pickle(raw: bytes | bytearray) -> bool:
    """Whether the bytes start like a pickle of protocol 2 or later; a checksum never does."""
    return raw[:1] == _PICKLE_PROTOCOL_MARK


def decode_interaction(raw: bytes | bytearray) -> dict[str, Any]:
    """One message of the three types; the receiver has bounded the length of `raw`.

    Raises:
        RefusedMessageError: damaged on the way.
        TransportError: not JSON, an unknown type, or a field missing, foreign or out of range.
    """
    text = bytes(raw[_CHECKSUM_BYTES:])
    if with_checksum(text) != raw:
        raise RefusedMessageError(UNREADABLE, "an interaction was damaged (checksum differs)")
    try:
        message = parse_json(
            text,
            max_bytes=MAX_BYTES,
            max_depth=_MAX_DEPTH,
            max_containers=MAX_EPISODES + _MAX_DEPTH,
        )
    except ValueError as error:
        raise TransportError(f"interaction is not JSON: {str(error)[:100]}") from error
    return check_interaction(message)


def check_interaction(message: object) -> dict[str, Any]:
    """`message`, a dict of type `rollout_done`, `heartbeat` or `goodbye` with exactly its fields.

    Raises:
        TransportError: names the first field that is wrong.
    """
    if not isinstance(message, dict):
        raise TransportError("interaction is not an object")
    kind = message.get("type")
    if kind == ROLLOUT_DONE:
        _check_rollout_done(message)
    elif kind not in (HEARTBEAT, GOODBYE):
        raise TransportError(f"interaction of unknown type {kind!r:.80}")
    elif message.keys() != {"type"}:
        raise TransportError(f"{kind} has fields {sorted(message)!r:.300}")
    return message


def _check_rollout_done(message: dict[str, Any]) -> None:
    required = {"type", "version", "rank", "decisions", "episodes"}
    if required - message.keys() or message.keys() - required - _OPTIONAL:
        raise TransportError(f"rollout_done has fields {sorted(message)!r:.300}")
    for name in ("version", "rank", "decisions"):
        _check_value(message[name], "int", f"rollout_done {name}", low=0)
    episodes = message["episodes"]
    if not isinstance(episodes, list) or len(episodes) > MAX_EPISODES:
        raise TransportError(f"rollout_done episodes is not a list of at most {MAX_EPISODES}")
    for row, episode in enumerate(episodes):
        if not isinstance(episode, dict) or episode.keys() != _EPISODE_TYPES.keys():
            raise TransportError(f"rollout_done episode {row} has other fields than a record")
        for name, kind in _EPISODE_TYPES.items():
            _check_value(episode[name], kind, f"rollout_done episode {row} {name}")
    metrics = message.get("metrics", {})
    if not isinstance(metrics, dict) or len(metrics) > MAX_METRICS:
        raise TransportError(f"rollout_done metrics is not an object of at most {MAX_METRICS}")
    for name, value in metrics.items():
        _check_value(name, "str", "rollout_done metric name")
        _check_value(value, "float", f"rollout_done metric {name:.80}")


def _check_value(value: object, kind: str, name: str, *, low: int = -_MAX_WHOLE) -> None:
    match kind:
        case "int":
            good = type(value) is int and low <= value <= _MAX_WHOLE
        case "float":
            good = type(value) in (int, float) and math.isfinite(_as_float(value))
        case "str":
            good = type(value) is str and len(value) <= _MAX_TEXT
        case _:
            good = type(value) is bool
    if not good:
        raise TransportError(f"{name} is not a usable {kind}")


def _as_float(value: object) -> float:
    if isinstance(value, int) and abs(value) > _MAX_WHOLE:
        return math.inf
    return float(value) if isinstance(value, int | float) else math.nan
