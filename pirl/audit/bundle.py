"""Writing a bundle: one folder with everything that a verdict follows from.

Owns the layout (`docs/evidence.md`), the nonce, the times and the chain of the steps' seals. Everything that is
written passes the redactor. Refuses to know how records come about. Read `pirl.audit.statement` next.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pirl.audit.criterion import CriterionResult
from pirl.audit.derive import derived_texts, opening_digest, read_metadata
from pirl.audit.findings import Problem
from pirl.audit.judge import GateVerdict, judge_gate, judge_step
from pirl.audit.page import render_html
from pirl.audit.policy import GATE, POLICY_VERSION, policy_digest, policy_text
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.common import Command, Seal
from pirl.audit.records.files import STEPS, RecordFile
from pirl.audit.records.metadata import Environment, Run, Source, StepTimes
from pirl.audit.records.smoke import Video
from pirl.audit.redact import Redactor, find_leaks
from pirl.audit.report import render_markdown
from pirl.audit.signature import fingerprint, load_private_key, sign
from pirl.audit.statement import (
    FORMAT_VERSION,
    MANIFEST,
    SIGNATURE,
    STATEMENT,
    build_manifest,
    build_statement,
    list_files,
)
from pirl.errors import EvidenceError, PirlError
from pirl.files import write_text, writing
from pirl.journal.codec import dump_json, dump_line, from_json, to_json
from pirl.journal.environment import collect_environment, collect_source
from pirl.journal.fields import file_sha256
from pirl.journal.media import Clip

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LAUNCHERS = ("direct", "dvc", "prefect", "test")
"""Who may have started a gate."""

TEXT_SUFFIXES = (".json", ".jsonl", ".txt", ".log", ".md", ".html")
BINARY_SUFFIXES = (".png", ".mp4")
VIDEO = "media/rollout.mp4"
POSTER = "media/rollout.png"
WITHHELD = "withheld: it holds what may not leave the machine"


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
    run: Run
    source: Source
    began_unix: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    """When the gate began, by the clock of the kernel's process table and by the one that never jumps."""
    key: Ed25519PrivateKey | None = None
    last_seal: str = ""
    """Digest of the seal that the next step follows."""

    @staticmethod
    def start(
        folder: Path,
        *,
        repo_root: Path,
        redactor: Redactor,
        launched_by: str,
        command: Sequence[str] = ("pirl", "gate"),
        sign_with: Path | None = None,
        lock_files: Sequence[str] = (),
        environment: Mapping[str, Any] | None = None,
    ) -> BundleWriter:
        """Open a bundle before anything runs: policy, nonce, time, code, machine come first.

        Args:
            folder: does not exist, or is empty; stale evidence is never mixed in.
            repo_root: top folder of the checkout.
            redactor: knows this machine and the run's secrets.
            launched_by: one of `LAUNCHERS`.
            command: runs the whole gate again.
            sign_with: PEM file of the Ed25519 key that signs the statement.
            lock_files: files in `repo_root` that fix versions.
            environment: replaces facts about the machine that were collected.

        Raises:
            EvidenceError: folder not empty, launcher unknown, or git does not answer.
            ConfigError: `sign_with` is no such key.
        """
        require_fresh(folder)
        key = None if sign_with is None else load_private_key(sign_with)
        if launched_by not in LAUNCHERS:
            raise EvidenceError(f"launched_by {launched_by!r} is not one of {LAUNCHERS}")
        source = collect_source(repo_root, lock_files=lock_files)
        writer = BundleWriter(
            folder=folder,
            redactor=redactor,
            run=Run(
                gate=GATE,
                bundle_format=FORMAT_VERSION,
                policy_version=POLICY_VERSION,
                policy_digest=policy_digest(),
                nonce=secrets.token_hex(16),
                launched_by=launched_by,
                started_utc=utc_now(),
                ended_utc=None,
                signed_by=None if key is None else fingerprint(key.public_key()),
                command=tuple(redactor.arguments(command, where="metadata/run.json")),
                steps={},
            ),
            source=from_json(Source, source, where="source"),
            key=key,
        )
        machine = from_json(
            Environment, collect_environment() | dict(environment or {}), where="environment"
        )
        writer.write_text("policy.json", policy_text())
        writer.write_run()
        writer.write_text("metadata/source.json", dump_json(to_json(writer.source)))
        writer.write_text("metadata/environment.json", dump_json(to_json(machine)))
        writer.last_seal = opening_digest(folder, writer.run)
        return writer

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the bundle, redacted.

        Raises:
            EvidenceError: the text would leak.
        """
        write_text(self.folder / name, self.redactor.clean(text, where=name))

    def config(self, canonical: str, resolved: Mapping[str, Any]) -> None:
        """Write the resolved config: the exact bytes that are hashed, and a readable copy.

        Raises:
            EvidenceError: the canonical text names this machine; its hash would not survive.
        """
        if self.redactor.clean(canonical, where="config/canonical.json") != canonical:
            raise EvidenceError("the config names a folder of this machine; make it relative")
        self.write_text("config/canonical.json", canonical)
        self.write_text("config/train_config.json", dump_json(resolved))

    def step(self, step: str, *, config_hash: str, variant: str) -> StepWriter:
        """The records of one step; used as a context manager, it notes start and end and seals it.

        Raises:
            EvidenceError: not a step of the gate.
        """
        if step not in STEPS:
            raise EvidenceError(f"{step!r} is not one of {STEPS}")
        return StepWriter(bundle=self, step=step, config_hash=config_hash, variant=variant)

    def since_start(self, unix_s: float) -> float:
        """The start of a process in seconds since the gate began."""
        return round(unix_s - self.began_unix, 3)

    def now(self) -> float:
        """Seconds since the gate began."""
        return time.monotonic() - self.began

    def finish(self, *, pictures: bool = True) -> FinishedBundle:
        """Judge, draw, report, list every file and sign off. A step that is missing is "not run".

        Raises:
            EvidenceError: something in the folder would leak or is of an unknown type.
        """
        raw = RawRecords(self.folder)
        verdict = judge_gate(raw)
        self.run = replace(self.run, ended_utc=utc_now())
        self.write_run()
        for name, text in derived_texts(raw, verdict, self.run).items():
            self.write_text(name, text)
        if pictures:
            from pirl.audit.pictures import draw_all

            with writing(self.folder / "media"):
                draw_all(raw, self.folder / "media")
        self.write_text("report.md", render_markdown(self.folder))
        self.write_text("report.html", render_html(self.folder))
        if found := unfit_files(self.folder):
            problems = [f"{problem.where}: {problem.what}" for problem in found]
            raise EvidenceError("the bundle is not fit to leave this machine", problems=problems)
        digest = seal(self.folder, verdict, self.key)
        return FinishedBundle(folder=self.folder, digest=digest, verdict=verdict)

    def write_run(self) -> None:
        self.write_text("metadata/run.json", dump_json(to_json(self.run)))


def unfit_files(folder: Path) -> list[Problem]:
    """Files of an unknown type, and secrets, names and machine paths in the others."""
    found: list[Problem] = []
    for name, file in list_files(folder).items():
        if file.suffix in TEXT_SUFFIXES and not file.is_symlink():
            leaks = find_leaks(file.read_text(encoding="utf-8"))
            found += [Problem("leak", name, str(leak)) for leak in leaks]
        elif (file.suffix not in BINARY_SUFFIXES and name != SIGNATURE) or file.is_symlink():
            found.append(Problem("content", name, "not a type of file that belongs in a bundle"))
    return found


def require_fresh(folder: Path) -> None:
    """Refuse a folder that holds something; a bundle is one run's and no other's.

    Raises:
        EvidenceError: the folder is not empty, or no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EvidenceError(f"{folder.name} is not empty; give a bundle a fresh folder")


