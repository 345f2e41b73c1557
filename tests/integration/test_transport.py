"""Learner and actors over real gRPC on loopback: agreement, refusal, loss, replacement."""

from __future__ import annotations

import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from lerobot.rl.actor import establish_learner_connection
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import (
    bytes_to_state_dict,
    grpc_channel_options,
    python_object_to_bytes,
    receive_bytes_in_chunks,
    send_bytes_in_chunks,
    transitions_to_bytes,
)

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "unit" / "transport"))

from transport_builders import (  # noqa: E402
    RecordingSink,
    a_rollout_done,
    a_schema,
    an_identity,
    same_tensors,
    some_transitions,
    some_weights,
)

from pirl import hooks  # noqa: E402
from pirl.config.recipe import RuntimeConfig  # noqa: E402
from pirl.errors import (  # noqa: E402
    ConfigError,
    EnvironmentNotReadyError,
    ExitCode,
    FieldMismatch,
    LinkClosedError,
    MismatchError,
    TransportError,
)
from pirl.transport import identity, wire  # noqa: E402
from pirl.transport.channel import ping_timeout_s  # noqa: E402
from pirl.transport.client import ActorLink  # noqa: E402
from pirl.transport.identity import Identity  # noqa: E402
from pirl.transport.server import LearnerServer  # noqa: E402

pytestmark = pytest.mark.integration

BEAT_S = 0.2
IDENTITY_FIELDS = [name for name in an_identity().claims() if name != "run_id"]
OTHER_VALUE: dict[str, Any] = {
    name: 99 if isinstance(value, int) else "other"
    for name, value in an_identity().claims().items()
}


class Learner:
    """A started server, its sink and a runtime config that reaches it."""

    def __init__(self, server: LearnerServer, sink: RecordingSink, runtime: RuntimeConfig) -> None:
        self.server = server
        self.sink = sink
        self.runtime = replace(runtime, port=server.port)

    def link(self, rank: int = 0, *, ours: Identity | None = None, **runtime: Any) -> ActorLink:
        return ActorLink(
            ours or an_identity(run_id=""), runtime=replace(self.runtime, **runtime), rank=rank
        )

    def counter(self, name: str) -> int:
        return self.server.counters().get(name, 0)


@contextmanager
def a_learner(
    *, ours: Identity | None = None, sink: RecordingSink | None = None, **settings: Any
) -> Iterator[Learner]:
    values = {"port": 0, "heartbeat_s": BEAT_S, "actor_timeout_s": 3.0} | settings
    runtime = RuntimeConfig(**values)
    sink = sink or RecordingSink()
    server = LearnerServer(ours or an_identity(), runtime=runtime, schema=a_schema(), sink=sink)
    server.start()
    try:
        yield Learner(server, sink, runtime)
    finally:
        server.stop(deadline_s=2.0)


@contextmanager
def a_peer(role: str, runtime: RuntimeConfig, **options: Any) -> Iterator[Peer]:
    peer = Peer(role, runtime, **options)
    try:
        yield peer
    finally:
        peer.end()


