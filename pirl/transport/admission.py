"""Who may call: token, identity, rank, secret and room, in this order, before a call does anything.

Owns the checks and the record of each answer. Refuses to know gRPC calls; it sees metadata only.
Read `pirl.transport.service` next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NoReturn

import grpc

from pirl.config.recipe import RuntimeConfig
from pirl.errors import FieldMismatch, TransportError
from pirl.transport import identity, status
from pirl.transport.identity import Identity
from pirl.transport.members import (
    CrowdedError,
    FullError,
    GivenUpError,
    Member,
    Members,
    StrangerError,
    TakenError,
)

FIRST_CONTACT = "Ready"
_MAX_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """One answer to a caller, for evidence; `ours` in the mismatches is the learner."""

    unix_s: float
    call: str
    rank: int | None
    actor_id: str | None
    accepted: bool
    reason: str
    """`accepted`, `damaged`, `token`, `mismatch`, `capacity`, `taken`, `secret`, `given_up` or `crowded`."""
    detail: str = ""
    mismatches: tuple[FieldMismatch, ...] = ()


class RefusedError(TransportError):
    """A caller is not let in; `code` and `details` are what it is told."""

    def __init__(self, answer: Handshake, code: grpc.StatusCode) -> None:
        self.answer = answer
        self.code = code
        self.details = (
            status.mismatch_details(answer.mismatches)
            if answer.mismatches
            else answer.detail or answer.reason
        )
        shown = ", ".join(m.field for m in answer.mismatches)
        super().__init__(f"refused {answer.call} (rank {answer.rank}): {answer.reason} {shown}")

    @property
    def is_final(self) -> bool:
        """Whether another try of the same actor would be refused as well."""
        return self.answer.reason in ("token", "mismatch", "capacity", "taken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a call says it is from; token and identity have passed."""

    rank: int
    actor_id: str
    secret: str | None
    answer: Handshake


def identify(
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    call: str,
    ours: Identity,
    runtime: RuntimeConfig,
) -> Caller:
    """The caller behind a call.

    After damage on the way the token comes first: a caller without it learns nothing, not even which fields
    differ.

    Raises:
        RefusedError: with the status code of the first check that failed.
    """
    received = list(metadata)
    rank = _rank_of(identity.text_of(received, identity.RANK_KEY))
    answer = Handshake(
        unix_s=time.time(), call=call, rank=rank, actor_id=None, accepted=False, reason=""
    )
    if identity.is_damaged(received):
        _refuse(answer, "damaged", grpc.StatusCode.DATA_LOSS, detail="the caller's identity")
    token = identity.text_of(received, identity.TOKEN_KEY)
    if not identity.tokens_agree(runtime.token, token):
        _refuse(answer, "token", grpc.StatusCode.UNAUTHENTICATED)
    actor_id = identity.text_of(received, identity.ACTOR_ID_KEY)
    theirs = identity.from_metadata(received)
    mismatches = identity.check(ours, theirs, config_identity=runtime.config_identity)
    if actor_id is None or not actor_id.isprintable() or not 0 < len(actor_id) <= _MAX_NAME:
        wanted = f"1 to {_MAX_NAME} printable characters"
        mismatches.append(FieldMismatch(field="actor_id", ours=wanted, theirs=_cut(actor_id)))
    if rank is None:
        mismatches.append(FieldMismatch(field="rank", ours="a whole number", theirs=None))
    if mismatches or actor_id is None or rank is None:
        answer = replace(answer, mismatches=tuple(mismatches), actor_id=_cut(actor_id))
        _refuse(answer, "mismatch", grpc.StatusCode.FAILED_PRECONDITION)
    secret = identity.text_of(received, identity.SECRET_KEY)
    return Caller(
        rank=rank, actor_id=actor_id, secret=secret, answer=replace(answer, actor_id=actor_id)
    )


def contact(caller: Caller, members: Members) -> tuple[str, Handshake]:
    """The secret for a caller of `Ready`, and the answer it got.

    Raises:
        RefusedError: no such rank, or a living actor has it.
    """
    try:
        secret = members.contact(caller.rank, caller.actor_id, caller.secret)
    except TransportError as error:
        _refuse_place(caller.answer, error)
    return secret, replace(caller.answer, accepted=True, reason="accepted")


def admit(caller: Caller, members: Members) -> Member:
    """The member behind any other call.

    Raises:
        RefusedError: no secret of this learner's, or its incarnation has lost its place.
    """
    try:
        return members.admit(caller.rank, caller.actor_id, caller.secret)
    except TransportError as error:
        _refuse_place(caller.answer, error)


_PLACE: dict[type[TransportError], tuple[str, grpc.StatusCode]] = {
    FullError: ("capacity", grpc.StatusCode.RESOURCE_EXHAUSTED),
    TakenError: ("taken", grpc.StatusCode.ALREADY_EXISTS),
    StrangerError: ("secret", grpc.StatusCode.UNAUTHENTICATED),
    GivenUpError: ("given_up", grpc.StatusCode.ABORTED),
    CrowdedError: ("crowded", grpc.StatusCode.RESOURCE_EXHAUSTED),
}


def _refuse_place(answer: Handshake, error: TransportError) -> NoReturn:
    reason, code = _PLACE[type(error)]
    # Who sent no valid secret is not the actor that it names.
    answer = replace(answer, actor_id=None) if reason == "secret" else answer
    _refuse(answer, reason, code, detail=str(error))


def _refuse(answer: Handshake, reason: str, code: grpc.StatusCode, *, detail: str = "") -> NoReturn:
    raise RefusedError(replace(answer, reason=reason, detail=detail), code)


def _rank_of(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 9):
        return None
    return int(text)


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_NAME]
