"""Texts and digests that follow from a bundle's records: gate and verifier write them with the same functions.

Owns what the chain of seals begins with, `commands.txt`, and which texts follow from raw records. Read
`pirl.audit.bundle` next.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pirl.audit.judge import GateVerdict
from pirl.audit.policy import policy_text
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.common import Command
from pirl.audit.records.files import STEPS
from pirl.audit.records.metadata import Run
from pirl.journal.codec import dump_json, from_json
from pirl.journal.fields import file_sha256, read_object


def opening_digest(folder: Path, run: Run) -> str:
    """What the first step's seal follows: everything that was fixed before anything ran, SHA-256 hex."""
    fixed = {
        name: file_sha256(folder / name)
        for name in ("policy.json", "metadata/source.json", "metadata/environment.json")
    }
    said = {
        "nonce": run.nonce,
        "launched_by": run.launched_by,
        "started_utc": run.started_utc,
        "signed_by": run.signed_by,
    }
    return hashlib.sha256(dump_json({**fixed, **said}).encode()).hexdigest()


def commands_text(run: Run, commands: Mapping[str, Sequence[Command]]) -> str:
    """The text of `commands.txt`: the whole gate, then every process of every step."""
    lines = ["# the whole gate; every door runs the same", shlex.join(run.command)]
    for step, started in commands.items():
        for command in started:
            lines += [f"# {step}: {command.about}", shlex.join(command.argv)]
    return "\n".join(lines) + "\n"


def derived_texts(raw: RawRecords, verdict: GateVerdict, run: Run) -> dict[str, str]:
    """Every text that follows from the raw records and this code, by name; the two reports follow from these."""
    commands = {step: _commands(raw, step) for step in STEPS}
    texts = {
        f"criteria/{step}.json": dump_json(
            {"step": step, "criteria": [result.to_json() for result in results]}
        )
        for step, results in verdict.results.items()
    }
    return texts | {
        "policy.json": policy_text(),
        "verdict.json": dump_json(verdict.to_json()),
        "commands.txt": commands_text(run, commands),
    }


def _commands(raw: RawRecords, step: str) -> list[Command]:
    """Commands of a step; a step that started nothing has no such file."""
    file = files.COMMANDS[step]
    return raw.all(file) if (raw.root / "raw" / step / file.name).is_file() else []


def read_metadata[T](folder: Path, name: str, kind: type[T]) -> T:
    """One of the records of `metadata/`.

    Raises:
        EvidenceError: it cannot be read, or is not what its class says.
    """
    where = f"metadata/{name}.json"
    return from_json(kind, read_object(folder / where), where=where)