class Peer:
    """`transport_peer.py` in a process; lines are read with a deadline."""

    def __init__(self, role: str, runtime: RuntimeConfig, **options: Any) -> None:
        names = ("port", "heartbeat_s", "actor_timeout_s", "actors")
        values = {name: getattr(runtime, name) for name in names}
        argument = json.dumps({"role": role, **values, **options})
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "integration" / "transport_peer.py"), argument],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def expect(self, event: str, timeout_s: float = 60.0) -> dict[str, Any]:
        found = self._lines.get(timeout=timeout_s)
        assert found["event"] == event, found
        return found

    def send_signal(self, signum: signal.Signals) -> None:
        os.kill(self.process.pid, signum)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def within(seconds: float, condition: Callable[[], bool]) -> float:
    """Seconds until `condition` held; fails when it does not in time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


# -- agreement -------------------------------------------------------------------------------------


def test_versions_and_decisions_cross_the_link_exactly():
    with a_learner() as learner, learner.link().connect(10) as link:
        learner.server.publish(0, some_weights(0.25))
        message = link.wait_for_version(0, 10)
        assert message is not None
        assert same_tensors(message.weights, some_weights(0.25))
        sent = some_transitions(5)
        link.send_transitions(sent)
        link.send_interaction(a_rollout_done(decisions=5))
        learner.sink.wait_until(lambda: len(learner.sink.received) == 5)
        learner.sink.wait_until(lambda: len(learner.sink.interactions) == 1)
    for before, after in zip(sent, learner.sink.received, strict=True):
        assert same_tensors(after["state"], before["state"])
        assert same_tensors(after["complementary_info"], before["complementary_info"])
    assert learner.sink.interactions[0] == (0, link.actor_id, a_rollout_done(decisions=5))
    assert learner.counter("transitions_received") == link.transitions_sent == 5
    assert learner.counter("bytes_received") == link.bytes_sent


def test_a_link_says_nothing_by_itself(caplog: pytest.LogCaptureFixture):
    """The gate makes contact dozens of times; what a broken link means is for its user to say."""
    caplog.set_level(logging.DEBUG, logger="pirl.transport.client")
    with a_learner() as learner, learner.link().connect(10) as link:
        learner.server.stop(deadline_s=1.0)
        with pytest.raises(LinkClosedError):
            link.wait_for_version(0, 10)
    assert [r.getMessage() for r in caplog.records if r.name == "pirl.transport.client"] == []


def test_the_actor_adopts_the_run_id_and_both_sides_record_the_handshake():
    with a_learner() as learner, learner.link().connect(10) as link:
        assert link.identity.run_id == "run-1"
        record = link.handshake()
        assert record["learner"] == an_identity().claims()
        assert record["rank"] == 0
        (answer,) = learner.server.handshakes()
        assert answer.accepted
        assert (answer.rank, answer.actor_id) == (0, link.actor_id)


def test_a_publication_arrives_without_waiting_for_a_clock():
    with a_learner() as learner, learner.link().connect(10) as link:
        delays: list[float] = []
        for version in range(20):
            start = time.monotonic()
            learner.server.publish(version, some_weights(version))
            assert link.wait_for_version(version, 10) is not None
            delays.append(time.monotonic() - start)
        assert sorted(delays)[10] < 0.5


def test_a_late_actor_gets_the_latest_version_at_once():
    with a_learner() as learner:
        for version in range(3):
            learner.server.publish(version, some_weights(version))
        with learner.link().connect(10) as link:
            message = link.wait_for_version(0, 10)
            assert message is not None
            assert message.version == 2


def test_two_actors_both_get_every_version():
    with (
        a_learner(actors=2) as learner,
        learner.link(0).connect(10) as first,
        learner.link(1).connect(10) as second,
    ):
        for version in range(10):
            learner.server.publish(version, some_weights(version))
            for link in (first, second):
                message = link.wait_for_version(version, 10)
                assert message is not None
                assert message.version == version
        assert learner.server.alive_ranks() == [0, 1]
    assert learner.counter("published_versions") == 10


def test_an_actor_that_reads_slowly_holds_nobody_up_and_then_gets_the_latest():
    with a_learner(actors=2, actor_timeout_s=30.0) as learner:
        learner.server.publish(0, some_weights())
        with (
            a_peer("actor", learner.runtime, rank=1) as slow,
            learner.link(0).connect(10) as link,
        ):
            slow.expect("connected")
            slow.expect("sent")
            slow.send_signal(signal.SIGSTOP)
            big = {"w": some_weights()["model.transformer.a"].repeat(50_000, 4)}
            for version in range(1, 5):
                learner.server.publish(version, big)
                assert link.wait_for_version(version, 10) is not None
            slow.send_signal(signal.SIGCONT)
            seen = slow.expect("sent")["version"]
            while seen < 4:
                seen = slow.expect("sent")["version"]


def test_a_wait_without_a_new_version_ends_with_none_and_leaves_the_link_whole():
    with a_learner() as learner, learner.link().connect(10) as link:
        start = time.monotonic()
        assert link.wait_for_version(0, 0.2) is None
        assert 0.15 < time.monotonic() - start < 5.0
        learner.server.publish(0, some_weights())
        assert link.wait_for_version(0, 10) is not None


def test_a_finished_run_reaches_the_actor_as_a_final_message_and_ends_in_order():
    with a_learner() as learner:
        link = learner.link().connect(10)
        learner.server.publish(0, some_weights())
        assert link.wait_for_version(0, 10) is not None
        learner.server.finish()
        message = link.wait_for_version(1, 10)
        assert message is not None
        assert message.final
        assert link.finished
        link.send_transitions(some_transitions(1))
        link.close()
        learner.sink.wait_until(lambda: learner.sink.lost == [(0, link.actor_id, "goodbye")])
        assert len(learner.sink.received) == 1


def test_closing_a_link_delivers_what_was_still_waiting():
    with a_learner() as learner:
        link = learner.link().connect(10)
        for seed in range(20):
            link.send_transitions(some_transitions(5, seed=seed))
        link.close()
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert len(learner.sink.received) == 100


# -- refusal: actor to learner ---------------------------------------------------------------------


@pytest.mark.parametrize("name", IDENTITY_FIELDS)
def test_the_learner_refuses_each_differing_field_and_stays_healthy(name: str):
    mine = getattr(an_identity(), name)
    with a_learner() as learner:
        learner.server.publish(0, some_weights())
        other = replace(an_identity(run_id=""), **{name: OTHER_VALUE[name]})
        with pytest.raises(MismatchError) as caught:
            learner.link(ours=other).connect(10)
        assert caught.value.exit_code == ExitCode.MISMATCH
        assert caught.value.fields == (
            FieldMismatch(field=name, ours=OTHER_VALUE[name], theirs=mine),
        )
        assert learner.counter("handshakes_refused_mismatch") == 1
        assert learner.counter("transitions_received") == 0
        assert learner.server.alive_ranks() == []
        with learner.link().connect(10) as link:
            assert link.wait_for_version(0, 10) is not None


def test_an_actor_of_another_run_is_refused():
    with a_learner() as learner, pytest.raises(MismatchError) as caught:
        learner.link(ours=an_identity(run_id="run-0")).connect(10)
    assert [(m.field, m.ours, m.theirs) for m in caught.value.fields] == [
        ("run_id", "run-0", "run-1")
    ]


def test_hash_identity_lets_machines_have_their_own_path():
    elsewhere = an_identity(run_id="", config_path="elsewhere.json")
    with a_learner(config_identity="hash") as learner:
        learner.server.publish(0, some_weights())
        with learner.link(ours=elsewhere).connect(10) as link:
            assert link.wait_for_version(0, 10) is not None


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "Ready": lambda stub, metadata: stub.Ready(services_pb2.Empty(), metadata=metadata, timeout=5),
    "StreamParameters": lambda stub, metadata: list(
        stub.StreamParameters(services_pb2.Empty(), metadata=metadata, timeout=5)
    ),
    "SendTransitions": lambda stub, metadata: stub.SendTransitions(
        iter(()), metadata=metadata, timeout=5
    ),
    "SendInteractions": lambda stub, metadata: stub.SendInteractions(
        iter(()), metadata=metadata, timeout=5
    ),
}


@contextmanager
def a_stub(learner: Learner) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{learner.server.port}") as channel:
        yield services_pb2_grpc.LearnerServiceStub(channel)


def metadata_of(
    ours: Identity,
    *,
    token: str | None = None,
    rank: int = 0,
    actor_id: str = "stock",
    secret: str | None = None,
) -> Any:
    caller = identity.caller_metadata(actor_id=actor_id, rank=rank, token=token, secret=secret)
    return [*ours.to_metadata(), *caller]


def secret_from(stub: Any, **caller: Any) -> str:
    """What `Ready` hands out."""
    metadata = metadata_of(an_identity(), **caller)
    _, call = stub.Ready.with_call(services_pb2.Empty(), metadata=metadata, timeout=5)
    found = identity.text_of(call.initial_metadata(), identity.SECRET_KEY)
    assert found is not None
    return found


@pytest.mark.parametrize("call", CALLS)
def test_every_call_without_metadata_is_refused_with_all_fields_named(call: str):
    with a_learner() as learner, a_stub(learner) as stub:
        learner.server.publish(0, some_weights())
        with pytest.raises(grpc.RpcError) as caught:
            CALLS[call](stub, None)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        rows = json.loads(caught.value.details())["mismatch"]
        named = [row["field"] for row in rows]
        assert named == [*an_identity().claims(), "actor_id", "rank"]
        assert all(row["theirs"] is None for row in rows)
        assert learner.server.alive_ranks() == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_every_call_with_a_wrong_token_is_refused_and_learns_nothing(call: str, token: str | None):
    with a_learner(token="secret") as learner, a_stub(learner) as stub:
        # A wrong variant as well: without the token not even that may be told.
        other = an_identity(variant="flow-noise")
        with pytest.raises(grpc.RpcError) as caught:
            CALLS[call](stub, metadata_of(other, token=token))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert caught.value.details() == "token"


def test_a_wrong_token_stops_the_actor_with_a_mismatch_that_shows_no_token(
    caplog: pytest.LogCaptureFixture,
):
    with a_learner(token="right-secret") as learner:
        with pytest.raises(MismatchError) as caught:
            learner.link(token="wrong-secret").connect(10)
        assert caught.value.exit_code == ExitCode.MISMATCH
        assert [m.field for m in caught.value.fields] == ["runtime.token"]
        shown = str(caught.value) + caplog.text + repr(learner.server.handshakes())
        assert "secret" not in shown
        with learner.link().connect(10):
            within(5.0, lambda: learner.server.alive_ranks() == [0])


def test_with_the_handshake_hook_a_wrong_actor_gets_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(hooks.VARIABLE, "handshake")
    with a_learner() as learner:
        learner.server.publish(0, some_weights())
        with learner.link(ours=an_identity(run_id="", variant="flow-noise")).connect(10) as link:
            assert link.wait_for_version(0, 10) is not None


def test_one_actor_too_many_is_refused_at_once_with_a_readable_reason():
    with a_learner() as learner, learner.link(0).connect(10):
        start = time.monotonic()
        with pytest.raises(TransportError, match=r"takes 1 actors.*runtime\.actors"):
            learner.link(1).connect(30)
        assert time.monotonic() - start < 5.0
        within(5.0, lambda: learner.server.alive_ranks() == [0])


def test_a_second_actor_of_the_same_rank_is_refused_and_the_first_goes_on():
    with a_learner() as learner, learner.link(0).connect(10) as first:
        start = time.monotonic()
        with pytest.raises(TransportError, match="another living actor") as caught:
            learner.link(0).connect(30)
        assert first.actor_id not in str(caught.value)
        assert time.monotonic() - start < 10.0
        learner.server.publish(0, some_weights())
        assert first.wait_for_version(0, 10) is not None


# -- refusal: learner to actor ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [*IDENTITY_FIELDS, "run_id"])
def test_the_actor_refuses_each_differing_field_of_a_learner_that_let_it_in(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    theirs = replace(an_identity(), **{name: OTHER_VALUE[name]})
    with a_learner(ours=theirs) as learner:
        # A learner that checks nothing: only the actor's own check is left.
        monkeypatch.setattr("pirl.transport.admission.identity.check", check_only_on_actors)
        with pytest.raises(MismatchError) as caught:
            learner.link(ours=an_identity()).connect(10)
        assert caught.value.fields == (
            FieldMismatch(field=name, ours=getattr(an_identity(), name), theirs=OTHER_VALUE[name]),
        )


def check_only_on_actors(ours: Identity, theirs: Any, *, config_identity: str) -> Any:
    is_server = threading.current_thread().name.startswith("pirl-learner-rpc")
    return [] if is_server else identity.compare(ours, theirs, config_identity=config_identity)


@pytest.mark.parametrize("name", IDENTITY_FIELDS)
def test_no_tensor_is_handed_out_when_published_parameters_differ(name: str):
    theirs = replace(an_identity(), **{name: OTHER_VALUE[name]})
    with a_learner() as learner, learner.link().connect(10) as link:
        monkey = wire.encode_parameters(some_weights(), 0, identity=theirs)
        learner.server._service.board.put(publication(0, monkey))
        with pytest.raises(MismatchError) as caught:
            link.wait_for_version(0, 10)
        assert [m.field for m in caught.value.fields] == [name]


def publication(version: int, payload: bytes) -> Any:
    from pirl.transport.board import Publication

    return Publication(version=version, payload=payload)


def test_parameters_without_identity_are_refused_as_stock_lerobot_sends_them():
    stock = pickle_free_state_dict()
    with a_learner() as learner, learner.link().connect(10) as link:
        learner.server._service.board.put(publication(0, stock))
        with pytest.raises(MismatchError) as caught:
            link.wait_for_version(0, 10)
        assert [m.field for m in caught.value.fields] == list(an_identity().claims())
        assert all(m.theirs is None for m in caught.value.fields)


def pickle_free_state_dict() -> bytes:
    from lerobot.transport.utils import state_to_bytes

    return state_to_bytes({"policy": some_weights()})  # pyright: ignore[reportArgumentType]


def test_parameters_of_other_shapes_are_refused():
    with a_learner() as learner:
        link = ActorLink(
            an_identity(run_id=""), runtime=learner.runtime, rank=0, expected=some_weights()
        )
        with link.connect(10):
            learner.server.publish(
                0, {**some_weights(), "more": some_weights()["noise_head.log_std"]}
            )
            with pytest.raises(TransportError, match="unexpected"):
                link.wait_for_version(0, 10)


# -- messages no actor may send --------------------------------------------------------------------


def test_a_transition_outside_the_schema_gives_its_actor_up_and_nobody_else():
    with (
        a_learner(actors=2) as learner,
        learner.link(0).connect(10) as bad,
        learner.link(1).connect(10) as good,
    ):
        items = some_transitions(1)
        items[0]["action"] = items[0]["action"].double()
        bad.send_transitions(items)
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert learner.sink.lost[0][0] == 0
        assert "action is torch.float64" in learner.sink.lost[0][2]
        with pytest.raises(TransportError, match=r"action is torch\.float64"):
            bad.wait_for_version(0, 10)
        with pytest.raises(TransportError):
            bad.send_transitions(some_transitions(1))
        good.send_transitions(some_transitions(1))
        learner.sink.wait_until(lambda: len(learner.sink.received) == 1)
        assert learner.server.alive_ranks() == [1]
        assert learner.counter("messages_refused") == 1


def test_a_rollout_of_another_rank_is_refused():
    with a_learner(actors=2) as learner, learner.link(0).connect(10) as link:
        link.send_interaction(a_rollout_done(rank=1))
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert learner.sink.interactions == []


class Command:
    """Unpickling this creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("call", ["SendTransitions", "SendInteractions"])
