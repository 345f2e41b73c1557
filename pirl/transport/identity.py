"""Who is speaking: the identity both sides compare before anything else is accepted.

Owns the fields, their two forms on the wire (uint8 tensors beside the parameters, gRPC call
metadata) and the comparison. Refuses to know sockets, weights or configs. Read
`pirl.transport.wire` next.
"""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from urllib.parse import quote, unquote

import torch
from torch import Tensor

from pirl import hooks
from pirl.config.recipe import PROTOCOL_VERSION
from pirl.errors import FieldMismatch

TENSOR_PREFIX = "pirl_identity."
VERSION_KEY = "pirl_version"
METADATA_PREFIX = "pirl-"
ACTOR_ID_KEY = "pirl-actor-id"
RANK_KEY = "pirl-rank"
TOKEN_KEY = "pirl-token"
CHECKSUM_KEY = "pirl-checksum"
SECRET_KEY = "pirl-actor-secret"
"""The learner's answer to `Ready` carries it, and every later call of that actor."""

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

MAX_VALUE_BYTES = 1024
"""Longest text of one field; gRPC's default metadata limit is 8 KiB for a whole call."""

type Claims = Mapping[str, str | int]
"""The identity fields that a peer sent, readable ones only; a missing field is a mismatch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What learner and actor must agree on (`docs/envelope.md`, Identity)."""

    protocol_version: int = PROTOCOL_VERSION
    recipe: str
    variant: str
    config_path: str
    config_hash: str
    run_id: str
    """Given by the learner; "" on an actor that has not met its learner yet."""
    policy_type: str
    policy_architecture: str
    """Digest over name, shape and dtype of every policy tensor."""
    action_mode: str
    denoising_steps: int
    executed_steps: int
    environment: str
    """Simulator, task or suite, time limit."""
    control_mode: str
    """`absolute` or `relative`: what an action means to the robot."""
    cameras: str
    """The policy's cameras in its order, and how many views it has room for."""
    policy_settings: str
    """What else decides how the policy acts, `name=value` by name, as its kind tells it."""
    reward: str
    """What a decision is worth: `success`, or the reward that the config names and its settings."""
    state_split: str
    """Which initial states are in use, and the digest of the split they belong to."""
    noise_settings: str
    """Everything that decides how a chunk is drawn, `name=value` by name."""

    def claims(self) -> Claims:
        """Every field by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_tensors(self) -> dict[str, Tensor]:
        """Each field as UTF-8 text in a uint8 tensor, by reserved key."""
        return {
            TENSOR_PREFIX + name: torch.tensor(list(str(value).encode()), dtype=torch.uint8)
            for name, value in self.claims().items()
        }

    def to_metadata(self) -> tuple[tuple[str, str], ...]:
        """Each field as percent-encoded ASCII gRPC metadata."""
        return tuple(
            (_metadata_key(name), quote(str(value))) for name, value in self.claims().items()
        )


_INTEGER_FIELDS = frozenset({"protocol_version", "denoising_steps", "executed_steps"})
_NAMES = tuple(f.name for f in fields(Identity))


def from_tensors(payload: Mapping[str, object]) -> Claims:
    """The identity beside the parameters; fields that are absent or unreadable are left out."""
    claims: dict[str, str | int] = {}
    for name in _NAMES:
        tensor = payload.get(TENSOR_PREFIX + name)
        if (
            isinstance(tensor, Tensor)
            and tensor.dtype == torch.uint8
            and tensor.ndim == 1
            and tensor.numel() <= MAX_VALUE_BYTES
        ):
            _put(claims, name, bytes(tensor.tolist()))
    return claims


def from_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Claims:
    """The identity in gRPC metadata; fields that are absent or unreadable are left out."""
    names = {_metadata_key(name): name for name in _NAMES}
    claims: dict[str, str | int] = {}
    for key, value in metadata:
        if key in names:
            _put(
                claims, names[key], value.encode() if isinstance(value, str) else value, quoted=True
            )
    return claims


def caller_metadata(
    *, actor_id: str, rank: int, token: str | None, secret: str | None = None
) -> tuple[tuple[str, str], ...]:
    """What an actor adds to its identity on every call; `secret` is the answer to its `Ready`."""
    who = ((ACTOR_ID_KEY, quote(actor_id)), (RANK_KEY, str(rank)))
    hidden = ((TOKEN_KEY, token), (SECRET_KEY, secret))
    return (*who, *((key, quote(value)) for key, value in hidden if value is not None))


def sealed(metadata: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """`metadata` and a checksum: what a flipped bit made of an identity must not pass for another one."""
    entries = tuple(metadata)
    return (*entries, (CHECKSUM_KEY, _checksum(entries)))


def is_damaged(metadata: Iterable[tuple[str, str | bytes]]) -> bool:
    """Whether pirl's entries are not those that were sealed; of entries without a checksum nobody knows."""
    entries = [(key, value) for key, value in metadata if key.startswith(METADATA_PREFIX)]
    told = [value for key, value in entries if key == CHECKSUM_KEY]
    rest = [(key, value) for key, value in entries if key != CHECKSUM_KEY]
    return told not in ([], [_checksum(rest)])


