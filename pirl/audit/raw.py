"""Reading raw records: a record that is missing is told from one that is malformed, and none is invented.

Owns the paths `raw/<step>/<name>` of a bundle. Refuses to know what a record means. Many criteria ask for one
file: a text is decoded once, because records are frozen. Read `pirl.audit.criterion` next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pirl.audit.records.files import RecordFile
from pirl.config.strictjson import read_bytes
from pirl.errors import EvidenceError
from pirl.journal.codec import from_json, parse_object
from pirl.journal.fields import MAX_RECORD_BYTES
from pirl.journal.metric_log import MetricRow, parse_rows

_FILES = 128
"""More than a bundle has: what many criteria ask for is decoded once."""


class MissingRecordError(EvidenceError):
    """A raw record is not there, or there is nothing in it to check: the criterion was not run."""


@dataclass(frozen=True, slots=True)
class RawRecords:
    """The raw records of a bundle."""

    root: Path
    """The bundle folder."""
    _read: dict[str, str] | None = field(default=None, compare=False, repr=False)
    """Texts that were read, by path, where each is read once."""

    def once(self) -> RawRecords:
        """The same records, each file of which is read when it is first asked for and never again."""
        return RawRecords(self.root, {})

    def path(self, file: RecordFile[object], rank: int | None = None) -> Path:
        """Path of a record's file.

        Raises:
            MissingRecordError: no such file.
        """
        path = self.root / "raw" / file.step / file.of(rank)
        if not path.is_file():
            raise MissingRecordError(f"raw/{file.step}/{file.of(rank)} is missing")
        return path

    def one[T](self, file: RecordFile[T], rank: int | None = None) -> T:
        """The record of a file that holds one.

        Raises:
            EvidenceError: it is missing or not what its class says.
        """
        return _record(file.kind, self.text(file, rank), file.of(rank))

    def all[T](self, file: RecordFile[T]) -> list[T]:
        """The records of a file with one per line; at least one.

        Raises:
            EvidenceError: as `one`.
        """
        return some(_records(file.kind, self.text(file), file.name), f"line in {file.name}")

    def metrics(self, file: RecordFile[str], rank: int | None = None) -> list[MetricRow]:
        """Metric rows; at least one."""
        name = file.of(rank)
        return some(_metric_rows(self.text(file, rank), name), f"line in {name}")

    def ranks(self, file: RecordFile[object]) -> list[int]:
        """Numbers of the actors that have such a file, ascending; at least one."""
        folder = self.root / "raw" / file.step
        found = [file.rank_in(path.name) for path in folder.glob(file.name.format(rank="*"))]
        return some(
            sorted(rank for rank in found if rank is not None), f"raw/{file.step}/{file.name}"
        )

    def text(self, file: RecordFile[Any], rank: int | None = None) -> str:
        """The text of a file, every byte as it is.

        Raises:
            EvidenceError: it is missing, too large or not UTF-8.
        """
        name = f"raw/{file.step}/{file.of(rank)}"
        if self._read is not None and name in self._read:
            return self._read[name]
        try:
            text = read_bytes(self.root / name, max_bytes=MAX_RECORD_BYTES).decode()
        except FileNotFoundError as error:
            raise MissingRecordError(f"{name} is missing") from error
        except (OSError, ValueError) as error:
            raise EvidenceError(f"{file.of(rank)} cannot be read: {error}") from error
        if self._read is not None:
            self._read[name] = text
        return text


def lines_of(text: str, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a text with one per line, each with its place.

    Raises:
        EvidenceError: the last line is torn, or a line is no object.
    """
    if text and not text.endswith("\n"):
        raise EvidenceError(f"{name}: the last line is torn")
    places = [(f"{name}, line {i}", line) for i, line in enumerate(text.split("\n")[:-1], 1)]
    return [(where, parse_object(line, where=where)) for where, line in places]


@lru_cache(maxsize=_FILES)
def _record(kind: type[Any], text: str, name: str) -> Any:
    return from_json(kind, parse_object(text, where=name), where=name)


@lru_cache(maxsize=_FILES)
def _records(kind: type[Any], text: str, name: str) -> tuple[Any, ...]:
    return tuple(from_json(kind, value, where=where) for where, value in lines_of(text, name))


@lru_cache(maxsize=_FILES)
def _metric_rows(text: str, name: str) -> tuple[MetricRow, ...]:
    return tuple(parse_rows([value for _, value in lines_of(text, name)], source=name))


def some[T](items: Iterable[T], what: str) -> list[T]:
    """All of `items`, at least one: counting violations among nothing proves nothing.

    Raises:
        MissingRecordError: there is none.
    """
    found = list(items)
    if not found:
        raise MissingRecordError(f"no {what} to check")
    return found