def test_a_pickle_on_the_wire_is_never_run(call: str, tmp_path: Path):
    canary = tmp_path / "ran"
    kind = {
        "SendTransitions": services_pb2.Transition,
        "SendInteractions": services_pb2.InteractionMessage,
    }
    raw = pickle.dumps(Command(canary))
    with a_learner() as learner, a_stub(learner) as stub:
        metadata = metadata_of(an_identity(), secret=secret_from(stub))
        upload = getattr(stub, call).future(
            send_bytes_in_chunks(raw, kind[call]), metadata=metadata, timeout=5
        )
        if call == "SendTransitions":
            assert upload.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert learner.counter("messages_refused") == 1
        else:
            assert upload.code() is grpc.StatusCode.OK
            assert learner.counter("pickles_refused") == 1
        assert not canary.exists()
        assert learner.sink.received == []
        assert learner.sink.interactions == []


# -- LeRobot's own client functions ----------------------------------------------------------------


def test_lerobots_own_client_functions_talk_to_the_learner():
    with (
        a_learner() as learner,
        grpc.insecure_channel(
            f"127.0.0.1:{learner.server.port}", grpc_channel_options()
        ) as channel,
    ):
        learner.server.publish(3, some_weights(0.5))
        metadata = metadata_of(an_identity(run_id=""))
        stub = services_pb2_grpc.LearnerServiceStub(WithMetadata(channel, metadata))
        stop = threading.Event()
        assert establish_learner_connection(stub, stop, attempts=2)
        received = receive_bytes_in_chunks(
            stub.StreamParameters(services_pb2.Empty()), None, stop, log_prefix="test"
        )
        found = bytes_to_state_dict(received)
        assert same_tensors(found["policy"], some_weights(0.5))
        assert int(found["pirl_version"]) == 3
        sent = some_transitions(3)
        stub.SendTransitions(
            send_bytes_in_chunks(transitions_to_bytes(sent), services_pb2.Transition)
        )
        stub.SendInteractions(
            send_bytes_in_chunks(
                python_object_to_bytes({"Episodic reward": 1.0}), services_pb2.InteractionMessage
            )
        )
        learner.sink.wait_until(lambda: len(learner.sink.received) == 3)
        assert same_tensors(learner.sink.received[2]["state"], sent[2]["state"])
        assert learner.counter("pickles_refused") == 1


