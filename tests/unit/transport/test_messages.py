"""Interactions: small JSON, checked field by field; a pickle is recognised and never loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lerobot.transport.utils import python_object_to_bytes
from transport_builders import a_rollout_done

from pirl.errors import TransportError
from pirl.transport import messages
from pirl.transport.refusal import RefusedMessageError, reason_of


@pytest.mark.parametrize("message", [a_rollout_done(), {"type": "heartbeat"}, {"type": "goodbye"}])
def test_each_type_comes_back(message: dict[str, Any]):
    assert messages.decode_interaction(messages.encode_interaction(message)) == message


def test_stock_lerobots_pickle_is_recognised():
    assert messages.is_pickle(python_object_to_bytes({"Episodic reward": 1.0}))
    assert not messages.is_pickle(messages.encode_interaction(a_rollout_done()))


def test_a_pickled_command_is_refused_and_never_run(tmp_path: Path):
    canary = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {canary}",))

    with pytest.raises(TransportError):
        messages.decode_interaction(python_object_to_bytes(Bomb()))
    assert not canary.exists()


def an_episode(**changes: Any) -> list[dict[str, Any]]:
    return [{**a_rollout_done()["episodes"][0], **changes}]


@pytest.mark.parametrize(
    "message",
    [
        [],
        None,
        {},
        {"type": "shutdown"},
        {"type": ["heartbeat"]},
        a_rollout_done(version=-1),
        a_rollout_done(version=1.0),
        a_rollout_done(version=True),
        a_rollout_done(decisions="4"),
        a_rollout_done(rank=None),
        a_rollout_done(extra=1),
        a_rollout_done(decisions=2**63),
        a_rollout_done(episodes={}),
        a_rollout_done(episodes=[1]),
        a_rollout_done(episodes=an_episode(success=1)),
        a_rollout_done(episodes=an_episode(seed=1.5)),
        a_rollout_done(episodes=an_episode(task="x" * 1000)),
        a_rollout_done(episodes=an_episode(extra=1)),
        a_rollout_done(episodes=[{}]),
        a_rollout_done(episodes=an_episode() * (messages.MAX_EPISODES + 1)),
        a_rollout_done(metrics=[]),
        a_rollout_done(metrics={"a": "b"}),
        a_rollout_done(metrics={"a": 10**400}),
        a_rollout_done(metrics={str(i): 0.0 for i in range(messages.MAX_METRICS + 1)}),
        {k: v for k, v in a_rollout_done().items() if k != "episodes"},
    ],
    ids=lambda m: json.dumps(m)[:60],
)
def test_a_message_outside_the_format_is_refused_on_both_sides(message: Any):
    with pytest.raises(TransportError):
        messages.decode_interaction(messages.with_checksum(json.dumps(message).encode()))
    with pytest.raises(TransportError):
        messages.encode_interaction(message)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"type":"heartbeat"',
        b'{"type":"rollout_done","version":' + b"1" * 5000 + b"}",
        json.dumps(a_rollout_done(metrics={"a": 0.5})).replace("0.5", "NaN").encode(),
        json.dumps(a_rollout_done(metrics={"a": 0.5})).replace("0.5", "Infinity").encode(),
        json.dumps(a_rollout_done(metrics={"a": 0.5})).replace("0.5", "1e999").encode(),
    ],
    ids=["empty", "cut", "not utf-8", "deep", "unclosed", "digits", "nan", "inf", "overflow"],
)
def test_bytes_that_are_no_usable_json_are_refused(raw: bytes):
    with pytest.raises(TransportError) as caught:
        messages.decode_interaction(messages.with_checksum(raw))
    assert reason_of(caught.value) == "malformed"
    if raw:
        with pytest.raises(TransportError) as caught:
            messages.decode_interaction(raw)
        assert reason_of(caught.value) == "unreadable"


@pytest.mark.parametrize("message", [a_rollout_done(), {"type": "heartbeat"}, {"type": "goodbye"}])
def test_every_single_flipped_bit_is_damage_and_never_another_message(message: dict[str, Any]):
    raw = messages.encode_interaction(message)
    for place in range(8 * len(raw)):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(RefusedMessageError) as caught:
            messages.decode_interaction(damaged)
        assert caught.value.reason == "unreadable"


def test_a_message_that_lost_its_end_is_damage():
    raw = messages.encode_interaction(a_rollout_done())
    for length in (0, 3, 8, len(raw) - 1):
        with pytest.raises(RefusedMessageError):
            messages.decode_interaction(raw[:length])


def test_a_value_that_json_cannot_hold_is_refused_at_the_sender():
    with pytest.raises(TransportError):
        messages.encode_interaction(a_rollout_done(metrics={"a": float("nan")}))
    with pytest.raises(TransportError):
        messages.encode_interaction(a_rollout_done(version=object()))
