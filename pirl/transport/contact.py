"""An actor's first contact: find the learner, be checked by it, check it, adopt its run id.

Owns the deadline and the decision what is worth another try. Refuses to know streams. Read
`pirl.transport.client` next.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import grpc

from pirl.config.recipe import RuntimeConfig
from pirl.errors import (
    EnvironmentNotReadyError,
    FieldMismatch,
    LinkClosedError,
    MismatchError,
)
from pirl.transport import identity, status
from pirl.transport.channel import EMPTY, address_of
from pirl.transport.identity import Claims, Identity
from pirl.transport.tls_probe import tls_failure

_TAKEN_GRACE_S = 3.0
"""A replaced actor's rank is free once the learner has seen the old connection end."""
_TRY_S = 2.0
_PAUSE_S = 0.3


_NOT_SERVED = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
"""No learner is there, or the name of the call was damaged."""


class DamagedContactError(LinkClosedError):
    """The connection damages what it carries: the next try needs another one.

    Both sides of a connection remember headers that they sent before, so damage to one of them stays.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A learner that was met and agrees."""

    identity: Identity
    """Ours, with the learner's run id."""
    secret: str | None
    """To be sent with every later call; None when the learner gave none."""
    theirs: Claims
    unix_s: float
    seconds: float
    """From the first try to the answer."""


def meet_learner(
    stub: Any,
    ours: Identity,
    *,
    runtime: RuntimeConfig,
    metadata: tuple[tuple[str, str], ...],
    limit_s: float,
    since: float,
    is_first: bool = True,
    is_doubted: bool = True,
    stop: threading.Event | None = None,
) -> Contact:
    """Call `Ready` until the learner answers, then check the identity in its answer.

    Args:
        stub: LeRobot's `LearnerServiceStub`.
        metadata: identity and caller, as sent on every call.
        limit_s: how long to try in all, over every connection.
        since: monotonic seconds of the first try.
        is_first: the learner was never met: TLS that fails is then a wrong setting, not a bad moment.
        is_doubted: an address without a learner service is damage, as long as no other connection said so.
        stop: looked at between two tries; a process that is told to end must not wait for a learner.

    Raises:
        MismatchError: the two sides differ; every field with both values.
        EnvironmentNotReadyError: TLS with the learner fails.
        DamagedContactError: to be tried again over another connection.
        LinkClosedError: no answer within `limit_s`, or `stop` was set before one came.
        TransportError: the learner has no room for this actor, or nobody serves one at this address.
    """
    start, end = time.monotonic(), since + limit_s
    tls_failures: list[str | None] = []
    where = f"learner at {address_of(runtime, runtime.port)}"
    while (left_s := end - time.monotonic()) > 0:
        if stop is not None and stop.is_set():
            raise LinkClosedError(f"told to stop while waiting for the {where}")
        try:
            _, call = stub.Ready.with_call(
                EMPTY, timeout=min(left_s, _TRY_S), metadata=metadata, wait_for_ready=True
            )
        except grpc.RpcError as error:
            _require_undamaged(error, is_doubted=is_doubted, where=where)
            if not _is_worth_another_try(error, waited_s=time.monotonic() - start):
                raise status.from_rpc_error(error, doing=where) from error
            if is_first:
                _require_tls(runtime, tls_failures, where=where)
            time.sleep(min(_PAUSE_S, max(0.0, end - time.monotonic())))
            continue
        answer = list(call.initial_metadata() or ())
        if identity.is_damaged(answer):
            raise DamagedContactError(f"{where}: its answer arrived damaged")
        theirs = identity.from_metadata(answer)
        agreed = verify_learner(ours, theirs, config_identity=runtime.config_identity, where=where)
        return Contact(
            identity=agreed,
            secret=identity.text_of(answer, identity.SECRET_KEY),
            theirs=theirs,
            unix_s=time.time(),
            seconds=time.monotonic() - start,
        )
    raise LinkClosedError(
        f"no answer from the {where} within {limit_s:g} s; start it with "
        "python -m pirl.learner and the same --config_path"
    )


def _require_undamaged(error: grpc.RpcError, *, is_doubted: bool, where: str) -> None:
    code = error.code() if isinstance(error, grpc.Call) else None
    if code is grpc.StatusCode.DATA_LOSS or (is_doubted and code in _NOT_SERVED):
        raise DamagedContactError(f"{where}: the first contact arrived damaged") from error


def _require_tls(runtime: RuntimeConfig, seen: list[str | None], *, where: str) -> None:
    """The same failure twice is no accident: say it now instead of waiting for the deadline."""
    seen.append(tls_failure(runtime))
    if seen[-1] is not None and seen[-2:-1] == seen[-1:]:
        raise EnvironmentNotReadyError(
            f"TLS with the {where} fails: {seen[-1]}",
            remedy="give the learner runtime.tls_cert and runtime.tls_key, and the actor as "
            "runtime.tls_cert (or runtime.tls_ca) what signed that certificate, made for the name in "
            "runtime.host; for mutual TLS each side needs all three",
        )


def verify_learner(ours: Identity, theirs: Claims, *, config_identity: str, where: str) -> Identity:
    """Our identity with the learner's run id, if everything agrees.

    Raises:
        MismatchError: names every differing field with both values.
    """
    mismatches = identity.check(ours, theirs, config_identity=config_identity)
    run_id = theirs.get("run_id")
    named = any(m.field == "run_id" for m in mismatches)
    if run_id is not None and not identity.is_run_id(run_id) and not named:
        # An empty run id means "not met yet": an actor may say so, a learner may not. Any other one
        # becomes the name of a folder.
        wanted = ours.run_id or f"a name like {identity.RUN_ID.pattern}"
        mismatches.append(FieldMismatch(field="run_id", ours=wanted, theirs=run_id))
    if mismatches:
        raise MismatchError(where, mismatches, sides=("ours", "learner"))
    return identity.adopt_run_id(ours, theirs)


def _is_worth_another_try(error: grpc.RpcError, *, waited_s: float) -> bool:
    """A learner that is not up yet, a connection that broke, or a predecessor not yet seen to be gone."""
    if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.ALREADY_EXISTS:
        return waited_s < _TAKEN_GRACE_S
    return isinstance(status.from_rpc_error(error, doing=""), LinkClosedError)
