"""gRPC status codes to pirl's errors: every code has a meaning, and a test enumerates them.

Owns the translation in both directions and the JSON that carries a mismatch. Knows no calls. Read
`pirl.transport.client` next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import grpc

from pirl.errors import FieldMismatch, LinkClosedError, MismatchError, PirlError, TransportError
from pirl.transport.bounded_json import parse_json
from pirl.transport.channel import REFUSED_KEY

_MAX_SHOWN = 256
_MAX_NAME = 64
_MAX_FIELDS = 64
_MAX_DETAILS = 64 * 2**10
HIDDEN = "<hidden>"
"""Stands for a token; its value never appears in a message, a log or a status."""

_GONE = {
    grpc.StatusCode.UNAVAILABLE: "the other side is not there or died",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the other side did not answer in time",
    grpc.StatusCode.CANCELLED: "the other side ended the call",
    grpc.StatusCode.ABORTED: "the other side gave this one up",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "no room at the other side",
    grpc.StatusCode.INVALID_ARGUMENT: "a message arrived damaged",
    grpc.StatusCode.DATA_LOSS: "a message arrived damaged",
    grpc.StatusCode.INTERNAL: "the connection or the other side failed",
    grpc.StatusCode.UNKNOWN: "the connection or the other side failed",
    grpc.StatusCode.OK: "the call ended where it must go on",
}
"""Another try may succeed: damaged bytes on the way can end a call with nearly any of gRPC's codes."""
_REFUSED = {
    grpc.StatusCode.ALREADY_EXISTS: "another one has this place",
    grpc.StatusCode.OUT_OF_RANGE: "the other side refused a message",
    grpc.StatusCode.PERMISSION_DENIED: "the other side refused this one",
    grpc.StatusCode.NOT_FOUND: "no learner service at this address",
    grpc.StatusCode.UNIMPLEMENTED: "no learner service at this address",
}
_SERVED_BEFORE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
"""From a learner that has let this actor in: the name of the call arrived damaged."""


def mismatch_details(fields: Sequence[FieldMismatch]) -> str:
    """JSON of the differing fields, as the reporting side sees them; long text is cut."""
    rows = [{"field": f.field, "ours": _shown(f.ours), "theirs": _shown(f.theirs)} for f in fields]
    return json.dumps({"mismatch": rows})


def to_error(
    code: grpc.StatusCode,
    details: str | None,
    *,
    doing: str,
    refused: str = "",
    was_admitted: bool = False,
) -> PirlError:
    """The pirl error of a failed call; `ours` and `theirs` are turned to this side's view.

    Args:
        refused: short name of a refusal that another try would meet again, from the call's trailing
            metadata.
        was_admitted: the learner has let this actor in before: then only its place is in question.

    Returns:
        A `LinkClosedError` when another try may succeed.
    """
    details = (details or "")[:_MAX_DETAILS]
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return _mismatch(details, doing)
    if code is grpc.StatusCode.UNAUTHENTICATED and not was_admitted:
        return MismatchError(
            doing, [FieldMismatch(field="runtime.token", ours=HIDDEN, theirs=HIDDEN)]
        )
    if refused and code not in _REFUSED:
        return TransportError(
            f"{doing}: the other side refused this one for {refused[:_MAX_NAME]!r} ({code.name}: "
            f"{details})"
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return LinkClosedError(f"{doing}: the other side no longer knows this one ({details})")
    if was_admitted and code in _SERVED_BEFORE:
        return LinkClosedError(f"{doing}: the call arrived damaged ({code.name}: {details})")
    if code in _GONE:
        return LinkClosedError(f"{doing}: {_GONE[code]} ({code.name}: {details})")
    return TransportError(f"{doing}: {_REFUSED[code]} ({code.name}: {details})")


def from_rpc_error(error: grpc.RpcError, *, doing: str, was_admitted: bool = False) -> PirlError:
    """`to_error` of a raised `grpc.RpcError`."""
    if isinstance(error, grpc.Call):
        return from_call(error, doing=doing, was_admitted=was_admitted)
    return LinkClosedError(f"{doing}: {error}")


def from_call(call: Any, *, doing: str, was_admitted: bool = False) -> PirlError:
    """`to_error` of a call that has ended."""
    trailing: Iterable[tuple[str, str | bytes]] = call.trailing_metadata() or ()
    refused = next((str(value) for key, value in trailing if key == REFUSED_KEY), "")
    return to_error(
        call.code(), call.details(), doing=doing, refused=refused, was_admitted=was_admitted
    )


def _mismatch(details: str, doing: str) -> PirlError:
    try:
        found: Any = parse_json(
            details.encode(), max_bytes=_MAX_DETAILS, max_depth=3, max_containers=_MAX_FIELDS + 2
        )
        fields = [
            FieldMismatch(
                field=str(row["field"])[:_MAX_NAME],
                ours=_shown(row["theirs"]),
                theirs=_shown(row["ours"]),
            )
            for row in found["mismatch"]
        ]
    except (ValueError, KeyError, TypeError):
        return TransportError(f"{doing}: refused without readable fields ({details!r:.300})")
    return MismatchError(doing, fields, sides=("ours", "learner"))


def _shown(value: object) -> object:
    """A scalar as it is, text cut; anything else is no value of an identity field."""
    if value is None or isinstance(value, int | float):
        return value
    return str(value)[:_MAX_SHOWN]
