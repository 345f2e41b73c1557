"""What stands in a record may be of the unit that the record's field says.

Read `pirl.audit.verify_agreement` next, which holds records against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from pirl.audit.raw import MissingRecordError, RawRecords
from pirl.audit.records import files
from pirl.journal.metrics import lookup

NEVER_NEGATIVE = (
    "s", "GiB", "actions", "bytes", "cores", "decisions", "episodes", "folders", "frames", "grey levels",
    "parameters", "pixels", "processes", "simulator steps", "steps", "threads", "updates",
)  # fmt: skip
"""Units of what is counted or lasts."""

type Pairs = Iterator[tuple[str, object, object]]
"""What is spoken of, as one record has it, as the other has it."""


def units_of_records(raw: RawRecords) -> Pairs:
    """A digest is one, and nothing is counted or lasts less than nothing."""
    for file in files.FILES:
        for rank in _ranks_of(raw, file):
            if file in files.METRIC_FILES:
                yield from _units_of_rows(raw, file, rank)
            if file.kind is str:
                continue
            records = raw.all(file) if file.is_lines else [raw.one(file, rank)]
            for record in records:
                for where, unit, value in _leaves(record):
                    yield f"{file.step}/{file.of(rank)} {where}", value, _as_unit(unit, value)


def _units_of_rows(raw: RawRecords, file: files.RecordFile[str], rank: int | None) -> Pairs:
    for row in raw.metrics(file, rank):
        for name, value in row.metrics.items():
            where = f"{file.step}/{file.of(rank)} {row.step} {name}"
            yield where, value, _as_unit(lookup(name).unit, value)


def _ranks_of(raw: RawRecords, file: files.RecordFile[Any]) -> Sequence[int | None]:
    if not file.is_per_actor:
        return [None] if (raw.root / "raw" / file.step / file.name).is_file() else []
    try:
        return raw.ranks(file)
    except MissingRecordError:
        return []


def _leaves(value: Any, where: str = "", unit: str = "") -> Iterator[tuple[str, str, object]]:
    """(name, unit, value) of everything in a record that is no record, object or list itself."""
    if is_dataclass(value):
        for field in fields(value):
            inner = field.metadata.get("unit") or unit
            yield from _leaves(
                getattr(value, field.name), f"{where}.{field.name}".strip("."), inner
            )
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from _leaves(item, f"{where}.{key}", unit)
    elif isinstance(value, tuple):
        for item in cast("tuple[Any, ...]", value):
            yield from _leaves(item, where, unit)
    else:
        yield where, unit, value


def _as_unit(unit: str, value: object) -> object:
    """The value where it may be of the unit; else what would be."""
    if unit == "SHA-256" and isinstance(value, str):
        is_digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
        return value if is_digest else "64 hex digits"
    if unit in NEVER_NEGATIVE and isinstance(value, int | float) and not 0 <= value < math.inf:
        return "0 or more"
    return value
