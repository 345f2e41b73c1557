"""Typed access to JSON objects that other programs wrote, and the one digest of a file.

A missing field, or one of another type, is an error with the field's name, never a default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pirl.config.strictjson import read_json_object
from pirl.errors import EvidenceError

MAX_RECORD_BYTES = 64 * 2**20

type Record = Mapping[str, Any]


def read_object(path: Path) -> Record:
    """The JSON object in a file.

    Raises:
        EvidenceError: the file cannot be read, or is not a JSON object; the reason is in the message.
    """
    try:
        return read_json_object(path, max_bytes=MAX_RECORD_BYTES)
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{path.name} is not a JSON object: {error}") from error


def exact_text(path: Path) -> str:
    """The text of a file, every byte as it is: `Path.read_text` takes one line ending for another.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    return path.read_bytes().decode("utf-8")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _typed[T](record: Record, key: str, accept: Callable[[Any], bool], what: str, _: type[T]) -> T:
    if key not in record:
        raise EvidenceError(f"field {key!r} is missing")
    value = record[key]
    if not accept(value):
        raise EvidenceError(f"field {key!r} is {value!r}, not {what}")
    return value


def text(record: Record, key: str) -> str:
    """A text field that is not empty."""
    return _typed(record, key, lambda v: isinstance(v, str) and v != "", "a text", str)


def mapping(record: Record, key: str) -> Mapping[str, Any]:
    """An object field."""
    return _typed(record, key, lambda v: isinstance(v, dict), "an object", dict)


def sequence(record: Record, key: str) -> Sequence[Any]:
    """A list field."""
    return _typed(record, key, lambda v: isinstance(v, list), "a list", list)


def objects(record: Record, key: str) -> list[Record]:
    """A list of objects."""
    items = sequence(record, key)
    if not all(isinstance(item, dict) for item in items):
        raise EvidenceError(f"field {key!r} is not a list of objects")
    return list(items)
