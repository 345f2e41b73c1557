"""Who may call: token, identity, rank and room, in this order, before a call does anything.

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
from pirl.transport.members import FullError, Member, Members, TakenError

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
    """`accepted`, `token`, `mismatch`, `capacity` or `taken`."""
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
        shown = "; ".join(str(m) for m in answer.mismatches) or answer.detail
        super().__init__(
            f"refused {answer.call} of actor {answer.actor_id!r:.140} (rank {answer.rank}): "
            f"{answer.reason} {shown:.2000}"
        )


def admit(
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    call: str,
    ours: Identity,
    runtime: RuntimeConfig,
    members: Members,
) -> tuple[Member, Handshake]:
    """The member behind a call and the answer it got.

    The token comes first: a caller without it learns nothing, not even which fields differ.

    Raises:
        RefusedError: with the status code of the first check that failed.
    """
    received = list(metadata)
    actor_id = identity.text_of(received, identity.ACTOR_ID_KEY)
    rank = _rank_of(identity.text_of(received, identity.RANK_KEY))
    answer = Handshake(
        unix_s=time.time(), call=call, rank=rank, actor_id=actor_id, accepted=False, reason=""
    )
    token = identity.text_of(received, identity.TOKEN_KEY)
    if not identity.tokens_agree(runtime.token, token):
        _refuse(answer, "token", grpc.StatusCode.UNAUTHENTICATED)
    theirs = identity.from_metadata(received)
    mismatches = identity.check(ours, theirs, config_identity=runtime.config_identity)
    if actor_id is None or not actor_id.isprintable() or not 0 < len(actor_id) <= _MAX_NAME:
        wanted = f"1 to {_MAX_NAME} printable characters"
        mismatches.append(FieldMismatch(field="actor_id", ours=wanted, theirs=actor_id))
    if rank is None:
        mismatches.append(FieldMismatch(field="rank", ours="a whole number", theirs=None))
    if mismatches or actor_id is None or rank is None:
        answer = replace(answer, mismatches=tuple(mismatches))
        _refuse(answer, "mismatch", grpc.StatusCode.FAILED_PRECONDITION)
    try:
        member = members.admit(rank, actor_id, anew=call == FIRST_CONTACT)
    except FullError as error:
        _refuse(answer, "capacity", grpc.StatusCode.RESOURCE_EXHAUSTED, detail=str(error))
    except TakenError as error:
        _refuse(answer, "taken", grpc.StatusCode.ALREADY_EXISTS, detail=str(error))
    return member, replace(answer, accepted=True, reason="accepted")


def _refuse(answer: Handshake, reason: str, code: grpc.StatusCode, *, detail: str = "") -> NoReturn:
    raise RefusedError(replace(answer, reason=reason, detail=detail), code)


def _rank_of(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdecimal() and len(text) <= 9):
        return None
    return int(text)
