"""Peers that mean harm, over real gRPC on loopback: each costs itself and nobody else."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks

sys.path.insert(0, str(Path(__file__).parent))

from damaging_proxy import DamagingProxy
from test_transport import a_learner, a_stub, metadata_of, publication, secret_from, within
from transport_builders import (
    a_rollout_done,
    an_identity,
    some_transitions,
    some_weights,
)

from pirl.config.recipe import RuntimeConfig
from pirl.errors import LinkClosedError, MismatchError, TransportError
from pirl.transport import channel, identity, members, messages, service, wire
from pirl.transport.channel import REFUSED_KEY
from pirl.transport.client import ActorLink
from pirl.transport.members import CALLS_PER_MEMBER

pytestmark = pytest.mark.integration

MIB = 2**20
SERVICE = "/transport.LearnerService/"


@contextmanager
def never_sending(port: int, call: str, count: int, metadata: Any = None) -> Iterator[list[Any]]:
    """`count` calls that are opened and never send their request."""
    released = threading.Event()

    def nothing() -> Iterator[bytes]:
        released.wait(60)
        return
        yield b""

    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        open_call = channel.stream_unary(
            SERVICE + call, request_serializer=bytes, response_deserializer=bytes
        )
        calls = [open_call.future(nothing(), metadata=metadata) for _ in range(count)]
        try:
            yield calls
        finally:
            released.set()


# -- handshakes that never send --------------------------------------------------------------------


@pytest.mark.parametrize("call", ["Ready", "StreamParameters", "SendTransitions"])
@pytest.mark.parametrize("is_known", [True, False], ids=["with identity", "without"])
def test_calls_that_never_send_their_request_keep_nobody_out(call: str, is_known: bool):
    metadata = metadata_of(an_identity(), actor_id="squatter") if is_known else None
    with a_learner() as learner, never_sending(learner.server.port, call, 40, metadata) as calls:
        learner.server.publish(0, some_weights())
        # Every one is answered although its request never came: it holds no thread.
        within(5.0, lambda: all(call.done() for call in calls))
        with learner.link().connect(5) as link:
            assert link.wait_for_version(0, 5) is not None
            assert learner.server.alive_ranks() == [0]


def test_connections_that_say_nothing_take_neither_the_files_of_the_learner_nor_its_port_for_long(
    monkeypatch: pytest.MonkeyPatch,
):
    """Without a limit they occupy every file descriptor, and the next checkpoint cannot be written."""
    monkeypatch.setattr(channel, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with a_learner() as learner, contextlib.ExitStack() as stack:
        learner.server.publish(0, some_weights())
        before = psutil.Process().num_fds()
        for _ in range(200):
            address = ("127.0.0.1", learner.server.port)
            stack.enter_context(socket.create_connection(address, timeout=5))
        # This process has the other end of each as well.
        assert psutil.Process().num_fds() - before - 200 <= 40
        with learner.link().connect(20) as link:
            assert link.wait_for_version(0, 20) is not None


def test_a_contact_that_opens_no_stream_takes_nobodys_rank():
    with a_learner() as learner, a_stub(learner) as stub:
        for number in range(20):
            secret_from(stub, actor_id=f"squatter-{number}")
        assert learner.server.alive_ranks() == []
        with learner.link().connect(5):
            within(5.0, lambda: learner.server.alive_ranks() == [0])


def test_an_actor_cannot_hold_more_calls_than_it_needs():
    with a_learner() as learner, a_stub(learner) as stub:
        metadata = metadata_of(an_identity(), secret=secret_from(stub))
        with never_sending(learner.server.port, "SendTransitions", 40, metadata) as calls:
            within(5.0, lambda: sum(call.done() for call in calls) == 40 - CALLS_PER_MEMBER)
            refused = [call for call in calls if call.done()]
            assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


# -- identities ------------------------------------------------------------------------------------


def test_knowing_the_name_of_an_actor_is_of_no_use():
    with a_learner() as learner, a_stub(learner) as stub, learner.link().connect(10) as link:
        within(5.0, lambda: learner.server.alive_ranks() == [0])
        forged = metadata_of(an_identity(), actor_id=link.actor_id)
        for secret in (None, "0" * 16 + "." + "0" * 64):
            metadata = metadata_of(an_identity(), actor_id=link.actor_id, secret=secret)
            raw = wire.encode_transitions(some_transitions(1))
            with pytest.raises(grpc.RpcError) as caught:
                stub.SendTransitions(
                    send_bytes_in_chunks(raw, services_pb2.Transition), metadata=metadata, timeout=5
                )
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            stub.Ready(services_pb2.Empty(), metadata=forged, timeout=5)
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        link.send_transitions(some_transitions(1))
        learner.sink.wait_until(lambda: len(learner.sink.received) == 1)
        assert learner.sink.lost == []


def test_a_flood_of_refusals_leaves_the_record_of_an_accepted_actor_and_a_short_log(
    caplog: pytest.LogCaptureFixture,
):
    with a_learner(token="right-secret") as learner, learner.link().connect(10) as link:
        with a_stub(learner) as stub:
            for _ in range(400):
                with pytest.raises(grpc.RpcError):
                    stub.Ready(services_pb2.Empty(), timeout=5)
        answers = learner.server.handshakes()
        assert link.actor_id in {answer.actor_id for answer in answers if answer.accepted}
        assert len(answers) < 300
        assert learner.counter("handshakes_refused_token") == 400
    refusals = [r for r in caplog.records if "refused Ready" in r.getMessage()]
    assert 1 <= len(refusals) <= 10


def test_an_actor_that_comes_and_goes_leaves_a_short_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    with a_learner() as learner, a_stub(learner) as stub:
        for _ in range(100):
            metadata = metadata_of(an_identity(), secret=secret_from(stub))
            stub.SendInteractions(iter(()), metadata=metadata, timeout=5)
    assert learner.counter("actors_lost") == 100
    assert 2 <= len([r for r in caplog.records if r.name.startswith("pirl.transport")]) <= 12


# -- messages --------------------------------------------------------------------------------------


def bad_shape() -> bytes:
    items = some_transitions(1)
    items[0]["action"] = items[0]["action"][:, :1]
    return wire.encode_transitions(items)


def bad_reward() -> bytes:
    items = some_transitions(1)
    items[0]["reward"] = 3e38
    return wire.encode_transitions(items)


def bad_float() -> bytes:
    items = some_transitions(1)
    items[0]["action"] = torch.full_like(items[0]["action"], float("nan"))
    return wire.encode_transitions(items)


WHOLE_BUT_WRONG: dict[str, tuple[str, bytes, str]] = {
    "shape": ("SendTransitions", bad_shape(), "malformed"),
    "reward": ("SendTransitions", bad_reward(), "out_of_range"),
    "nan": ("SendTransitions", bad_float(), "not_finite"),
    "other rank": (
        "SendInteractions",
        messages.encode_interaction(a_rollout_done(rank=1)),
        "rank",
    ),
    "unknown type": (
        "SendInteractions",
        messages.with_checksum(b'{"type":"shutdown"}'),
        "malformed",
    ),
    "no json": ("SendInteractions", messages.with_checksum(b"}" * 1000), "malformed"),
    "deep json": ("SendInteractions", messages.with_checksum(b"[" * 100_000), "malformed"),
}


def test_nothing_of_a_refused_message_is_kept(monkeypatch: pytest.MonkeyPatch):
    """After the last refusals that are remembered, as many again leave as many objects."""
    monkeypatch.setattr(members, "_MAX_ENDED", 8)
    monkeypatch.setattr(service, "_MAX_ACCEPTED", 8)
    monkeypatch.setattr(service, "_MAX_REFUSED", 8)
    kinds = list(WHOLE_BUT_WRONG.values())

    def objects_after(strikes: int) -> int:
        for number in range(strikes):
            call, raw, _ = kinds[number % len(kinds)]
            kind = {"SendTransitions": "Transition", "SendInteractions": "InteractionMessage"}
            pieces = send_bytes_in_chunks(raw, getattr(services_pb2, kind[call]))
            metadata = metadata_of(an_identity(), secret=secret_from(stub))
            with pytest.raises(grpc.RpcError):
                getattr(stub, call)(pieces, metadata=metadata, timeout=5)
        within(5.0, lambda: learner.server.alive_ranks() == [])
        learner.sink.lost.clear()
        learner.sink.refused.clear()
        gc.collect()
        return len(gc.get_objects())

    with a_learner() as learner, a_stub(learner) as stub:
        objects_after(5 * len(kinds))
        counts = [objects_after(10 * len(kinds)) for _ in range(4)]
        # Fewer than one for each message. What is kept grows every time; a thread of an earlier test may
        # add something once.
        assert min(later - before for before, later in pairwise(counts)) < 5 * len(kinds)


UNREADABLE: dict[str, tuple[str, bytes]] = {
    "no archive": ("SendTransitions", b"}" * MIB),
    "cut": ("SendTransitions", wire.encode_transitions(some_transitions(1))[:-10]),
    "no message": ("SendInteractions", b"}" * 1000),
    "flipped bit": (
        "SendInteractions",
        messages.encode_interaction({"type": "heartbeat"}).replace(b"heart", b"hEart"),
    ),
}
MESSAGES = {
    "SendTransitions": services_pb2.Transition,
    "SendInteractions": services_pb2.InteractionMessage,
}


def send(stub: Any, call: str, raw: bytes, metadata: Any) -> Any:
    upload = getattr(stub, call).future(
        send_bytes_in_chunks(raw, MESSAGES[call]), metadata=metadata, timeout=10
    )
    upload.code()
    return upload


@pytest.mark.parametrize("name", [*WHOLE_BUT_WRONG, *UNREADABLE])
def test_a_wrong_message_costs_its_sender_and_says_whether_another_try_is_of_use(name: str):
    call, raw, *reason = (WHOLE_BUT_WRONG | UNREADABLE)[name]
    with (
        a_learner(actors=2) as learner,
        a_stub(learner) as stub,
        learner.link(1).connect(10) as good,
    ):
        upload = send(stub, call, raw, metadata_of(an_identity(), secret=secret_from(stub)))
        assert upload.code() is grpc.StatusCode.INVALID_ARGUMENT
        told = dict(upload.trailing_metadata() or ())
        assert told.get(REFUSED_KEY) == (reason[0] if reason else None)
        learner.sink.wait_until(lambda: len(learner.sink.lost) == 1)
        assert learner.sink.refused == [(0, "stock", reason[0] if reason else "unreadable")]
        assert learner.counter("messages_refused") == 1
        good.send_transitions(some_transitions(1))
        learner.sink.wait_until(lambda: len(learner.sink.received) == 1)
        assert learner.server.alive_ranks() == [1]
        with learner.link(0).connect(10):
            within(5.0, lambda: learner.server.alive_ranks() == [0, 1])


def test_an_actor_that_announces_and_does_not_deliver_is_given_up():
    with a_learner(actor_timeout_s=0.6) as learner, learner.link().connect(10) as link:
        within(5.0, lambda: learner.server.alive_ranks() == [0])
        learner.sink.owed_since = time.monotonic()
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert learner.sink.refused == [(0, link.actor_id, "missing")]
        with pytest.raises(TransportError, match="did not come"):
            link.wait_for_version(0, 10)


def test_an_error_that_nobody_foresaw_costs_the_sender_only(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise IndexError("index out of range in self")

    with a_learner(actors=2) as learner, a_stub(learner) as stub, learner.link(1).connect(10):
        monkeypatch.setattr("pirl.transport.service.wire.decode_transitions", fail)
        raw = wire.encode_transitions(some_transitions(1))
        send(stub, "SendTransitions", raw, metadata_of(an_identity(), secret=secret_from(stub)))
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        within(5.0, lambda: learner.server.alive_ranks() == [1])


# -- learners that mean harm -----------------------------------------------------------------------


class HostileLearner(services_pb2_grpc.LearnerServiceServicer):
    """Lets everybody in and then sends what it was told to."""

    def __init__(self, pieces: Callable[[], Iterator[Any]], ours: Any) -> None:
        self.pieces = pieces
        self.ours = ours
        self.sent = 0

    def Ready(self, request: Any, context: Any) -> Any:
        context.send_initial_metadata((*self.ours.to_metadata(), (identity.SECRET_KEY, "a.b")))
        return services_pb2.Empty()

    def StreamParameters(self, request: Any, context: Any) -> Iterator[Any]:
        for piece in self.pieces():
            self.sent += len(piece.data)
            yield piece

    def SendTransitions(self, request_iterator: Any, context: Any) -> Any:
        for _ in request_iterator:
            pass
        return services_pb2.Empty()

    SendInteractions = SendTransitions


@contextmanager
def a_hostile_learner(
    pieces: Callable[[], Iterator[Any]], ours: Any = None
) -> Iterator[tuple[HostileLearner, RuntimeConfig]]:
    from concurrent.futures import ThreadPoolExecutor

    service = HostileLearner(pieces, ours or an_identity())
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool)
    services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, RuntimeConfig(port=port, heartbeat_s=0.2)
    finally:
        server.stop(0).wait(5)
        pool.shutdown(wait=False, cancel_futures=True)


def parameters(state: int, data: bytes) -> Any:
    return services_pb2.Parameters(transfer_state=state, data=data)


def test_an_actor_takes_no_more_bytes_than_its_parameters_need():
    def flood() -> Iterator[Any]:
        yield parameters(1, b"")
        for _ in range(2000):
            yield parameters(2, b"\0" * MIB)

    before = psutil.Process().memory_info().rss
    with a_hostile_learner(flood) as (learner, runtime):
        link = ActorLink(an_identity(run_id=""), runtime=runtime, rank=0, expected=some_weights())
        with link.connect(10):
            with pytest.raises(TransportError, match="at most"):
                link.wait_for_version(0, 20)
            assert learner.sent < 200 * MIB
    assert psutil.Process().memory_info().rss - before < 200 * MIB


def test_a_receiving_thread_that_dies_ends_the_link(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise IndexError("nobody foresaw this")

    monkeypatch.setattr("pirl.transport.client.wire.decode_parameters", fail)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with a_learner() as learner, learner.link().connect(10) as link:
        learner.server.publish(0, some_weights())
        with pytest.raises(TransportError, match="thread died"):
            link.wait_for_version(0, 10)


def test_damaged_parameters_are_worth_another_try_and_wrong_ones_are_not():
    whole = wire.encode_parameters(some_weights(), 0, identity=an_identity())
    for damage, kind in ((True, LinkClosedError), (False, TransportError)):
        payload = whole[:-10] if damage else whole
        expected = None if damage else {"other": torch.zeros(1)}
        with a_learner() as learner:
            link = ActorLink(
                an_identity(run_id=""), runtime=learner.runtime, rank=0, expected=expected
            )
            with link.connect(10):
                learner.server._service.board.put(publication(0, payload))
                with pytest.raises(kind) as caught:
                    link.wait_for_version(0, 10)
                assert type(caught.value) is kind or not damage


@pytest.mark.parametrize("run_id", ["/../../../..", "..", "a/b"])
def test_a_run_id_that_is_a_path_is_refused(run_id: str):
    with (
        a_hostile_learner(lambda: iter(()), an_identity(run_id=run_id)) as (_, runtime),
        pytest.raises(MismatchError) as caught,
    ):
        ActorLink(an_identity(run_id=""), runtime=runtime, rank=0).connect(10)
    assert [m.field for m in caught.value.fields] == ["run_id"]


def test_a_final_status_of_deep_json_is_a_refusal(monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Any, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "[" * 4000)

    monkeypatch.setattr(HostileLearner, "Ready", refuse)
    with (
        a_hostile_learner(lambda: iter(())) as (_, runtime),
        pytest.raises(TransportError, match="without readable fields"),
    ):
        ActorLink(an_identity(run_id=""), runtime=runtime, rank=0).connect(10)


# -- a connection that damages what it carries -----------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_damage_on_the_way_is_a_closed_link_and_the_actor_comes_back(seed: int):
    with a_learner() as learner:
        learner.server.publish(0, some_weights())
        proxy = DamagingProxy(learner.server.port, seed=seed)
        runtime = replace(learner.runtime, port=proxy.port)
        link = ActorLink(
            an_identity(run_id=""), runtime=runtime, rank=0, expected=some_weights()
        ).connect(20)
        try:
            assert link.wait_for_version(0, 20) is not None
            proxy.flips = 10**9
            end = time.monotonic() + 30
            broken: list[Exception] = []
            while not broken:
                assert time.monotonic() < end, "nothing ever broke"
                try:
                    link.send_transitions(some_transitions(20))
                    link.wait_for_version(1, 0.05)
                except TransportError as error:
                    broken.append(error)
            assert isinstance(broken[0], LinkClosedError), broken[0]
            proxy.flips = 0
            link = link.reconnect(20)
            assert link.wait_for_version(0, 20) is not None
        finally:
            link.close(flush_s=0.0)
            proxy.close()


def damaging(answers: list[Callable[[Any], None]], peers: list[str]) -> Callable[..., Any]:
    """A `Ready` that gives each of `answers` once, and then a whole one."""

    def ready(self: Any, request: Any, context: Any) -> Any:
        peers.append(context.peer())
        if answers:
            answers.pop(0)(context)
        else:
            context.send_initial_metadata(identity.sealed(self.ours.to_metadata()))
        return services_pb2.Empty()

    return ready


def another_run_id(context: Any) -> None:
    whole = identity.sealed(an_identity(run_id="run-1").to_metadata())
    context.send_initial_metadata([(k, v.replace("run-1", "run-3")) for k, v in whole])


def no_such_call(context: Any) -> None:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("damage", [another_run_id, no_such_call])
def test_a_first_contact_that_was_damaged_is_made_again_over_another_connection(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[Any], None]
):
    """Both sides of a connection remember headers, so damage to one of them would stay."""
    peers: list[str] = []
    monkeypatch.setattr(HostileLearner, "Ready", damaging([damage], peers))
    with a_hostile_learner(lambda: iter(()), an_identity(run_id="run-1")) as (_, runtime):
        link = ActorLink(an_identity(run_id=""), runtime=runtime, rank=0).connect(20)
        assert link.identity.run_id == "run-1"
        link.close(flush_s=0.0)
    assert len(set(peers)) == 2


def test_an_address_without_a_learner_is_believed_when_it_says_so_twice(
    monkeypatch: pytest.MonkeyPatch,
):
    peers: list[str] = []
    monkeypatch.setattr(HostileLearner, "Ready", damaging([no_such_call] * 9, peers))
    with (
        a_hostile_learner(lambda: iter(())) as (_, runtime),
        pytest.raises(TransportError, match="no learner service") as caught,
    ):
        ActorLink(an_identity(run_id=""), runtime=runtime, rank=0).connect(20)
    assert type(caught.value) is TransportError
    assert len(set(peers)) == 2


def test_a_learner_takes_a_damaged_caller_for_no_other_one():
    with a_learner() as learner, a_stub(learner) as stub:
        whole = identity.sealed(metadata_of(an_identity()))
        stub.Ready(services_pb2.Empty(), metadata=whole, timeout=5)
        damaged = [(k, v.replace("flow-sde", "flow-sdf")) for k, v in whole]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Ready(services_pb2.Empty(), metadata=damaged, timeout=5)
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert learner.counter("handshakes_refused_damaged") == 1


def test_what_is_remembered_of_a_refused_message_is_cut():
    raw = json.dumps({"type": "x" * 5000}).encode()
    with a_learner() as learner, a_stub(learner) as stub:
        send(stub, "SendInteractions", raw, metadata_of(an_identity(), secret=secret_from(stub)))
        learner.sink.wait_until(lambda: len(learner.sink.lost) == 1)
        (_, _, reason) = learner.sink.lost[0]
        assert 0 < len(reason) <= 1000


def test_links_are_whole_after_all_of_it():
    with a_learner() as learner:
        runtime = replace(learner.runtime)
        with ActorLink(an_identity(run_id=""), runtime=runtime, rank=0).connect(10) as link:
            learner.server.publish(0, some_weights())
            assert link.wait_for_version(0, 10) is not None
