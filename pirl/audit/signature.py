"""Signing a bundle: an Ed25519 signature over its statement, by a key that the signer keeps.

Owns the form of keys and of `statement.sig`. The key itself never comes near a bundle; its public half is named by
the SHA-256 of its 32 bytes. Read `pirl.audit.statement` first.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pirl.errors import ConfigError, FieldError

_MAX_KEY_BYTES = 4096


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file without a passphrase.

    Raises:
        ConfigError: the file is no such key.
    """
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key("--sign", "private", "openssl genpkey -algorithm ed25519 -out KEY") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key("--sign", "private", "openssl genpkey -algorithm ed25519 -out KEY")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file.

    Raises:
        ConfigError: the file is no such key.
    """
    try:
        key = load_pem_public_key(_read(path))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _no_key("--key", "public", "openssl pkey -in KEY -pubout -out PUB") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key("--key", "public", "openssl pkey -in KEY -pubout -out PUB")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, hex."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def sign(key: Ed25519PrivateKey, statement: bytes) -> str:
    """The text of `statement.sig`."""
    return base64.b64encode(key.sign(statement)).decode("ascii") + "\n"


def is_signed(key: Ed25519PublicKey, statement: bytes, signature: str) -> bool:
    """Whether `signature` is this key's about these bytes, in the one form that `sign` writes."""
    try:
        # What is no base64 is skipped here, and is not what is written again below.
        raw = base64.b64decode(signature.removesuffix("\n"))
        key.verify(raw, statement)
    except (ValueError, InvalidSignature):
        return False
    return signature == base64.b64encode(raw).decode("ascii") + "\n"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_KEY_BYTES)


def _no_key(option: str, kind: str, command: str) -> ConfigError:
    error = FieldError(
        field=option,
        value="(a file)",
        expected=f"a PEM file with an Ed25519 {kind} key that has no passphrase",
        fix=f"make one with: {command}",
    )
    return ConfigError([error], source="command line")
