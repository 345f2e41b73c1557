"""Writing a bundle: one folder with everything that a verdict follows from.

Owns the layout (`docs/evidence.md`), the nonce and the times (in `metadata/` only). Everything that
is written passes the redactor. Refuses to know how records come about. Read
`pirl.evidence.statement` next.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pirl.errors import EvidenceError, PirlError
from pirl.evidence.criteria import STEPS, CriterionResult
from pirl.evidence.environment import collect_environment, collect_source
from pirl.evidence.judge import GateVerdict, judge_gate, judge_step
from pirl.evidence.policy import GATE, POLICY_VERSION, policy_digest, policy_text
from pirl.evidence.raw import RawRecords, file_sha256, read_object
from pirl.evidence.redact import Redactor, find_leaks
from pirl.evidence.report import render_html, render_markdown
from pirl.evidence.statement import (
    FORMAT_VERSION,
    MANIFEST,
    STATEMENT,
    build_manifest,
    build_statement,
    dump_json,
    list_files,
)
from pirl.files import write_text, writing

LAUNCHERS = ("direct", "dvc", "prefect", "test")
"""Who may have started a gate."""

TEXT_SUFFIXES = (".json", ".jsonl", ".txt", ".log", ".md", ".html")
BINARY_SUFFIXES = (".png", ".mp4")


def utc_now() -> str:
    """This moment, UTC, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBundle:
    """A bundle on disk."""

    folder: Path
    digest: str
    """SHA-256 of `manifest.json`: the one value to note elsewhere."""
    verdict: GateVerdict


@dataclass(slots=True, kw_only=True)
class BundleWriter:
    """An open bundle. `finish` closes it; nothing may be written afterwards."""

    folder: Path
    redactor: Redactor
    run: dict[str, Any]
    source: Mapping[str, Any]
    _commands: list[str] = field(default_factory=list[str])

    @staticmethod
    def start(
        folder: Path,
        *,
        repo_root: Path,
        redactor: Redactor,
        launched_by: str,
        lock_files: Sequence[str] = (),
        environment: Mapping[str, Any] | None = None,
    ) -> BundleWriter:
        """Open a bundle before anything runs: policy, nonce, time, code, machine come first.

        Args:
            folder: does not exist, or is empty; stale evidence is never mixed in.
            repo_root: top folder of the checkout.
            redactor: knows this machine and the run's secrets.
            launched_by: one of `LAUNCHERS`.
            lock_files: files in `repo_root` that fix versions.
            environment: further facts, for example GL vendor and threads of the processes.

        Raises:
            EvidenceError: folder not empty, launcher unknown, or git does not answer.
        """
        require_fresh(folder)
        if launched_by not in LAUNCHERS:
            raise EvidenceError(f"launched_by {launched_by!r} is not one of {LAUNCHERS}")
        writer = BundleWriter(
            folder=folder,
            redactor=redactor,
            run={
                "gate": GATE,
                "bundle_format": FORMAT_VERSION,
                "policy_version": POLICY_VERSION,
                "policy_digest": policy_digest(),
                "nonce": secrets.token_hex(16),
                "launched_by": launched_by,
                "started_utc": utc_now(),
                "ended_utc": None,
                "steps": {},
            },
            source=collect_source(repo_root, lock_files=lock_files),
        )
        writer.write_text("policy.json", policy_text())
        writer.write_json("metadata/run.json", writer.run)
        writer.write_json("metadata/source.json", writer.source)
        facts = collect_environment() | {"run": dict(environment or {})}
        writer.write_json("metadata/environment.json", facts)
        return writer

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the bundle, redacted.

        Raises:
            EvidenceError: the text would leak.
        """
        write_text(self.folder / name, self.redactor.clean(text, where=name))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file of the bundle, redacted."""
        self.write_text(name, dump_json(value))

    def command(self, argv: Sequence[str], *, comment: str = "") -> None:
        """Note the exact command of a process, to be copied from `commands.txt`."""
        self._commands.append((f"# {comment}\n" if comment else "") + shlex.join(argv))

    def config(self, canonical: str, resolved: Mapping[str, Any]) -> None:
        """Write the resolved config: the exact bytes that are hashed, and a readable copy.

        Raises:
            EvidenceError: the canonical text names this machine; its hash would not survive.
        """
        if self.redactor.clean(canonical, where="config/canonical.json") != canonical:
            raise EvidenceError("the config names a folder of this machine; make it relative")
        self.write_text("config/canonical.json", canonical)
        self.write_json("config/train_config.json", resolved)

    def step(self, step: str) -> StepWriter:
        """The records of one step; used as a context manager, it notes start and end.

        Raises:
            EvidenceError: not a step of the gate.
        """
        if step not in STEPS:
            raise EvidenceError(f"{step!r} is not one of {STEPS}")
        return StepWriter(bundle=self, step=step)

    def media(self, name: str) -> Path:
        """Where to write the picture or video `name`."""
        path = self.folder / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, *, pictures: bool = True) -> FinishedBundle:
        """Judge, draw, report, list every file and sign off. A step that is missing is "not run".

        Raises:
            EvidenceError: something in the folder would leak or is of an unknown type.
        """
        raw = RawRecords(self.folder)
        verdict = judge_gate(raw)
        for step, results in verdict.results.items():
            self._write_criteria(step, results)
        self.write_json("verdict.json", verdict.to_json())
        self.write_text("commands.txt", "\n".join(self._commands) + "\n")
        self.run["ended_utc"] = utc_now()
        self.write_json("metadata/run.json", self.run)
        if pictures:
            from pirl.evidence.pictures import draw_all

            with writing(self.folder / "media"):
                draw_all(raw, self.folder / "media")
        self.write_text("report.md", render_markdown(self.folder))
        self.write_text("report.html", render_html(self.folder))
        self._check_files()
        digest = seal(self.folder, verdict)
        return FinishedBundle(folder=self.folder, digest=digest, verdict=verdict)

    def _write_criteria(self, step: str, results: Sequence[CriterionResult]) -> None:
        records = [result.to_json() for result in results]
        self.write_json(f"criteria/{step}.json", {"step": step, "criteria": records})

    def _check_files(self) -> None:
        problems: list[str] = []
        for name, path in list_files(self.folder).items():
            if path.suffix in TEXT_SUFFIXES:
                leaks = find_leaks(path.read_text(encoding="utf-8"))
                problems += [f"{name}: {leak}" for leak in leaks]
            elif path.suffix not in BINARY_SUFFIXES or path.is_symlink():
                problems.append(f"{name}: not a type of file that belongs in a bundle")
        if problems:
            raise EvidenceError("the bundle is not fit to leave this machine", problems=problems)


