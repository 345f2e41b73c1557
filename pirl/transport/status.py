"""gRPC status codes to pirl's errors: every code has a meaning, and a test enumerates them.

Owns the translation in both directions and the JSON that carries a mismatch. Knows no calls. Read
`pirl.transport.client` next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import grpc

from pirl.errors import FieldMismatch, LinkClosedError, MismatchError, PirlError, TransportError

_MAX_SHOWN = 256
HIDDEN = "<hidden>"
"""Stands for a token; its value never appears in a message, a log or a status."""

_GONE = {
    grpc.StatusCode.UNAVAILABLE: "the other side is not there or died",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the other side did not answer in time",
    grpc.StatusCode.CANCELLED: "the other side ended the call",
    grpc.StatusCode.ABORTED: "the other side gave this one up",
}
_REFUSED = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "no room at the other side",
    grpc.StatusCode.ALREADY_EXISTS: "another one has this place",
    grpc.StatusCode.INVALID_ARGUMENT: "the other side refused a message",
    grpc.StatusCode.OUT_OF_RANGE: "the other side refused a message",
    grpc.StatusCode.DATA_LOSS: "a message was damaged",
    grpc.StatusCode.PERMISSION_DENIED: "the other side refused this one",
    grpc.StatusCode.NOT_FOUND: "no learner service at this address",
    grpc.StatusCode.UNIMPLEMENTED: "no learner service at this address",
    grpc.StatusCode.INTERNAL: "the other side failed",
    grpc.StatusCode.UNKNOWN: "the other side failed",
    grpc.StatusCode.OK: "the call ended where it must go on",
}


def mismatch_details(fields: Sequence[FieldMismatch]) -> str:
    """JSON of the differing fields, as the reporting side sees them; long text is cut."""
    rows = [{"field": f.field, "ours": _shown(f.ours), "theirs": _shown(f.theirs)} for f in fields]
    return json.dumps({"mismatch": rows})


def to_error(code: grpc.StatusCode, details: str | None, *, doing: str) -> PirlError:
    """The pirl error of a failed call; `ours` and `theirs` are turned to this side's view."""
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return _mismatch(details or "", doing)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return MismatchError(
            doing, [FieldMismatch(field="runtime.token", ours=HIDDEN, theirs=HIDDEN)]
        )
    if code in _GONE:
        return LinkClosedError(f"{doing}: {_GONE[code]} ({code.name}: {details})")
    return TransportError(f"{doing}: {_REFUSED[code]} ({code.name}: {details})")


def from_rpc_error(error: grpc.RpcError, *, doing: str) -> PirlError:
    """`to_error` of a raised `grpc.RpcError`."""
    if isinstance(error, grpc.Call):
        return to_error(error.code(), error.details(), doing=doing)
    return LinkClosedError(f"{doing}: {error}")


def _mismatch(details: str, doing: str) -> PirlError:
    try:
        rows = json.loads(details)["mismatch"]
        fields = [
            FieldMismatch(field=str(row["field"]), ours=row["theirs"], theirs=row["ours"])
            for row in rows
        ]
    except (ValueError, KeyError, TypeError):
        return TransportError(f"{doing}: refused without readable fields ({details!r:.300})")
    return MismatchError(doing, fields, sides=("ours", "learner"))


def _shown(value: object) -> object:
    return value[:_MAX_SHOWN] if isinstance(value, str) else value
