"""Bytes to parameters and transitions and back, with every bound checked before use.

Owns the payloads inside LeRobot's opaque `bytes` (`docs/envelope.md`, ADR 0013). Refuses to know
sockets. What is sent is LeRobot's own `torch.save` format, so its functions read it; what is
received goes through `pirl.transport.stream`, never an unpickler. Read `pirl.transport.service`
next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from lerobot.transport.utils import TransferState, state_to_bytes, transitions_to_bytes
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.errors import TransportError
from pirl.transport.identity import VERSION_KEY, Claims, Identity, from_tensors
from pirl.transport.refusal import UNREADABLE, RefusedMessageError
from pirl.transport.schema import TransitionSchema
from pirl.transport.stream import read_archive

POLICY_KEY = "policy"
_BEGIN = TransferState.TRANSFER_BEGIN
_MIDDLE = TransferState.TRANSFER_MIDDLE
_END = TransferState.TRANSFER_END


class Piece(Protocol):
    """What LeRobot's Transition, Parameters and InteractionMessage have in common."""

    transfer_state: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Most that one message may hold; what exceeds it is refused before it is read."""

    parameter_bytes: int = 2**32 - 2**20
    parameter_tensors: int = 16384
    transition_bytes: int = 256 * 2**20
    transitions: int = 1024
    interaction_bytes: int = 4 * 2**20
    description_bytes: int = 16 * 2**20
    """Longest description (pickle stream) of a payload."""


DEFAULT_LIMITS = Limits()
_IDENTITY_TENSORS = 32
_BYTES_AROUND = 2**18
"""Room for what is no tensor: identity, metrics, directory ends."""
_BYTES_AROUND_TENSOR = 1024
"""Headers, padding, directory entry and description of one tensor."""
_BYTES_PER_EPISODE = 1024
"""JSON of one episode record; its text has at most 256 characters."""


def limits_of_parameters(expected: Mapping[str, Tensor]) -> Limits:
    """What a publication of tensors like `expected` can need."""
    tensors = len(expected) + _IDENTITY_TENSORS
    size = sum(t.numel() * t.element_size() for t in expected.values())
    limit = size + tensors * _BYTES_AROUND_TENSOR + _BYTES_AROUND
    return Limits(
        parameter_bytes=min(DEFAULT_LIMITS.parameter_bytes, limit),
        parameter_tensors=min(DEFAULT_LIMITS.parameter_tensors, tensors),
    )


def limits_of_rollout(schema: TransitionSchema, *, decisions: int) -> Limits:
    """What the messages of one actor can need in a rollout of at most `decisions`."""
    most = DEFAULT_LIMITS
    count = min(most.transitions, decisions)
    return Limits(
        transitions=count,
        transition_bytes=min(most.transition_bytes, _most_bytes(schema, count)),
        interaction_bytes=min(
            most.interaction_bytes, _BYTES_AROUND + decisions * _BYTES_PER_EPISODE
        ),
    )


def _most_bytes(schema: TransitionSchema, count: int) -> int:
    around = schema.tensors_per_transition * _BYTES_AROUND_TENSOR
    return _BYTES_AROUND + count * (schema.bytes_per_transition + around)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMessage:
    """One published policy version."""

    identity: Claims
    version: int
    weights: dict[str, Tensor]
    """Trained tensors by name; views of the message's memory, copied by whoever loads them."""
    final: bool = False
    """The learner's run is complete; there are no weights."""


def encode_parameters(weights: Mapping[str, Tensor], version: int, *, identity: Identity) -> bytes:
    """One publication, readable by LeRobot's own `bytes_to_state_dict`.

    Args:
        weights: trained tensors by name, any device; of a view only the view travels.
    """
    compact = _Compactor()
    payload: dict[str, object] = {
        POLICY_KEY: {name: compact(tensor) for name, tensor in weights.items()},
        VERSION_KEY: torch.tensor(version, dtype=torch.int64),
        **identity.to_tensors(),
    }
    return state_to_bytes(payload)  # pyright: ignore[reportArgumentType]  # nested, as LeRobot's own