def require_fresh(folder: Path) -> None:
    """Refuse a folder that holds something; a bundle is one run's and no other's.

    Raises:
        EvidenceError: the folder is not empty, or no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EvidenceError(f"{folder.name} is not empty; give a bundle a fresh folder")


def seal(folder: Path, verdict: GateVerdict) -> str:
    """Write manifest and statement; returns the digest of the bundle, SHA-256 hex."""
    write_text(folder / MANIFEST, dump_json(build_manifest(folder)))
    digest = file_sha256(folder / MANIFEST)
    metadata = {
        name: read_object(folder / "metadata" / f"{name}.json") for name in ("run", "source")
    }
    statement = build_statement(verdict, manifest_sha256=digest, **metadata)
    write_text(folder / STATEMENT, dump_json(statement))
    return digest


@dataclass(slots=True, kw_only=True)
class StepWriter:
    """Raw records and logs of one step."""

    bundle: BundleWriter
    step: str

    def __enter__(self) -> Self:
        self.bundle.run["steps"][self.step] = {"started_utc": utc_now(), "ended_utc": None}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = self.bundle.run["steps"][self.step]
        entry["ended_utc"] = utc_now()
        entry["stopped_by"] = None if kind is None else kind.__name__
        entry["error"] = self._shown(error)
        self.bundle.write_json("metadata/run.json", self.bundle.run)

    def _shown(self, error: BaseException | None) -> str | None:
        """The message of a deliberate error on one line; one that would leak is withheld."""
        if not isinstance(error, PirlError):
            return None
        line = "; ".join(part.strip() for part in str(error).splitlines())
        try:
            return self.bundle.redactor.clean(line, where="metadata/run.json")
        except EvidenceError:
            return "withheld: it holds what may not leave the machine"

    def record(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `raw/<step>/<name>`, one JSON object."""
        self.bundle.write_json(f"raw/{self.step}/{name}", value)

    def lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write `raw/<step>/<name>`, one JSON object per line."""
        text = "".join(json.dumps(r, allow_nan=False, sort_keys=True) + "\n" for r in records)
        self.bundle.write_text(f"raw/{self.step}/{name}", text)

    def text(self, name: str, content: str) -> None:
        """Write `raw/<step>/<name>` as it is, for records whose bytes are hashed.

        Raises:
            EvidenceError: the text names this machine.
        """
        where = f"raw/{self.step}/{name}"
        if self.bundle.redactor.clean(content, where=where) != content:
            raise EvidenceError(f"{where} names a folder of this machine; make it relative")
        self.bundle.write_text(where, content)

    def copy(self, name: str, source: Path) -> None:
        """Copy a record that a process wrote to `raw/<step>/<name>`, redacted."""
        self.bundle.write_text(f"raw/{self.step}/{name}", source.read_text(encoding="utf-8"))

    def log(self, role: str, source: Path) -> None:
        """Copy the log of a process to `logs/<step>/<role>.log`, redacted."""
        text = source.read_text(encoding="utf-8", errors="replace")
        self.bundle.write_text(f"logs/{self.step}/{role}.log", text)

    def video(self, source: Path, *, facts: Mapping[str, Any]) -> None:
        """Copy a video and its first-frame picture to `media/` and record it with its digest."""
        target = self.bundle.media("rollout.mp4")
        with writing(target):
            shutil.copyfile(source, target)
            shutil.copyfile(source.with_suffix(".png"), target.with_suffix(".png"))
        record = {"file": "media/rollout.mp4", "sha256": file_sha256(target), **facts}
        self.record("video.json", record)

    def results(self) -> list[CriterionResult]:
        """What the records written so far are worth."""
        return judge_step(RawRecords(self.bundle.folder), self.step)