def text_of(metadata: Iterable[tuple[str, str | bytes]], key: str) -> str | None:
    """The decoded text of one metadata key, None when absent, binary or too long."""
    for found, value in metadata:
        if found == key and isinstance(value, str) and len(value) <= 3 * MAX_VALUE_BYTES:
            return unquote(value)
    return None


def tokens_agree(expected: str | None, given: str | None) -> bool:
    """Whether both sides hold the same token, or neither one; constant time in the content."""
    return hmac.compare_digest((expected or "").encode(), (given or "").encode())


def compare(ours: Identity, theirs: Claims, *, config_identity: str) -> list[FieldMismatch]:
    """Every field on which two sides disagree, with both values; a missing field has `theirs=None`.

    A run id of "" on either side is "not met yet" and agrees with any, but must be present.
    `config_identity="hash"` leaves the config path out (`runtime.config_identity`).
    """
    mismatches: list[FieldMismatch] = []
    for name, mine in ours.claims().items():
        other = theirs.get(name)
        if name == "config_path" and config_identity == "hash":
            continue
        if name == "run_id" and other is not None and "" in (mine, other):
            continue
        if type(other) is not type(mine) or other != mine:
            mismatches.append(FieldMismatch(field=name, ours=mine, theirs=other))
    return mismatches


def check(ours: Identity, theirs: Claims, *, config_identity: str) -> list[FieldMismatch]:
    """`compare`, except under the test hook `handshake`, which lets everything pass and says so."""
    if hooks.disabled("handshake"):
        return []
    return compare(ours, theirs, config_identity=config_identity)


def is_run_id(value: object) -> bool:
    """Whether `value` names a run; it becomes a folder name, so nothing else may be in it."""
    return isinstance(value, str) and RUN_ID.fullmatch(value) is not None


def adopt_run_id(ours: Identity, theirs: Claims) -> Identity:
    """Our identity with the learner's run id, once it is known."""
    run_id = theirs.get("run_id")
    return replace(ours, run_id=run_id) if not ours.run_id and isinstance(run_id, str) else ours


def _checksum(entries: Iterable[tuple[str, str | bytes]]) -> str:
    # Sorted: gRPC promises an order within a key only.
    return f"{zlib.crc32(repr(sorted(entries)).encode()):08x}"


def _metadata_key(name: str) -> str:
    return METADATA_PREFIX + name.replace("_", "-")


def _put(claims: dict[str, str | int], name: str, raw: bytes, *, quoted: bool = False) -> None:
    try:
        text = raw.decode()
        text = unquote(text, errors="strict") if quoted else text
        if len(text.encode()) <= MAX_VALUE_BYTES:
            claims[name] = int(text) if name in _INTEGER_FIELDS else text
    except ValueError:
        # Unreadable is the same as absent: the comparison reports it with theirs=None.
        return