class WithMetadata(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Adds call metadata to every call of a channel, and the secret that `Ready` handed out; a stock
    client needs nothing else.
    """

    def __new__(cls, channel: grpc.Channel, metadata: Any) -> Any:
        self = super().__new__(cls)
        self.metadata = metadata
        return grpc.intercept_channel(channel, self)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = self._add(continuation, details, request)
        secret = identity.text_of(call.initial_metadata(), identity.SECRET_KEY)
        self.metadata = [*self.metadata, (identity.SECRET_KEY, secret)]
        return call

    def _add(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self.metadata), request)

    intercept_unary_stream = intercept_stream_unary = _add


# -- loss and replacement --------------------------------------------------------------------------


def test_a_killed_actor_is_noticed_within_a_second_and_replaced():
    with a_learner() as learner:
        learner.server.publish(0, some_weights())
        with a_peer("actor", learner.runtime, rank=0) as victim:
            first_id = victim.expect("connected")["actor_id"]
            victim.expect("sent")
            learner.sink.wait_until(lambda: len(learner.sink.interactions) == 1)
            victim.send_signal(signal.SIGKILL)
            learner.sink.wait_until(lambda: bool(learner.sink.lost), timeout_s=2.0)
        assert learner.sink.lost == [(0, first_id, "connection closed")]
        with learner.link(0).connect(10) as replacement:
            assert replacement.wait_for_version(0, 10) is not None
            replacement.send_transitions(some_transitions(1))
            learner.sink.wait_until(lambda: learner.sink.transitions[-1][1] == replacement.actor_id)


def test_a_frozen_actor_is_given_up_after_its_timeout_and_replaced():
    with a_learner(actor_timeout_s=1.5, actors=2) as learner:
        learner.server.publish(0, some_weights())
        with (
            a_peer("actor", learner.runtime, rank=0) as frozen,
            learner.link(1).connect(10) as other,
        ):
            frozen.expect("connected")
            frozen.expect("sent")
            frozen.send_signal(signal.SIGSTOP)
            # Keepalive (two heartbeats) or silence, whichever notices first.
            learner.sink.wait_until(lambda: bool(learner.sink.lost), timeout_s=4.0)
            assert learner.sink.lost[0][0] == 0
            with learner.link(0).connect(10) as replacement:
                learner.server.publish(1, some_weights(1.0))
                assert replacement.wait_for_version(1, 10) is not None
                assert other.wait_for_version(1, 10) is not None
                assert learner.server.alive_ranks() == [0, 1]


def test_a_frozen_actor_is_noticed_by_keepalive_alone():
    with a_learner(actor_timeout_s=60.0) as learner:
        with a_peer("actor", learner.runtime, rank=0) as frozen:
            frozen.expect("connected")
            frozen.send_signal(signal.SIGSTOP)
            limit_s = BEAT_S + ping_timeout_s(BEAT_S) + 1.5
            learner.sink.wait_until(lambda: bool(learner.sink.lost), timeout_s=limit_s)
        assert learner.sink.lost[0][2] == "connection closed"


def test_a_silent_actor_whose_connection_lives_is_given_up():
    with a_learner(actor_timeout_s=0.6) as learner, a_stub(learner) as stub:
        metadata = metadata_of(an_identity(), secret=secret_from(stub))
        stream = stub.StreamParameters(services_pb2.Empty(), metadata=metadata)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED)
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert "silent for" in learner.sink.lost[0][2]


def test_heartbeats_keep_an_idle_actor_alive():
    with a_learner(actor_timeout_s=0.8) as learner, learner.link().connect(10):
        time.sleep(2.0)
        assert learner.server.alive_ranks() == [0]
        assert learner.counter("heartbeat_received") >= 5
        assert learner.sink.lost == []


@pytest.mark.parametrize(
    ("signum", "limit_s"),
    [(signal.SIGKILL, 2.0), (signal.SIGSTOP, BEAT_S + ping_timeout_s(BEAT_S) + 1.5)],
)
def test_a_learner_that_dies_or_freezes_ends_its_actor_within_seconds(
    signum: signal.Signals, limit_s: float
):
    runtime = RuntimeConfig(port=0, heartbeat_s=BEAT_S)
    with a_peer("learner", runtime) as learner:
        port = learner.expect("listening")["port"]
        link = ActorLink(an_identity(run_id=""), runtime=replace(runtime, port=port), rank=0)
        with link.connect(10):
            assert link.wait_for_version(0, 10) is not None
            learner.send_signal(signum)
            start = time.monotonic()
            with pytest.raises(LinkClosedError):
                link.wait_for_version(1, 30)
            assert time.monotonic() - start < limit_s
            with pytest.raises(LinkClosedError):
                link.send_transitions(some_transitions(1))


def test_a_learner_that_stops_before_its_run_ended_is_a_closed_link():
    with a_learner() as learner:
        link = learner.link().connect(10)
        learner.server.stop(deadline_s=2.0)
        with pytest.raises(LinkClosedError):
            link.wait_for_version(0, 10)
        assert not link.finished
        link.close()


def test_a_link_reconnects_to_a_restarted_learner_of_the_same_run_only():
    with a_learner() as learner:
        link = learner.link().connect(10)
        port = learner.server.port
    with pytest.raises(LinkClosedError):
        link.wait_for_version(0, 10)
    with a_learner(port=port) as restarted:
        again = link.reconnect(10)
        restarted.server.publish(5, some_weights())
        message = again.wait_for_version(0, 10)
        assert message is not None
        assert message.version == 5
        assert again.actor_id == link.actor_id
        again.close()
    with a_learner(port=port, ours=an_identity(run_id="run-2")), pytest.raises(MismatchError):
        again.reconnect(10)


def test_an_actor_that_returns_before_its_loss_was_seen_is_a_new_incarnation():
    with a_learner() as learner:
        first = learner.link(0).connect(10)
        again = ActorLink(
            an_identity(),
            runtime=learner.runtime,
            rank=0,
            actor_id=first.actor_id,
            secret=first._secret,
        ).connect(10)
        learner.sink.wait_until(lambda: bool(learner.sink.lost))
        assert learner.sink.lost == [(0, first.actor_id, "came back in a new incarnation")]
        again.send_transitions(some_transitions(1))
        learner.sink.wait_until(lambda: len(learner.sink.received) == 1)
        again.close()
        first.close()


def test_no_learner_is_a_clear_error_at_the_deadline():
    link = ActorLink(an_identity(run_id=""), runtime=RuntimeConfig(port=1), rank=0)
    start = time.monotonic()
    with pytest.raises(LinkClosedError, match=r"within 1 s.*pirl\.learner"):
        link.connect(1.0)
    assert time.monotonic() - start < 4.0


def test_an_actor_may_start_before_its_learner():
    with a_learner() as learner:
        port = learner.server.port
    runtime = RuntimeConfig(port=port, heartbeat_s=BEAT_S)
    link = ActorLink(an_identity(run_id=""), runtime=runtime, rank=0)
    connecting = threading.Thread(target=link.connect, args=(20,))
    connecting.start()
    time.sleep(0.5)
    with a_learner(port=port) as late:
        connecting.join(20)
        within(5.0, lambda: late.server.alive_ranks() == [0])
        link.close()


# -- backpressure, binding, cleanliness ------------------------------------------------------------


class StalledSink(RecordingSink):
    """Takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def on_transitions(self, *args: Any) -> None:
        self.released.wait(30)
        super().on_transitions(*args)


@contextmanager
def a_stalled_learner() -> Iterator[tuple[Learner, StalledSink]]:
    sink = StalledSink()
    with a_learner(sink=sink, actor_timeout_s=30.0) as learner:
        try:
            yield learner, sink
        finally:
            sink.released.set()


def wait_until_it_stands_still(sent: list[int]) -> None:
    """The buffers of both sides, whatever their size, are full when a second goes by without a send."""
    end, seen = time.monotonic() + 60, -1
    while seen != len(sent):
        assert time.monotonic() < end, "nothing ever held the sender up"
        seen = len(sent)
        time.sleep(1.0)


def test_a_stalled_learner_holds_its_actor_up_and_loses_nothing():
    many = some_transitions(20) * 20
    told, sent = threading.Event(), list[int]()
    with a_stalled_learner() as (learner, sink), learner.link().connect(10) as link:
        link._transitions._max_bytes = 20_000

        def send_until_told() -> None:
            while not told.is_set():
                link.send_transitions(many)
                sent.append(len(many))

        sender = threading.Thread(target=send_until_told)
        sender.start()
        wait_until_it_stands_still(sent)
        assert sender.is_alive()
        assert sink.received == []
        told.set()
        sink.released.set()
        sender.join(300)
        sink.wait_until(lambda: len(sink.received) == sum(sent), timeout_s=300)


def test_closing_a_link_to_a_stalled_learner_keeps_its_deadline():
    many = some_transitions(20) * 50
    with a_stalled_learner() as (learner, _):
        link = ActorLink(
            an_identity(run_id=""), runtime=learner.runtime, rank=0, send_timeout_s=0.3
        ).connect(10)
        link._transitions._max_bytes = 20_000

        def fill_the_buffers_of_both_sides() -> None:
            for _ in range(100):
                link.send_transitions(many)

        with pytest.raises(LinkClosedError, match="took nothing for"):
            fill_the_buffers_of_both_sides()
        start = time.monotonic()
        link.close(flush_s=0.5)
        assert time.monotonic() - start < 5.0


def test_a_bind_that_others_reach_without_a_token_is_refused():
    with pytest.raises(ConfigError, match=r"runtime\.token"), a_learner(host="0.0.0.0"):
        pass


def test_a_taken_port_is_reported_and_never_shared():
    with (
        a_learner() as learner,
        pytest.raises(EnvironmentNotReadyError, match="cannot listen"),
        a_learner(port=learner.server.port),
    ):
        pass


def test_a_closed_link_and_a_stopped_learner_leave_no_thread_and_no_port():
    before = set(threading.enumerate())
    with a_learner(actors=2) as learner:
        learner.server.publish(0, some_weights())
        links = [learner.link(rank).connect(10) for rank in range(2)]
        for link in links:
            assert link.wait_for_version(0, 10) is not None
        links[0].close()
        # The second one is left to the learner's stop.
        port = learner.server.port
    with pytest.raises(LinkClosedError):
        links[1].wait_for_version(1, 10)
    links[1].close()
    within(5.0, lambda: set(threading.enumerate()) <= before)
    with a_learner(port=port):
        pass


def test_stop_keeps_its_deadline_with_an_actor_that_never_leaves():
    with a_learner() as learner:
        link = learner.link().connect(10)
        learner.server.finish()
        start = time.monotonic()
        learner.server.stop(deadline_s=1.0)
        assert time.monotonic() - start < 4.0
        link.close()
