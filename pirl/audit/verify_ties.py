"""What ties a bundle together: its steps to one gate and to each other, times, logs, config, signer.

One function each, as in `pirl.audit.verify_checks`; every one returns all it finds. Read that module first.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pirl.audit import logs
from pirl.audit.bundle import LAUNCHERS, POSTER, VIDEO
from pirl.audit.derive import opening_digest, read_metadata
from pirl.audit.findings import Problem, layout, problems
from pirl.audit.judge import UNKNOWN, GateVerdict
from pirl.audit.policy import GATE, POLICY_VERSION, policy_digest
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.common import Seal
from pirl.audit.records.files import SEAL_NAME, STEPS
from pirl.audit.records.metadata import Environment, Run, Source
from pirl.audit.signature import fingerprint, is_signed
from pirl.audit.statement import FORMAT_VERSION, SIGNATURE, STATEMENT
from pirl.config.identity import canonical_text
from pirl.errors import EvidenceError
from pirl.journal.codec import dump_json, parse_object
from pirl.journal.fields import exact_text, file_sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SLACK_S = 2.0
"""Times of day are whole seconds, and the process table counts from a boot time in whole seconds."""
CLOCK_AHEAD = timedelta(days=1)
"""How far the clock of the verifier may be behind the one of the gate."""
_UTC = "%Y-%m-%dT%H:%M:%SZ"
TO_SEAL = timedelta(minutes=10)
"""How long after its last step a gate may take to put its end down."""
CONFIG_OPTIONS = ("--config", "--config_path")
"""Of `pirl gate`; the profile `own` has one, no other has any."""
FORMAT_SINCE = datetime(2026, 11, 1, tzinfo=UTC)
"""No bundle of this format is older."""


def chain(path: Path) -> list[Problem]:
    """Every step is of this gate, follows the one before, and its files are those it was sealed with."""
    run = read_metadata(path, "run", Run)
    before, ended_s = opening_digest(path, run), 0.0
    config = _config_of(path)
    found: list[Problem] = []
    ran = [step for step in STEPS if step in run.steps]
    if set(run.steps) != set(STEPS[: len(run.steps)]):
        what = f"steps {', '.join(run.steps)} are not the first ones of the gate"
        found.append(Problem("chain", "metadata/run.json", what))
    for step in ran:
        where, seal = f"raw/{step}/{SEAL_NAME}", RawRecords(path).one(files.SEALS[step])
        expected = {
            "step": (seal.step, step),
            "nonce": (seal.nonce, run.nonce),
            "before": (seal.before, before),
            **({k: (getattr(seal, k), v) for k, v in config.items()} if config else {}),
        }
        found += [
            Problem("chain", where, f"{key} is {said}, not {wanted}")
            for key, (said, wanted) in expected.items()
            if said != wanted
        ]
        for name, digest in seal.files.items():
            here = path / name
            is_own = name.startswith((f"raw/{step}/", f"logs/{step}/")) or (
                step == files.SMOKE and name in (VIDEO, POSTER)
            )
            if not is_own or name == where:
                found.append(Problem("chain", where, f"{name} is not of this step"))
            elif not here.is_file() or file_sha256(here) != digest:
                found.append(Problem("chain", name, f"not what {step} was sealed with"))
        found += _times(run, step, seal, ended_s)
        before, ended_s = file_sha256(path / where), seal.ended_s
    return found


def _config_of(path: Path) -> dict[str, str]:
    try:
        config = RawRecords(path).one(files.CONFIG)
    except EvidenceError:
        return {}
    return {"config_hash": config.hash, "variant": config.variant}


def _times(run: Run, step: str, seal: Seal, after_s: float) -> list[Problem]:
    """A step begins after the one before, ends after it began, and when the run says."""
    said, began = run.steps[step], _utc(run.started_utc)
    off = [
        abs((_utc(text) - began).total_seconds() - seconds)
        for text, seconds in (
            (said.started_utc, seal.started_s),
            (said.ended_utc or "", seal.ended_s),
        )
        if text
    ]
    holds = after_s <= seal.started_s <= seal.ended_s and len(off) == 2 and max(off) <= SLACK_S
    what = "its times are not in order, or not those of metadata/run.json"
    return [] if holds else [Problem("time", f"raw/{step}/{SEAL_NAME}", what)]


def _utc(text: str) -> datetime:
    found = datetime.strptime(text, _UTC).replace(tzinfo=UTC)
    if found.strftime(_UTC) != text:
        raise EvidenceError(f"{text!r} is not a time as {_UTC}")
    return found


def metadata(path: Path) -> list[Problem]:
    """Who ran it, when, on which code and machine: of the forms that a gate writes."""
    run, source = read_metadata(path, "run", Run), read_metadata(path, "source", Source)
    machine = read_metadata(path, "environment", Environment)
    started, ended = _utc(run.started_utc), _utc(run.ended_utc or "")
    now = datetime.now(UTC)
    steps_end = [_utc(step.ended_utc or "") for step in run.steps.values()]
    is_commit = _is_hex(source.git_commit, 40) and len(set(source.git_commit)) > 1
    fits = source.git_dirty == (source.patch_sha256 is not None)
    holds = {
        "metadata/run.json: gate": run.gate == GATE,
        "metadata/run.json: bundle_format": run.bundle_format == FORMAT_VERSION,
        "metadata/run.json: policy_version": run.policy_version == POLICY_VERSION,
        "metadata/run.json: policy_digest": run.policy_digest == policy_digest(),
        "metadata/run.json: nonce": _is_hex(run.nonce, 32) and len(set(run.nonce)) > 1,
        "metadata/run.json: launched_by": run.launched_by in LAUNCHERS,
        "metadata/run.json: started_utc, ended_utc": FORMAT_SINCE
        <= started <= (last := max([started, *steps_end])) <= ended <= min(last + TO_SEAL, now + CLOCK_AHEAD),
        "metadata/run.json: command": run.command[:2] == ("pirl", "gate"),
        "metadata/run.json: steps": bool(run.steps) and _ends_once(run),
        "metadata/run.json: signed_by": run.signed_by is None or _is_hex(run.signed_by, 64),
        "metadata/source.json: git_commit": is_commit,
        "metadata/source.json: patch_sha256": fits
        and (not source.git_dirty or _is_hex(source.patch_sha256, 64)),
        "metadata/source.json: lock_files": bool(source.lock_files)
        and all(_is_hex(digest, 64) for digest in source.lock_files.values()),
        "metadata/environment.json: packages": bool(machine.packages),
        "metadata/environment.json: python": bool(machine.python),
        "metadata/environment.json: cores, memory": machine.memory_gib > 0
        and 0 < machine.cpu_usable <= (machine.cpu_count or machine.cpu_usable),
    }  # fmt: skip
    return [
        Problem("metadata", where.partition(": ")[0], f"{where.partition(': ')[2]} is missing or cannot be")
        for where, ok in holds.items() if not ok
    ]  # fmt: skip


def _ends_once(run: Run) -> bool:
    """Only the last step that began may have ended early, and only such a one has an error."""
    steps = list(run.steps.values())
    stopped = [step.stopped_by is not None for step in steps]
    return not any(stopped[:-1]) and all(
        is_stopped or step.error is None for is_stopped, step in zip(stopped, steps, strict=True)
    )


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def command(path: Path, verdict: GateVerdict) -> list[Problem]:
    """The command of the whole gate asks for the profile and variant that were judged, and `own` for its file."""
    run = read_metadata(path, "run", Run)
    asked = {"--profile": verdict.profile, "--variant": verdict.variant}
    given = [(word, run.command[i + 1 : i + 2]) for i, word in enumerate(run.command)]
    wrong = [
        f"{option} {' '.join(value)}, not {wanted}"
        for option, wanted in asked.items()
        for value in [v for word, v in given if word.partition("=")[0] == option] or [()]
        if value != (wanted,) and wanted != UNKNOWN
    ]
    named = [word for word in run.command if word.partition("=")[0] in CONFIG_OPTIONS]
    if verdict.profile != UNKNOWN and len(named) != int(verdict.profile == files.OWN):
        wrong.append(f"{len(named)} config files of profile {verdict.profile}")
    return problems(
        "metadata", {"metadata/run.json": "; ".join(wrong) and f"command: {'; '.join(wrong)}"}
    )


def config(path: Path) -> list[Problem]:
    """The readable config is the one that is hashed."""
    canonical, readable = path / "config" / "canonical.json", path / "config" / "train_config.json"
    if not canonical.is_file() and not readable.is_file():
        return []
    text = exact_text(readable)
    tree = parse_object(text, where=readable.name)
    found = {"config/train_config.json": layout(text, dump_json(tree))}
    if canonical_text(tree) != exact_text(canonical):
        found["config/train_config.json"] = "not the config of config/canonical.json"
    return problems("config", found)


def log_texts(path: Path) -> list[Problem]:
    """Every log says what the records say of its process."""
    return problems("log", dict(logs.disagreements(RawRecords(path))))


def signature(path: Path, key: Ed25519PublicKey | None) -> list[Problem]:
    """The statement is signed by the caller's key, and by the one that was named before anything ran."""
    signed_by = read_metadata(path, "run", Run).signed_by
    there = (path / SIGNATURE).is_file()
    found = ""
    if there != (signed_by is not None):
        found = (
            "missing, and the run names a key" if not there else "there, and the run names no key"
        )
    elif key is None:
        return []
    elif signed_by is None:
        found = "missing: the bundle is not signed"
    elif signed_by != fingerprint(key):
        found = f"by the key {signed_by[:12]}, not {fingerprint(key)[:12]}"
    elif not is_signed(key, (path / STATEMENT).read_bytes(), exact_text(path / SIGNATURE)):
        found = "not a signature of this statement by that key"
    return problems("signature", {SIGNATURE: found})
