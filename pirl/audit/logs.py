"""What the log of a process must say: it is held against the records of the same process.

A process writes its nonce to its record and to its log; a refusal is printed, and its fields are read from there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pirl.audit.criteria.mismatch import CONTROL
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.mismatch import Case, NamedField
from pirl.errors import EvidenceError

WITHHELD = ("token",)
"""Cases whose log holds a secret and is not kept."""
HOST, TOOTHLESS = "host", "toothless"

_MISMATCH_LINE = re.compile(
    r"^\s+(?P<field_name>[\w./ ()-]+): \w+ = (?P<ours>.*), \w+ = (?P<theirs>.*)$"
)
_FIELD_LINE = re.compile(r"^(?P<field_name>[\w.]+) = (?P<value>.*)$")
_EXPECTED_LINE = re.compile(r"^\s+expected: (?P<expected>.*)$")


def named_fields(text: str) -> tuple[NamedField, ...]:
    """Fields with both values, from the message that a refused process printed."""
    found: list[NamedField] = []
    pending: tuple[str, str] | None = None
    for line in text.splitlines():
        if match := _MISMATCH_LINE.match(line):
            found.append(NamedField(**match.groupdict()))
        elif match := _FIELD_LINE.match(line):
            pending = match["field_name"], match["value"]
        elif pending is not None and (match := _EXPECTED_LINE.match(line)):
            name, value = pending
            found.append(NamedField(field_name=name, ours=value, theirs=match["expected"]))
            pending = None
    return tuple(found)


def label(case: Case) -> str:
    """Name of the log of a case."""
    return f"{case.name}-{case.direction}"


def roles(raw: RawRecords, step: str) -> list[str]:
    """Processes of a step that ran to its end, by the name of their log.

    Raises:
        EvidenceError: its records do not say.
    """
    if step == files.VALIDATE:
        return []
    if step in files.PROCESSES:
        # The uninterrupted run is the one of smoke-run, and its log lies there.
        rows = raw.all(files.PROCESSES[step])
        return [row.role for row in rows if not row.role.endswith("-uninterrupted")]
    actors = [f"actor-{rank}" for rank in range(raw.one(files.SETTINGS).actors)]
    pairs = [f"{pair}-{role}" for pair in (CONTROL, TOOTHLESS) for role in ("learner", *actors)]
    cases = [c for c in raw.all(files.CASES) if c.probe == "process" and c.name not in WITHHELD]
    teeth = [
        f"{t.case.name}-teeth" for t in raw.all(files.TEETH) if t.case.direction == "checkpoint"
    ]
    return [*pairs, f"{HOST}-learner", *map(label, cases), *teeth]


def disagreements(raw: RawRecords) -> Iterator[tuple[str, str]]:
    """Logs that do not say what the records say; (name of the file, what is wrong)."""
    for step, file in files.PROCESSES.items():
        if not (raw.root / "raw" / step / file.name).is_file():
            continue
        for row in raw.all(file):
            name = f"logs/{step}/{row.role}.log"
            if row.role.endswith("-uninterrupted") or row.nonce is None:
                continue
            if row.nonce not in _text(raw, name):
                yield name, f"does not name the process {row.nonce[:12]} of its record"
    if not (raw.root / "raw" / files.MISMATCH / files.CASES.name).is_file():
        return
    for case in raw.all(files.CASES):
        name = f"logs/{files.MISMATCH}/{label(case)}.log"
        if case.probe != "process" or case.name in WITHHELD:
            continue
        if named_fields(_text(raw, name)) != case.fields:
            yield name, "does not name the fields of its record"


def _text(raw: RawRecords, name: str) -> str:
    try:
        return (raw.root / name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{name} cannot be read") from error