def seal(folder: Path, verdict: GateVerdict, key: Ed25519PrivateKey | None = None) -> str:
    """Write manifest, statement and, with a key, its signature; returns the digest of the bundle, SHA-256 hex."""
    write_text(folder / MANIFEST, dump_json(build_manifest(folder)))
    digest = file_sha256(folder / MANIFEST)
    run, source = read_metadata(folder, "run", Run), read_metadata(folder, "source", Source)
    statement = build_statement(verdict, manifest_sha256=digest, run=run, source=source)
    text = dump_json(statement)
    write_text(folder / STATEMENT, text)
    if key is not None:
        write_text(folder / SIGNATURE, sign(key, text.encode()))
    return digest


@dataclass(slots=True, kw_only=True)
class StepWriter:
    """Raw records and logs of one step."""

    bundle: BundleWriter
    step: str
    config_hash: str
    variant: str
    _commands: list[Command] = field(default_factory=list[Command])
    _written: list[str] = field(default_factory=list[str])
    _started_s: float = 0.0

    def __enter__(self) -> Self:
        self._started_s = self.now()
        self._note(StepTimes(started_utc=utc_now(), ended_utc=None, stopped_by=None, error=None))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        times = self.bundle.run.steps[self.step]
        stopped_by = None if kind is None else kind.__name__
        self._note(
            replace(times, ended_utc=utc_now(), stopped_by=stopped_by, error=self._shown(error))
        )
        if self._commands:
            self.write_all(files.COMMANDS[self.step], self._commands)
        self._seal()

    def _note(self, times: StepTimes) -> None:
        run = self.bundle.run
        self.bundle.run = replace(run, steps={**run.steps, self.step: times})
        self.bundle.write_run()

    def _seal(self) -> None:
        """Tie what was written to this gate and to the step before."""
        folder = self.bundle.folder
        file = files.SEALS[self.step]
        record = Seal(
            step=self.step,
            nonce=self.bundle.run.nonce,
            config_hash=self.config_hash,
            variant=self.variant,
            before=self.bundle.last_seal,
            started_s=self._started_s,
            ended_s=self.now(),
            files={name: file_sha256(folder / name) for name in sorted(set(self._written))},
        )
        self.bundle.write_text(f"raw/{self.step}/{file.name}", dump_json(to_json(record)))
        self.bundle.last_seal = file_sha256(folder / "raw" / self.step / file.name)

    def _shown(self, error: BaseException | None) -> str | None:
        """The message of a deliberate error on one line; one that would leak is withheld."""
        if not isinstance(error, PirlError):
            return None
        line = "; ".join(part.strip() for part in str(error).splitlines())
        try:
            return self.bundle.redactor.clean(line, where="metadata/run.json")
        except EvidenceError:
            return WITHHELD

    def now(self) -> float:
        """Seconds since the gate began."""
        return self.bundle.now()

    def _put(self, name: str, text: str) -> None:
        self.bundle.write_text(name, text)
        self._written.append(name)

    def _name(self, file: RecordFile[Any], rank: int | None = None) -> str:
        if file.step != self.step:
            raise ValueError(f"{file.name} is a record of {file.step}, not of {self.step}")
        return f"raw/{self.step}/{file.of(rank)}"

    def write[T](self, file: RecordFile[T], record: T, *, rank: int | None = None) -> None:
        """Write the one record of a file.

        Raises:
            EvidenceError: a value is not what its field says.
        """
        self._put(self._name(file, rank), dump_json(to_json(record)))

    def write_all[T](self, file: RecordFile[T], records: Iterable[T]) -> None:
        """Write the records of a file, one per line.

        Raises:
            EvidenceError: as `write`.
        """
        self._put(self._name(file), "".join(dump_line(to_json(r)) for r in records))

    def exact(self, file: RecordFile[str], content: str, *, rank: int | None = None) -> None:
        """Write a text as it is, for records whose bytes are hashed.

        Raises:
            EvidenceError: the text names this machine.
        """
        where = self._name(file, rank)
        if self.bundle.redactor.clean(content, where=where) != content:
            raise EvidenceError(f"{where} names a folder of this machine; make it relative")
        self._put(where, content)

    def copy(self, file: RecordFile[str], source: Path, *, rank: int | None = None) -> None:
        """Copy metric rows that a process wrote, redacted."""
        self._put(self._name(file, rank), source.read_text(encoding="utf-8"))

    def log(self, role: str, source: Path) -> None:
        """Copy the log of a process to `logs/<step>/<role>.log`, redacted."""
        text = source.read_text(encoding="utf-8", errors="replace")
        self._put(f"logs/{self.step}/{role}.log", text)

    def command(self, argv: Sequence[str], *, about: str) -> None:
        """Note the exact command of a process, to be copied from `commands.txt`.

        Raises:
            EvidenceError: an argument would leak.
        """
        clean = self.bundle.redactor.arguments(argv, where="commands.txt")
        self._commands.append(Command(about=about, argv=tuple(clean)))

    def video(self, source: Path, clip: Clip) -> None:
        """Copy a video and its first-frame picture to `media/` and record it with its digest."""
        target, poster = self.bundle.folder / VIDEO, self.bundle.folder / POSTER
        with writing(target):
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
            shutil.copyfile(source.with_suffix(".png"), poster)
        self._written += [VIDEO, POSTER]
        seen = {k: v for k, v in asdict(clip).items() if k != "spread"}
        self.write(files.VIDEO, Video(file=VIDEO, sha256=file_sha256(target), **seen))

    def results(self) -> list[CriterionResult]:
        """What the records written so far are worth."""
        return judge_step(RawRecords(self.bundle.folder), self.step)
