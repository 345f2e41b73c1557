"""Metric rows as JSON lines: what learner and actors write, and what a gate reads back.

Owns the row format. One line is one row and is flushed at once, so that a killed process leaves
every row it finished. No tracker is imported here: learner and actors must not pay for one. Read
`pirl.audit.raw` next.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pirl.config.strictjson import parse_json
from pirl.errors import EvidenceError
from pirl.files import Appender, writing
from pirl.journal.metrics import lookup

logger = logging.getLogger(__name__)

ROW_FORMAT = 1
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _encode(value: float) -> float | str:
    """JSON has no NaN; a value that is not finite travels as its name and is never dropped."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _decode(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise EvidenceError(f"metric value {value!r} is not a number")
    if isinstance(value, str):
        if value not in _NOT_FINITE:
            raise EvidenceError(f"metric value {value!r} is not a number")
        return _NOT_FINITE[value]
    return float(value)


class JsonLines:
    """Appends one JSON object per line, each in a single flushed write."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending; a torn last line, left by a killed process, is moved away.

        Raises:
            EnvironmentNotReadyError: the file cannot be written.
        """
        set_aside_torn_tail(path)
        self._file = Appender(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append `record`; a value that JSON cannot express raises instead of being changed.

        Raises:
            EnvironmentNotReadyError: the disk is full; the file ends with the record before.
        """
        line = json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"
        self._file.write(line.encode())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def set_aside_torn_tail(path: Path) -> None:
    """Move what follows the last whole line of `path` to a file of its own: a new row would be glued to it."""
    if not path.is_file():
        return
    with writing(path), path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole == len(data):
            return
        aside = path.with_suffix(f".torn-{os.getpid()}{path.suffix}")
        with Appender(aside) as torn:
            torn.write(data[whole:] + b"\n")
        file.truncate(whole)
    logger.warning("%s ended in a torn line; it is in %s now", path, aside.name)


class MetricLog(JsonLines):
    """Appends metric rows of one process."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._start = time.monotonic()

    def write_row(self, step: int, *, version: int, metrics: Mapping[str, float]) -> None:
        """Append one row.

        Args:
            step: learner: number of the update, from 1; actor: number of the rollout, from 1.
            version: policy version after the update (learner) or sampled with (actor).
            metrics: name to value; every name is in `pirl.journal.metrics.METRICS`.

        Raises:
            EvidenceError: a name is not in the table.
        """
        elapsed_s = round(time.monotonic() - self._start, 3)
        row = MetricRow(step=step, version=version, elapsed_s=elapsed_s, metrics=metrics)
        self.write(encode_row(row))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One row as read back."""

    step: int
    version: int
    elapsed_s: float
    """Seconds since the process opened its log; no wall-clock time."""
    metrics: Mapping[str, float]


def encode_row(row: MetricRow) -> dict[str, Any]:
    """A row as it stands in a file.

    Raises:
        EvidenceError: a name is not in the table.
    """
    return {
        "format": ROW_FORMAT,
        "step": row.step,
        "version": row.version,
        "elapsed_s": row.elapsed_s,
        "metrics": {lookup(name).name: _encode(float(v)) for name, v in row.metrics.items()},
    }


def read_json_lines(path: Path, *, allow_torn_tail: bool = False) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file.

    Args:
        path: the file.
        allow_torn_tail: accept a last line without its newline (a process killed in the middle of
            a write) and leave it out; only for logs of a process that was killed on purpose.

    Raises:
        EvidenceError: no such file, or a line that is not a JSON object.
    """
    if not path.is_file():
        raise EvidenceError(f"{path.name} is missing")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path.name} cannot be read as UTF-8 text: {error}") from error
    if lines[-1] and not allow_torn_tail:
        raise EvidenceError(f"{path.name}: the last line is torn")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise EvidenceError(f"{path.name}: line {number} is not JSON") from error
        if not isinstance(record, dict):
            raise EvidenceError(f"{path.name}: line {number} is not an object")
        records.append(record)
    return records


def read_metrics(path: Path, *, allow_torn_tail: bool = False) -> list[MetricRow]:
    """All metric rows of a file, in order.

    Raises:
        EvidenceError: no such file, a malformed row, another row format, a name outside the table.
    """
    return parse_rows(read_json_lines(path, allow_torn_tail=allow_torn_tail), source=path.name)


def parse_rows(records: Sequence[Mapping[str, Any]], *, source: str) -> list[MetricRow]:
    """Metric rows of parsed JSON objects.

    Raises:
        EvidenceError: a malformed row, another row format, a name outside the table.
    """
    rows: list[MetricRow] = []
    for record in records:
        if record.get("format") != ROW_FORMAT:
            raise EvidenceError(f"{source}: row format {record.get('format')!r}, not {ROW_FORMAT}")
        try:
            metrics = {lookup(name).name: _decode(v) for name, v in record["metrics"].items()}
            row = MetricRow(
                step=int(record["step"]),
                version=int(record["version"]),
                elapsed_s=float(record["elapsed_s"]),
                metrics=metrics,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvidenceError(f"{source}: malformed metric row ({error!r})") from error
        rows.append(row)
    return rows
