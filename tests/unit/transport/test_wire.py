"""Payloads: exact round trips, the sizes of the specification, and a bound for everything."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lerobot.rl.buffer import ReplayBuffer
from lerobot.transport.utils import (
    TransferState,
    bytes_to_state_dict,
    bytes_to_transitions,
    send_bytes_in_chunks,
    transitions_to_bytes,
)
from transport_builders import (
    MAIN_IMAGE,
    a_schema,
    a_spec,
    an_identity,
    flow_noise,
    flow_sde,
    same_tensors,
    some_inputs,
    some_transitions,
    some_weights,
)

from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.errors import MismatchError, TransportError
from pirl.transport import wire
from pirl.transport.refusal import UNREADABLE, RefusedMessageError
from pirl.transport.schema import TensorSpec, TransitionSchema, transition_schema

# -- parameters ------------------------------------------------------------------------------------


def test_parameters_come_back_exactly():
    weights = {**some_weights(0.1), "h": torch.tensor([1e-3, 3.0], dtype=torch.bfloat16)}
    message = wire.decode_parameters(wire.encode_parameters(weights, 3, identity=an_identity()))
    assert message.version == 3
    assert message.identity == an_identity().claims()
    assert same_tensors(message.weights, weights)
    assert not message.final


def test_lerobots_own_function_reads_published_parameters():
    payload = wire.encode_parameters(some_weights(0.5), 7, identity=an_identity())
    found = bytes_to_state_dict(payload)
    assert same_tensors(found["policy"], some_weights(0.5))
    assert found["pirl_version"].dtype == torch.int64
    assert int(found["pirl_version"]) == 7
    assert bytes(found["pirl_identity.recipe"].tolist()) == b"pi-rl"


def test_of_a_view_only_the_view_travels():
    big = torch.zeros(1_000_000)
    payload = wire.encode_parameters({"w": big[10:20]}, 0, identity=an_identity())
    assert len(payload) < 20_000


def test_parameters_that_require_gradients_travel_as_plain_tensors():
    weights = {"w": torch.nn.Parameter(torch.ones(3, 2).t())}
    message = wire.decode_parameters(wire.encode_parameters(weights, 0, identity=an_identity()))
    assert torch.equal(message.weights["w"], torch.ones(2, 3))
    assert not message.weights["w"].requires_grad


def test_identity_is_verified_before_the_weights_are_looked_at():
    payload = wire.encode_parameters({"wrong": torch.ones(1)}, 0, identity=an_identity())

    def refuse(claims: Any) -> None:
        assert claims == an_identity().claims()
        raise MismatchError("here", [])

    with pytest.raises(MismatchError):
        wire.decode_parameters(payload, verify=refuse, expected=some_weights())


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        ({k: v for k, v in some_weights().items() if k != "noise_head.log_std"}, "missing"),
        ({**some_weights(), "extra": torch.ones(1)}, "unexpected"),
        ({**some_weights(), "noise_head.log_std": torch.ones(3)}, r"\(3,\), must be"),
        ({**some_weights(), "noise_head.log_std": torch.ones(2).double()}, "float64"),
    ],
)
def test_weights_other_than_expected_are_refused(weights: Any, complaint: str):
    payload = wire.encode_parameters(weights, 0, identity=an_identity())
    with pytest.raises(TransportError, match=complaint):
        wire.decode_parameters(payload, expected=some_weights())


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ([1], "not a dict"),
        ({"policy": {}}, "no pirl_version"),
        ({"policy": {}, "pirl_version": torch.tensor(1.0)}, "no pirl_version"),
        ({"policy": {}, "pirl_version": torch.tensor([1, 2])}, "no pirl_version"),
        ({"policy": {}, "pirl_version": torch.tensor(-1)}, "negative"),
        ({"policy": [], "pirl_version": torch.tensor(1)}, "no dict of tensors"),
        ({"policy": {"a": 1}, "pirl_version": torch.tensor(1)}, "no dict of tensors"),
    ],
)
def test_what_is_no_publication_is_refused(payload: Any, complaint: str):
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    with pytest.raises(TransportError, match=complaint):
        wire.decode_parameters(buffer.getvalue())


def test_too_many_bytes_are_refused_with_the_bound():
    payload = wire.encode_parameters(some_weights(), 0, identity=an_identity())
    with pytest.raises(TransportError, match="at most 100 may be"):
        wire.decode_parameters(payload, limits=wire.Limits(parameter_bytes=100))


# -- transitions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pirl",
    [
        flow_sde(),
        flow_sde(gripper_mode="bernoulli"),
        PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig(stochastic_steps="all")),
        flow_noise(),
    ],
    ids=["hybrid", "bernoulli", "all steps", "flow-noise"],
)
def test_transitions_come_back_with_dtypes_and_values(pirl: PiRLConfig):
    schema = a_schema(pirl)
    sent = some_transitions(4, schema)
    received = wire.decode_transitions(wire.encode_transitions(sent), schema)
    assert len(received) == 4
    for before, after in zip(sent, received, strict=True):
        for part in ("state", "next_state", "complementary_info"):
            assert same_tensors(after[part], before[part])
        assert torch.equal(after["action"], before["action"])
        for scalar in ("reward", "done", "truncated"):
            assert after[scalar] == before[scalar]
            assert type(after[scalar]) is type(before[scalar])


def test_an_identifier_beyond_float32_survives():
    sent = some_transitions(1)
    sent[0]["complementary_info"]["pirl_episode_id"] = torch.tensor([3 * 2**32 + 2**24 + 1])
    received = wire.decode_transitions(wire.encode_transitions(sent), a_schema())
    assert int(received[0]["complementary_info"]["pirl_episode_id"]) == 3 * 2**32 + 2**24 + 1


def test_lerobots_replay_buffer_would_round_identifiers_and_refuse_ragged_chunks():
    # Why pirl has a store of its own (algorithm.md 13.4): this is what LeRobot's would do.
    buffer = ReplayBuffer(
        4, device="cpu", state_keys=["s"], image_augmentation_function=lambda images: images
    )

    def add(identifier: int, rows: int) -> None:
        state = {"s": torch.zeros(1, 2)}
        buffer.add(
            state=state,
            action=torch.zeros(1, rows, 3),
            reward=0.0,
            next_state=state,
            done=False,
            truncated=False,
            complementary_info={"pirl_episode_id": torch.tensor([identifier])},
        )

    add(2**24 + 1, rows=4)
    assert int(buffer.complementary_info["pirl_episode_id"][0]) == 2**24
    with pytest.raises(RuntimeError, match="size"):
        add(0, rows=3)


def test_next_state_and_the_following_state_are_one_memory_at_the_receiver():
    received = wire.decode_transitions(wire.encode_transitions(some_transitions(3)), a_schema())
    for before, after in pairwise(received):
        assert before["next_state"][MAIN_IMAGE].data_ptr() == after["state"][MAIN_IMAGE].data_ptr()


def test_rows_of_a_batch_travel_without_the_batch_and_stay_shared():
    batch = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    sent = some_transitions(2)
    sent[0]["next_state"][MAIN_IMAGE] = batch[5:6]
    sent[1]["state"][MAIN_IMAGE] = batch[5:6]
    payload = wire.encode_transitions(sent)
    assert len(payload) < len(wire.encode_transitions(some_transitions(2))) + 500
    received = wire.decode_transitions(payload, a_schema())
    assert (
        received[0]["next_state"][MAIN_IMAGE].data_ptr()
        == received[1]["state"][MAIN_IMAGE].data_ptr()
    )


def test_lerobots_own_functions_write_and_read_the_same_transitions():
    sent = some_transitions(3)
    received = wire.decode_transitions(transitions_to_bytes(sent), a_schema())
    assert same_tensors(received[2]["complementary_info"], sent[2]["complementary_info"])
    theirs = bytes_to_transitions(wire.encode_transitions(sent))
    assert same_tensors(theirs[1]["state"], sent[1]["state"])


def test_text_cannot_travel():
    sent = some_transitions(1)
    sent[0]["complementary_info"]["task"] = "open the drawer"
    with pytest.raises(TransportError, match=r"'task'\] is str"):
        wire.encode_transitions(sent)


def paper_schema(pirl: PiRLConfig) -> TransitionSchema:
    """The default `XVLAConfig` of `algorithm.md` 13.1: H = n = 32, D = 20, K = 10, L = 64."""
    return transition_schema(
        a_spec(chunk=32, executed=32, steps=10),
        pirl,
        image_shapes={MAIN_IMAGE: (3, 256, 256), "observation.images.image2": (3, 256, 256)},
        state_dim=20,
        inputs=some_inputs(tokens=64),
    )


def bytes_of(specs: dict[str, TensorSpec]) -> int:
    return sum(torch.zeros(s.shape, dtype=s.dtype).nbytes for s in specs.values())


def test_hybrid_fields_have_the_specified_size():
    assert bytes_of(dict(paper_schema(flow_sde()).info)) == 11_584


def test_flow_noise_fields_have_the_specified_size_and_the_last_steps_part():
    info = dict(paper_schema(flow_noise()).info)
    # The specified 32,064 bytes still count the 8 of pirl_denoise_idx, which the chain replaces.
    assert bytes_of(info) - bytes_of({"x": info["pirl_logprob_last"]}) == 32_064 - 8


def test_a_serialised_decision_has_the_specified_size():
    schema = paper_schema(flow_sde())
    size = len(wire.encode_transitions(some_transitions(10, schema))) / 10
    assert abs(size - 452_050) < 5_000


def broken(**changes: Any) -> list[Any]:
    """One transition in which `part__name=value` replaces, and None removes, an entry."""
    item: dict[str, Any] = copy.deepcopy(dict(some_transitions(1)[0]))
    for path, value in changes.items():
        part, _, name = path.partition("__")
        target, key = (item[part], name) if name else (item, part)
        key = "observation.images.image" if key == "image" else key
        if value is None:
            del target[key]
        else:
            target[key] = value
    return [item]


VIOLATIONS: dict[str, tuple[list[Any], str]] = {
    "missing key": (broken(done=None), "missing keys .'done'"),
    "foreign key": (broken(extra=1), "unexpected keys .'extra'"),
    "missing field": (broken(complementary_info__pirl_logprob=None), "pirl_logprob"),
    "foreign field": (broken(complementary_info__x=torch.zeros(1)), "unexpected keys .'x'"),
    "float image": (broken(state__image=torch.zeros(1, 3, 8, 8)), "float32"),
    "other image size": (
        broken(next_state__image=torch.zeros(1, 3, 9, 8, dtype=torch.uint8)),
        r"next_state observation.images.image is torch.uint8 \(1, 3, 9, 8\)",
    ),
    "ragged action": (broken(action=torch.zeros(1, 1, 20)), r"action is .* must be"),
    "batch of two": (broken(action=torch.zeros(2, 2, 20)), "action"),
    "float identifier": (
        broken(complementary_info__pirl_version=torch.zeros(1)),
        "pirl_version is torch.float32",
    ),
    "negative version": (
        broken(complementary_info__pirl_version=torch.tensor([-1])),
        "outside 0",
    ),
    "step out of range": (
        broken(complementary_info__pirl_denoise_idx=torch.tensor([3])),
        "outside 0..2",
    ),
    "too many steps": (
        broken(complementary_info__pirl_valid_steps=torch.tensor([3])),
        "outside 1..2",
    ),
    "not finite": (
        broken(complementary_info__pirl_logprob=torch.full((1, 2, 20), float("nan"))),
        "not finite",
    ),
    "infinite reward": (broken(reward=float("inf")), "reward"),
    "whole reward": (broken(reward=1), "reward"),
    "number as done": (broken(done=1), "done"),
    "tensor as truncated": (broken(truncated=torch.tensor(True)), "truncated"),
    "state is a list": (broken(state=[]), "state is list"),
    "info is none": (broken(complementary_info=0), "complementary_info is int"),
    "empty list": ([], "at least one"),
    "not a list": ({}, "not a list"),  # pyright: ignore[reportAssignmentType]
    "list of numbers": ([1], "transition 0 is int"),
}


@pytest.mark.parametrize(("payload", "complaint"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_transition_outside_the_schema_is_refused_by_name(payload: Any, complaint: str):
    with pytest.raises(TransportError, match=complaint):
        wire.decode_transitions(transitions_to_bytes(payload), a_schema())


@pytest.mark.parametrize("are_one", [False, True], ids=["distinct", "one repeated"])
def test_more_transitions_than_allowed_are_refused(are_one):
    sent = some_transitions(1) * 3 if are_one else some_transitions(3)
    payload = wire.encode_transitions(sent)
    limits = replace(wire.DEFAULT_LIMITS, transitions=2)
    # Repeated tensors travel once, so only the count itself can refuse them.
    with pytest.raises(TransportError, match="3 transitions, at most 2" if are_one else "at most"):
        wire.decode_transitions(payload, a_schema(), limits=limits)


def test_transitions_of_the_other_variant_are_refused():
    payload = wire.encode_transitions(some_transitions(1, a_schema(flow_noise())))
    with pytest.raises(TransportError, match="pirl_chain"):
        wire.decode_transitions(payload, a_schema(flow_sde()))


# -- pieces ----------------------------------------------------------------------------------------

BEGIN, MIDDLE, END = (
    TransferState.TRANSFER_BEGIN,
    TransferState.TRANSFER_MIDDLE,
    TransferState.TRANSFER_END,
)


def pieces(*states: int) -> list[Any]:
    return [SimpleNamespace(transfer_state=state, data=b"ab") for state in states]


def assembled(items: list[Any], *, max_bytes: int = 100) -> list[bytes]:
    return [bytes(m) for m in wire.assemble(items, max_bytes=max_bytes, what="test")]


@pytest.mark.parametrize("size", [1, 2 * 2**20, 2 * 2**20 + 1, 5 * 2**20])
def test_what_lerobots_sender_cuts_is_put_together(size: int):
    message = bytes(size)
    cut = list(send_bytes_in_chunks(message, SimpleNamespace)) * 2
    assert assembled(cut, max_bytes=6 * 2**20) == [message, message]


def test_each_message_has_its_own_memory():
    first, second = wire.assemble(pieces(END, END), max_bytes=9, what="test")
    first[0] = 0
    assert second == b"ab"


@pytest.mark.parametrize(
    "states",
    [
        *((MIDDLE,), (BEGIN, BEGIN), (BEGIN, END, MIDDLE), (0,), (9,), (BEGIN,), (BEGIN, MIDDLE)),
        # These end well: only their order is wrong.
        *((MIDDLE, END), (BEGIN, BEGIN, END), (0, END), (BEGIN, 9, END)),
    ],
    ids=str,
)
def test_pieces_out_of_order_and_half_messages_are_refused(states: tuple[int, ...]):
    with pytest.raises(TransportError):
        assembled(pieces(*states))


def test_an_endless_message_is_refused_at_the_bound():
    endless = (SimpleNamespace(transfer_state=BEGIN if i == 0 else MIDDLE, data=b"x" * 10)
               for i in range(10**9))  # fmt: skip
    with pytest.raises(TransportError, match="at most 35 may be"):
        assembled(endless, max_bytes=35)  # pyright: ignore[reportArgumentType]


# -- bounds that follow from the recipe ------------------------------------------------------------


def test_what_an_actor_expects_bounds_what_it_takes():
    limits = wire.limits_of_parameters(some_weights())
    assert limits.parameter_bytes < 2**20
    fitting = wire.encode_parameters(some_weights(), 0, identity=an_identity())
    assert wire.decode_parameters(fitting, expected=some_weights(), limits=limits).version == 0
    pieces = (SimpleNamespace(transfer_state=2, data=b"x" * 2**20) for _ in range(10**6))
    with pytest.raises(TransportError, match="at most"):
        list(
            wire.assemble(begin_first(pieces), max_bytes=limits.parameter_bytes, what="parameters")
        )
    # The rest was never asked for.
    assert next(pieces) is not None


def begin_first(pieces: Any) -> Any:
    first = next(pieces)
    first.transfer_state = 1
    yield first
    yield from pieces


def test_what_a_rollout_can_need_bounds_what_a_learner_takes():
    schema = a_schema()
    limits = wire.limits_of_rollout(schema, decisions=4)
    assert limits.transition_bytes < 2**20
    whole = wire.encode_transitions(some_transitions(4, schema))
    assert len(wire.decode_transitions(whole, schema, limits=limits)) == 4
    with pytest.raises(TransportError, match="at most 4"):
        wire.decode_transitions(
            wire.encode_transitions(some_transitions(5, schema)), schema, limits=limits
        )


def test_a_small_decision_cannot_hold_on_to_a_large_message():
    schema = a_schema()
    items = some_transitions(1, schema)
    large = torch.zeros(2**22, dtype=torch.uint8)
    buffer = io.BytesIO()
    name = next(iter(items[0]["state"]))
    shape = items[0]["state"][name].shape
    items[0]["state"][name] = large[: math.prod(shape)].view(shape)
    torch.save(items, buffer)
    with pytest.raises(TransportError, match="at most"):
        wire.decode_transitions(buffer.getvalue(), schema)


def test_bytes_that_are_no_message_may_be_damage_and_a_wrong_message_is_not():
    schema = a_schema()
    whole = bytearray(wire.encode_transitions(some_transitions(1, schema)))
    with pytest.raises(RefusedMessageError) as caught:
        wire.decode_transitions(whole[:-10], schema)
    assert caught.value.reason == UNREADABLE
    wrong = some_transitions(1, schema)
    wrong[0]["reward"] = 3e38
    with pytest.raises(RefusedMessageError) as caught:
        wire.decode_transitions(wire.encode_transitions(wrong), schema)
    assert caught.value.reason == "out_of_range"


@pytest.mark.parametrize(
    ("name", "value"),
    [("pirl_input_ids", 50), ("pirl_domain_id", 30), ("pirl_x_k", 1e5), ("pirl_logprob", -3e38)],
)
def test_numbers_outside_their_bounds_are_refused(name: str, value: float):
    schema = transition_schema(
        a_spec(),
        flow_sde(),
        image_shapes={MAIN_IMAGE: (3, 8, 8)},
        state_dim=5,
        inputs=some_inputs(words=50),
    )
    items = some_transitions(1, schema)
    info = items[0]["complementary_info"]
    info["pirl_input_ids"] = info["pirl_input_ids"] % 50
    info["pirl_domain_id"] = info["pirl_domain_id"] % 30
    wire.decode_transitions(wire.encode_transitions(items), schema)
    info[name] = info[name].clone()
    info[name].view(-1)[0] = value
    with pytest.raises(RefusedMessageError, match=name):
        wire.decode_transitions(wire.encode_transitions(items), schema)
