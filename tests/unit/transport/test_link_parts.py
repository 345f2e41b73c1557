"""Small parts of the link: outbox, board, status codes, the loopback rule."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from pirl.config.recipe import RuntimeConfig
from pirl.errors import (
    ConfigError,
    EnvironmentNotReadyError,
    ExitCode,
    FieldMismatch,
    LinkClosedError,
    MismatchError,
    PirlError,
    TransportError,
)
from pirl.transport import channel, status
from pirl.transport.board import Board, Publication
from pirl.transport.identity import is_run_id
from pirl.transport.outbox import Outbox
from pirl.transport.refusal import RefusalLog


def sent(outbox: Outbox) -> list[bytes]:
    return [piece.data for piece in outbox.pieces(SimpleNamespace)]


def test_an_outbox_keeps_order_and_ends_when_closed_and_empty():
    outbox = Outbox(max_bytes=100)
    for message in (b"a", b"b", b"c"):
        outbox.put(message, timeout_s=1.0)
    outbox.close()
    assert sent(outbox) == [b"a", b"b", b"c"]


def test_a_full_outbox_makes_the_sender_wait_until_there_is_room():
    outbox = Outbox(max_bytes=4)
    outbox.put(b"1234", timeout_s=1.0)
    got: list[bytes] = []
    stream = outbox.pieces(SimpleNamespace)
    timer = threading.Timer(0.1, lambda: got.append(next(stream).data))
    timer.start()
    start = time.monotonic()
    outbox.put(b"5678", timeout_s=5.0)
    assert time.monotonic() - start > 0.05
    timer.join()
    assert got == [b"1234"]


def test_a_full_outbox_gives_up_after_its_deadline():
    outbox = Outbox(max_bytes=4)
    outbox.put(b"1234", timeout_s=1.0)
    start = time.monotonic()
    with pytest.raises(LinkClosedError, match=r"took nothing for 0\.1 s"):
        outbox.put(b"5", timeout_s=0.1)
    assert 0.05 < time.monotonic() - start < 2.0


def test_a_message_larger_than_the_outbox_fits_an_empty_one():
    outbox = Outbox(max_bytes=4)
    outbox.put(b"123456789", timeout_s=0.1)


def test_a_closed_outbox_takes_nothing_and_frees_a_waiting_sender():
    outbox = Outbox(max_bytes=1)
    outbox.put(b"1", timeout_s=1.0)
    threading.Timer(0.05, outbox.discard).start()
    with pytest.raises(LinkClosedError, match="has ended"):
        outbox.put(b"2", timeout_s=5.0)
    assert sent(outbox) == []


def always() -> bool:
    return True


def publication(version: int) -> Publication:
    return Publication(version=version, payload=b"x")


def test_each_reader_gets_the_latest_publication():
    board = Board()
    board.put(publication(0))
    board.put(publication(1))
    for _ in range(2):
        found = board.next_after(-1, goes_on=always)
        assert found is not None
        assert found.version == 1


def test_a_publication_wakes_a_waiting_reader_at_once():
    board = Board()
    board.put(publication(0))
    threading.Timer(0.05, lambda: board.put(publication(1))).start()
    start = time.monotonic()
    found = board.next_after(0, goes_on=always)
    assert found is not None
    assert found.version == 1
    assert time.monotonic() - start < 0.7


def test_versions_only_rise():
    board = Board()
    board.put(publication(1))
    with pytest.raises(ValueError, match="version 1 after version 1"):
        board.put(publication(1))


def test_a_final_board_gives_the_last_version_and_then_ends():
    board = Board()
    board.put(publication(4))
    board.finalise()
    assert board.next_after(3, goes_on=always) == publication(4)
    assert board.next_after(4, goes_on=always) is None


def test_a_reader_whose_own_condition_ends_is_freed_by_a_wake():
    board, state = Board(), {"on": True}

    def end() -> None:
        state["on"] = False
        board.wake()

    threading.Timer(0.05, end).start()
    start = time.monotonic()
    assert board.next_after(0, goes_on=lambda: state["on"]) is None
    assert time.monotonic() - start < 0.7


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_code_has_an_error(code: grpc.StatusCode):
    error = status.to_error(code, "some details", doing="testing")
    assert isinstance(error, PirlError)
    assert "testing" in str(error)


PERMANENT = {
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "NOT_FOUND",
    "UNIMPLEMENTED",
}


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_code_that_a_broken_connection_can_cause_is_worth_another_try(code: grpc.StatusCode):
    error = status.to_error(code, "x", doing="testing")
    assert isinstance(error, LinkClosedError) is (code.name not in PERMANENT)


@pytest.mark.parametrize("code", ["ABORTED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_a_deliberate_refusal_is_not_worth_another_try(code: str):
    error = status.to_error(grpc.StatusCode[code], "x", doing="testing", refused="gap")
    assert type(error) is TransportError
    assert "'gap'" in str(error)


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "NOT_FOUND", "UNIMPLEMENTED"])
def test_an_actor_that_was_let_in_once_makes_contact_again(code: str):
    """Its secret is no longer known, or the name of its call was damaged on the way."""
    error = status.to_error(grpc.StatusCode[code], "x", doing="testing", was_admitted=True)
    assert isinstance(error, LinkClosedError)


def test_a_final_status_of_deep_json_is_a_short_error():
    for details in ("[" * 50_000, '{"mismatch": ' + "[" * 50_000, '{"mismatch":[[[[1]]]]}'):
        error = status.to_error(grpc.StatusCode.FAILED_PRECONDITION, details, doing="testing")
        assert type(error) is TransportError
        assert len(str(error)) < 1000


def test_texts_of_a_mismatch_are_cut():
    details = json.dumps({"mismatch": [{"field": "f" * 999, "ours": None, "theirs": "y" * 999}]})
    error = status.to_error(grpc.StatusCode.FAILED_PRECONDITION, details, doing="testing")
    assert isinstance(error, MismatchError)
    assert len(str(error)) < 600


def test_a_mismatch_crosses_the_wire_with_both_values_turned_round():
    rows = [
        FieldMismatch(field="variant", ours="flow-sde", theirs="flow-noise"),
        FieldMismatch(field="denoising_steps", ours=3, theirs=None),
    ]
    details = status.mismatch_details(rows)
    error = status.to_error(grpc.StatusCode.FAILED_PRECONDITION, details, doing="testing")
    assert isinstance(error, MismatchError)
    assert error.exit_code == ExitCode.MISMATCH
    assert error.fields == (
        FieldMismatch(field="variant", ours="flow-noise", theirs="flow-sde"),
        FieldMismatch(field="denoising_steps", ours=None, theirs=3),
    )


def test_a_long_value_is_cut_so_that_the_status_fits_a_header():
    rows = [FieldMismatch(field=f"f{i}", ours="x" * 5000, theirs="y" * 5000) for i in range(11)]
    assert len(status.mismatch_details(rows)) < 7000


@pytest.mark.parametrize("details", ["", "no json", "{}", "[1]", json.dumps({"mismatch": [1]})])
def test_unreadable_mismatch_details_are_still_an_error(details: str):
    error = status.to_error(grpc.StatusCode.FAILED_PRECONDITION, details, doing="testing")
    assert type(error) is TransportError


def test_a_refused_token_is_a_mismatch_that_shows_no_token():
    error = status.to_error(grpc.StatusCode.UNAUTHENTICATED, "token", doing="testing")
    assert isinstance(error, MismatchError)
    assert [m.field for m in error.fields] == ["runtime.token"]
    assert error.fields[0].ours == status.HIDDEN


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("learner.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_known_by_address(host: str, expected: bool):
    assert channel.is_loopback(host) is expected


@pytest.mark.parametrize(
    ("settings", "is_safe"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "token": ""}, False),
        ({"host": "0.0.0.0", "token": "secret"}, False),
        ({"host": "0.0.0.0", "token": "secret", "insecure": True}, True),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "token": "secret", "tls_cert": "c", "tls_key": "k"}, True),
        ({"host": "0.0.0.0", "token": "secret", "tls_cert": "c"}, False),
        ({"host": "0.0.0.0", "token": "secret", "tls_cert": "c", "insecure": True}, False),
        ({"tls_key": "key.pem"}, False),
        ({"tls_cert": "cert.pem"}, False),
        ({"tls_ca": "ca.pem"}, False),
    ],
)
def test_a_bind_that_others_reach_needs_a_token_and_tls_and_no_half_of_it(
    settings: dict[str, Any], is_safe: bool
):
    if is_safe:
        channel.require_safe_bind(RuntimeConfig(**settings))
        return
    with pytest.raises(ConfigError) as caught:
        channel.require_safe_bind(RuntimeConfig(**settings))
    assert "secret" not in str(caught.value.errors[0].value)


def test_an_ipv6_address_is_bracketed():
    assert channel.address_of(RuntimeConfig(host="::1"), 5) == "[::1]:5"


def test_a_missing_certificate_is_named_without_its_folder():
    with pytest.raises(EnvironmentNotReadyError, match=r"TLS file missing\.pem"):
        channel.open_channel(RuntimeConfig(tls_cert="/nowhere/missing.pem"))


def test_a_pipe_or_device_in_place_of_a_certificate_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(EnvironmentNotReadyError, match="not a regular file"):
            channel.server_credentials(RuntimeConfig(tls_cert=name, tls_key=name))


def test_a_file_that_is_no_certificate_is_named_and_not_the_port(tmp_path: Path):
    (tmp_path / "text").write_text("no certificate")
    name = str(tmp_path / "text")
    with pytest.raises(EnvironmentNotReadyError, match="TLS files cannot be used"):
        channel.server_credentials(RuntimeConfig(tls_cert=name, tls_key=name))


def test_a_refusal_is_one_short_line_and_a_flood_of_them_is_one_line(
    caplog: pytest.LogCaptureFixture,
):
    log = RefusalLog(logging.getLogger("test"), pause_s=60.0)
    for _ in range(1000):
        log.line("token", "x\n" * 1000)
    log.line("secret", "another reason")
    assert len(caplog.records) == 2
    assert len(caplog.records[0].getMessage()) < 400
    assert "\n" not in caplog.records[0].getMessage()


def test_the_next_line_says_how_many_were_left_out(caplog: pytest.LogCaptureFixture):
    log = RefusalLog(logging.getLogger("test"), pause_s=60.0)
    for _ in range(5):
        log.line("token", "refused")
    log._last["token"] -= 100.0
    log.line("token", "refused")
    assert "4 more" in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "run_id",
    ["/../../../..", "..", ".", "", "a/b", "a\x00", "-a", "x" * 200, "a b", "a\nb", None, 3],
)
def test_a_run_id_is_never_a_path(run_id: object):
    assert not is_run_id(run_id)


def test_a_told_stop_frees_a_waiting_sender():
    outbox = Outbox(max_bytes=1)
    outbox.put(b"1", timeout_s=1.0)
    with pytest.raises(LinkClosedError, match="told to stop"):
        outbox.put(b"2", timeout_s=60.0, give_up=lambda: True)