def decode_parameters(
    message: bytes | bytearray,
    *,
    verify: Callable[[Claims], None] | None = None,
    expected: Mapping[str, Tensor] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> ParameterMessage:
    """The publication in `message`.

    Args:
        verify: called with the sender's identity before any weight is looked at; raises to refuse.
        expected: tensors whose names, shapes and dtypes the weights must have; None accepts any.

    Raises:
        TransportError: not a publication, or beyond `limits`.
    """
    _require_size(len(message), limits.parameter_bytes, what="parameters")
    payload = _read(message, max_tensors=limits.parameter_tensors, limits=limits)
    if not isinstance(payload, dict):
        raise TransportError("parameters are not a dict")
    claims = from_tensors(payload)
    if verify is not None:
        verify(claims)
    version = payload.get(VERSION_KEY)
    if not isinstance(version, Tensor) or version.dtype != torch.int64 or version.numel() != 1:
        raise TransportError(f"parameters carry no {VERSION_KEY} (one int64)")
    if int(version) < 0:
        raise TransportError(f"{VERSION_KEY} = {int(version)} is negative")
    weights = payload.get(POLICY_KEY)
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise TransportError(f"parameters carry no dict of tensors under {POLICY_KEY!r}")
    if expected is not None:
        _require_like(weights, expected)
    return ParameterMessage(identity=claims, version=int(version), weights=weights)


def encode_transitions(transitions: Sequence[Transition]) -> bytes:
    """Transitions in LeRobot's own form; a tensor used twice (next state, state) is stored once.

    Raises:
        TransportError: a value that cannot travel, such as text.
    """
    compact = _Compactor()
    return transitions_to_bytes([_compact_transition(t, compact) for t in transitions])


def size_of(transition: Transition) -> int:
    """Bytes of the tensors that one transition adds to a message, at least 1."""
    info = transition.get("complementary_info") or {}
    tensors = (*transition["state"].values(), transition["action"], *info.values())
    return 1 + sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def decode_transitions(
    message: bytes | bytearray, schema: TransitionSchema, *, limits: Limits = DEFAULT_LIMITS
) -> list[Transition]:
    """The transitions in `message`, each exactly as `schema` says; tensors are views of `message`.

    Raises:
        TransportError: names the first violation: size, count, key, dtype, shape or value range.
    """
    _require_size(len(message), limits.transition_bytes, what="transitions")
    tensors = limits.transitions * schema.tensors_per_transition
    payload = _read(message, max_tensors=tensors, limits=limits)
    if type(payload) is not list or not payload:
        raise TransportError("transitions are not a list with at least one element")
    if len(payload) > limits.transitions:
        raise TransportError(
            f"message holds {len(payload)} transitions, at most {limits.transitions} may be"
        )
    # What is kept of a message keeps all of it: a small tensor must not hold on to a large storage.
    _require_size(len(message), _most_bytes(schema, len(payload)), what="transitions")
    return [schema.check(item, row) for row, item in enumerate(payload)]


def assemble(pieces: Iterable[Piece], *, max_bytes: int, what: str) -> Iterator[bytearray]:
    """Whole messages from LeRobot's (transfer_state, data) pieces; bounded, nothing half-finished.

    Raises:
        TransportError: over `max_bytes`, pieces out of order, or the sender ended inside a message.
    """
    buffer = bytearray()
    is_open = False
    for piece in pieces:
        state = piece.transfer_state
        # A message of one piece is a lone END; a longer one is BEGIN, MIDDLE..., END.
        allowed = (_MIDDLE, _END) if is_open else (_BEGIN, _END)
        if state not in allowed:
            raise RefusedMessageError(
                UNREADABLE, f"{what}: a piece of state {state} where {allowed} must follow"
            )
        _require_size(len(buffer) + len(piece.data), max_bytes, what=what)
        buffer += piece.data
        is_open = state != _END
        if not is_open:
            yield buffer
            # The message's tensors live in its memory: never reuse it.
            buffer = bytearray()
    if is_open:
        raise RefusedMessageError(UNREADABLE, f"{what}: the sender ended inside a message")


class _Compactor:
    """CPU copies without foreign storage; the same tensor always gives the same copy."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        key = (
            tensor.data_ptr(),
            tensor.dtype,
            tensor.device,
            tuple(tensor.shape),
            tuple(tensor.stride()),
        )
        if key not in self._known:
            # The source is kept so that its address cannot be given to another tensor meanwhile.
            self._known[key] = (tensor, _own_storage(tensor))
        return self._known[key][1]


def _own_storage(tensor: Tensor) -> Tensor:
    plain = tensor.detach().to("cpu").contiguous()
    if plain.untyped_storage().nbytes() != plain.numel() * plain.element_size():
        return plain.clone()
    return plain


def _compact_transition(transition: Transition, compact: _Compactor) -> Transition:
    info = transition.get("complementary_info") or {}
    for name, value in info.items():
        if not isinstance(value, Tensor):
            raise TransportError(
                f"complementary_info[{name!r}] is {type(value).__name__}, not a tensor"
            )
    return Transition(
        state={name: compact(value) for name, value in transition["state"].items()},
        action=compact(transition["action"]),
        reward=float(transition["reward"]),
        next_state={name: compact(value) for name, value in transition["next_state"].items()},
        done=bool(transition["done"]),
        truncated=bool(transition["truncated"]),
        complementary_info={n: compact(v) for n, v in info.items() if isinstance(v, Tensor)},
    )


def _require_like(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if weights.keys() != expected.keys():
        missing = sorted(expected.keys() - weights.keys())[:4]
        foreign = sorted(weights.keys() - expected.keys())[:4]
        raise TransportError(f"parameters: missing {missing!r}, unexpected {foreign!r:.300}")
    for name, like in expected.items():
        found = weights[name]
        if found.shape != like.shape or found.dtype != like.dtype:
            raise TransportError(
                f"parameter {name} is {found.dtype} {tuple(found.shape)}, "
                f"must be {like.dtype} {tuple(like.shape)}"
            )


def _read(message: bytes | bytearray, *, max_tensors: int, limits: Limits) -> object:
    try:
        return read_archive(
            _writable(message), max_tensors=max_tensors, max_pickle_bytes=limits.description_bytes
        )
    except TransportError as error:
        raise RefusedMessageError(UNREADABLE, str(error)) from error


def _writable(message: bytes | bytearray) -> bytearray:
    return message if isinstance(message, bytearray) else bytearray(message)


def _require_size(size: int, limit: int, *, what: str) -> None:
    if size > limit:
        raise TransportError(f"{what}: message of {size} bytes or more, at most {limit} may be")
