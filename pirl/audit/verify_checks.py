"""The checks of the verifier, one function each; every one returns all it finds.

Owns what is compared with what. A bundle is a closed world: its set of files is exact, every text that follows
from raw records is written again and compared byte by byte, every typed record is encoded again, and every step
must be of this gate and follow the step before. Read `docs/evidence.md` next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pirl.audit import logs
from pirl.audit.bundle import (
    BINARY_SUFFIXES,
    LAUNCHERS,
    POSTER,
    TEXT_SUFFIXES,
    VIDEO,
    derived_texts,
    opening_digest,
    read_metadata,
)
from pirl.audit.codec import dump_json, dump_line, from_json, parse_object, to_json
from pirl.audit.judge import UNKNOWN, GateVerdict
from pirl.audit.page import render_html
from pirl.audit.pictures import CAPTIONS
from pirl.audit.policy import GATE, POLICY_VERSION, policy_digest
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.common import Seal
from pirl.audit.records.files import METRIC_FILES, SEAL_NAME, STEPS, file_of
from pirl.audit.records.metadata import Environment, Run, Source
from pirl.audit.redact import find_leaks
from pirl.audit.report import render_markdown
from pirl.audit.signature import fingerprint, is_signed
from pirl.audit.statement import (
    FORMAT_VERSION,
    MANIFEST,
    SIGNATURE,
    STATEMENT,
    build_manifest,
    build_statement,
    list_files,
)
from pirl.config.identity import canonical_text
from pirl.config.strictjson import parse_json
from pirl.errors import EvidenceError
from pirl.journal.fields import MAX_RECORD_BYTES, file_sha256, read_object
from pirl.journal.metric_log import ROW_FORMAT, parse_rows

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_FILE_BYTES = 256 * 2**20
MIN_EXPECTED = 7
"""Characters of a commit or hash that identify it."""
SLACK_S = 2.0
"""Times of day are whole seconds, and the process table counts from a boot time in whole seconds."""
CLOCK_AHEAD = timedelta(days=1)
"""How far the clock of the verifier may be behind the one of the gate."""
FORMAT_SINCE = datetime(2026, 11, 1, tzinfo=UTC)
"""No bundle of this format is older."""

FIXED_FILES = (
    "commands.txt", "config/canonical.json", "config/train_config.json", "metadata/environment.json",
    "metadata/run.json", "metadata/source.json", "policy.json", "report.html", "report.md",
    "verdict.json", *(f"criteria/{step}.json" for step in STEPS),
)  # fmt: skip
"""Files that every bundle has, beside manifest and statement; one whose first step failed may lack the config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason why a bundle is not what it should be."""

    check: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the caller knows about the run from elsewhere."""

    commit: str | None = None
    config_hash: str | None = None
    nonce: str | None = None
    digest: str | None = None


def _problems(check: str, found: Mapping[str, str]) -> list[Problem]:
    return [Problem(check=check, where=where, what=what) for where, what in found.items() if what]


def unreadable(path: Path) -> list[Problem]:
    """Why the folder cannot be read as a bundle of this format; links are not followed."""
    if not path.is_dir():
        return [Problem(check="bundle", where=path.name, what="not a folder")]
    problems = [
        Problem(check="bundle", where=name, what="neither a file nor a folder of the bundle")
        for name, entry in list_files(path).items()
        if entry.is_symlink() or not entry.is_file() or entry.stat().st_size > MAX_FILE_BYTES
    ]
    if not (path / MANIFEST).is_file():
        problems.append(Problem(check="manifest", where=MANIFEST, what="missing"))
    return problems or other_format(path)


def other_format(path: Path) -> list[Problem]:
    """Whether the bundle is of a format that this code does not read."""
    try:
        version = read_object(path / MANIFEST).get("format_version")
    except EvidenceError:
        return []
    if version == FORMAT_VERSION or type(version) is not int:
        return []
    what = (
        f"the bundle is of format {version} and this verifier reads format {FORMAT_VERSION} only; "
        "verify it with the code at the commit that it names"
    )
    return [Problem(check="format", where=MANIFEST, what=what)]


def manifest(path: Path) -> list[Problem]:
    """Every file is listed, present and unaltered, and nothing else is said."""
    expected = build_manifest(path)
    text = (path / MANIFEST).read_text(encoding="utf-8")
    if text == dump_json(expected):
        return []
    recorded = parse_object(text, where=MANIFEST)
    listed = recorded.get("files")
    found: dict[str, str] = {}
    if not isinstance(listed, dict):
        return [Problem(check="manifest", where=MANIFEST, what="no list of files")]
    given, present = cast("dict[str, Any]", listed), expected["files"]
    for name in sorted({*given, *present}):
        if name not in present:
            found[name] = "in the manifest but missing"
        elif name not in given:
            found[name] = "in the folder but not in the manifest"
        elif given[name] != present[name]:
            found[name] = f"altered: the manifest says {given[name]}, the file is {present[name]}"
    if not found:
        found[MANIFEST] = _difference(recorded, expected)
    return _problems("manifest", found)


def content(path: Path) -> list[Problem]:
    """Only known types of file, and no secret, name or machine path in them."""
    problems: list[Problem] = []
    for name, file in list_files(path).items():
        if file.suffix in TEXT_SUFFIXES:
            leaks = find_leaks(file.read_text(encoding="utf-8"))
            problems += [Problem(check="leak", where=name, what=str(leak)) for leak in leaks]
        elif file.suffix not in BINARY_SUFFIXES and name != SIGNATURE:
            problems.append(Problem(check="content", where=name, what="unknown type of file"))
    return problems


def file_set(path: Path) -> list[Problem]:
    """The files are exactly those that a gate with these steps leaves."""
    run = read_metadata(path, "run", Run)
    present = set(list_files(path))
    allowed = {
        *FIXED_FILES,
        MANIFEST,
        STATEMENT,
        SIGNATURE,
        *(f"media/{name}" for name in CAPTIONS),
    }
    wanted = {*FIXED_FILES, STATEMENT}
    for step in STEPS:
        if step not in run.steps:
            continue
        seal = _seal(path, step)
        of_step = {f"raw/{step}/{SEAL_NAME}", *seal.files}
        allowed |= of_step
        wanted |= of_step
        if run.steps[step].stopped_by is None:
            wanted |= _complete(path, step)
    if "config/canonical.json" not in present and _stopped(run, files.VALIDATE):
        wanted -= {"config/canonical.json", "config/train_config.json"}
    found = dict.fromkeys(sorted(present - allowed), "does not belong in a bundle")
    found |= dict.fromkeys(sorted(wanted - present), "is missing")
    return _problems("files", found)


def _stopped(run: Run, step: str) -> bool:
    return step in run.steps and run.steps[step].stopped_by is not None


def _complete(path: Path, step: str) -> set[str]:
    """Files of a step that ran to its end: its records, and a log of every process."""
    raw = RawRecords(path)
    ranks = range(raw.one(files.SETTINGS).actors)
    names = {
        f"raw/{step}/{file.of(rank)}"
        for file in files.FILES
        if file.step == step
        for rank in (ranks if file.is_per_actor else (None,))
    }
    names |= {f"logs/{step}/{role}.log" for role in logs.roles(raw, step)}
    return names | ({VIDEO, POSTER} if step == files.SMOKE else set())


def _seal(path: Path, step: str) -> Seal:
    return RawRecords(path).one(files.SEALS[step])


def records(path: Path) -> list[Problem]:
    """Every record is of its class and in the one layout: no key or line more, less, twice or elsewhere."""
    found: dict[str, str] = {}
    for name, file in list_files(path).items():
        folder, _, rest = name.partition("/")
        step, _, leaf = rest.partition("/")
        if folder == "raw":
            found[name] = _record_problem(file, step, leaf)
    for name, kind in (("run", Run), ("source", Source), ("environment", Environment)):
        where = f"metadata/{name}.json"
        text = (path / where).read_text(encoding="utf-8")
        found[where] = _layout(text, dump_json(to_json(read_metadata(path, name, kind))))
    return _problems("record", found)


def _record_problem(path: Path, step: str, leaf: str) -> str:
    file = file_of(step, leaf)
    if file is None:
        return "no record of this step"
    if path.stat().st_size > MAX_RECORD_BYTES:
        return f"larger than {MAX_RECORD_BYTES} bytes"
    try:
        text = path.read_text(encoding="utf-8")
        if file in METRIC_FILES:
            return _metric_problem(text, leaf)
        if file.kind is str:
            return _layout(text, canonical_text(parse_object(text, where=leaf)))
        if not file.is_lines:
            record = from_json(file.kind, parse_object(text, where=leaf), where=leaf)
            return _layout(text, dump_json(to_json(record)))
        return _layout(text, "".join(_lines(text, file.kind, leaf)))
    except (EvidenceError, ValueError) as error:
        return str(error)


def _lines(text: str, kind: type, leaf: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{leaf}, line {number}"
        yield dump_line(to_json(from_json(kind, parse_object(line, where=where), where=where)))


_METRIC_KEYS = {"format", "step", "version", "elapsed_s", "metrics"}


def _metric_problem(text: str, leaf: str) -> str:
    """Rows as `MetricLog` writes them: the known keys, known names, steps and times that rise."""
    rows = [parse_object(line, where=leaf) for line in text.splitlines()]
    parsed = parse_rows(rows, source=leaf)
    for row in rows:
        if set(row) != _METRIC_KEYS or row["format"] != ROW_FORMAT:
            return f"a row with the keys {', '.join(sorted(row))}"
    again = "".join(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)
    steps, times = [r.step for r in parsed], [(r.step, r.elapsed_s) for r in parsed]
    if steps != sorted(set(steps)):
        return "updates do not rise"
    return _layout(text, again) or (
        "" if all(t >= 0 for _, t in times) else "a time before the start"
    )


def _layout(text: str, again: str) -> str:
    return "" if text == again else "not in the layout that a gate writes"


def chain(path: Path) -> list[Problem]:
    """Every step is of this gate, follows the one before, and its files are those it was sealed with."""
    run = read_metadata(path, "run", Run)
    before, ended_s = opening_digest(path, run), 0.0
    config = _config_of(path)
    problems: list[Problem] = []
    ran = [step for step in STEPS if step in run.steps]
    if set(run.steps) != set(STEPS[: len(run.steps)]):
        what = f"steps {', '.join(run.steps)} are not the first ones of the gate"
        problems.append(Problem(check="chain", where="metadata/run.json", what=what))
    for step in ran:
        where, seal = f"raw/{step}/{SEAL_NAME}", _seal(path, step)
        expected = {
            "step": (seal.step, step),
            "nonce": (seal.nonce, run.nonce),
            "before": (seal.before, before),
            **({k: (getattr(seal, k), v) for k, v in config.items()} if config else {}),
        }
        problems += [
            Problem(check="chain", where=where, what=f"{key} is {said}, not {wanted}")
            for key, (said, wanted) in expected.items()
            if said != wanted
        ]
        for name, digest in seal.files.items():
            here = path / name
            is_own = name.startswith((f"raw/{step}/", f"logs/{step}/")) or (
                step == files.SMOKE and name in (VIDEO, POSTER)
            )
            if not is_own or name == where:
                problems.append(
                    Problem(check="chain", where=where, what=f"{name} is not of this step")
                )
            elif not here.is_file() or file_sha256(here) != digest:
                problems.append(
                    Problem(check="chain", where=name, what=f"not what {step} was sealed with")
                )
        problems += _times(run, step, seal, ended_s)
        before, ended_s = file_sha256(path / where), seal.ended_s
    return problems


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
    return [] if holds else [Problem(check="time", where=f"raw/{step}/{SEAL_NAME}", what=what)]


def _utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


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
        <= started <= max([started, *steps_end]) <= ended <= now + CLOCK_AHEAD,
        "metadata/run.json: command": run.command[:2] == ("pirl", "gate"),
        "metadata/run.json: steps": bool(run.steps),
        "metadata/source.json: git_commit": is_commit,
        "metadata/source.json: patch_sha256": fits
        and (not source.git_dirty or _is_hex(source.patch_sha256, 64)),
        "metadata/source.json: lock_files": bool(source.lock_files)
        and all(_is_hex(digest, 64) for digest in source.lock_files.values()),
        "metadata/environment.json: packages": bool(machine.packages),
        "metadata/environment.json: python": bool(machine.python),
    }  # fmt: skip
    return [
        Problem(check="metadata", where=where.partition(": ")[0],
                what=f"{where.partition(': ')[2]} is missing or cannot be")
        for where, ok in holds.items() if not ok
    ]  # fmt: skip


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def command(path: Path, verdict: GateVerdict) -> list[Problem]:
    """The command of the whole gate asks for the profile and variant that were judged."""
    run = read_metadata(path, "run", Run)
    options = dict(zip(run.command, run.command[1:], strict=False))
    asked = {"--profile": verdict.profile, "--variant": verdict.variant}
    wrong = [
        f"{option} {options.get(option)}, not {wanted}"
        for option, wanted in asked.items()
        if options.get(option) != wanted and wanted != UNKNOWN
    ]
    return _problems(
        "metadata", {"metadata/run.json": "; ".join(wrong) and f"command: {'; '.join(wrong)}"}
    )


def config(path: Path) -> list[Problem]:
    """The readable config is the one that is hashed."""
    canonical, readable = path / "config" / "canonical.json", path / "config" / "train_config.json"
    if not canonical.is_file() and not readable.is_file():
        return []
    text = readable.read_text(encoding="utf-8")
    tree = parse_object(text, where=readable.name)
    found = {"config/train_config.json": _layout(text, dump_json(tree))}
    if canonical_text(tree) != canonical.read_text(encoding="utf-8"):
        found["config/train_config.json"] = "not the config of config/canonical.json"
    return _problems("config", found)


def log_texts(path: Path) -> list[Problem]:
    """Every log says what the records say of its process."""
    return _problems("log", dict(logs.disagreements(RawRecords(path))))


def derived(path: Path, verdict: GateVerdict) -> list[Problem]:
    """Criteria, verdict, policy, commands: what raw records and this code give, byte by byte."""
    run = read_metadata(path, "run", Run)
    found: dict[str, str] = {}
    for name, expected in derived_texts(RawRecords(path), verdict, run).items():
        text = (path / name).read_text(encoding="utf-8")
        if text == expected:
            continue
        if name.endswith(".json"):
            found[name] = _difference(parse_object(text, where=name), json.loads(expected))
        else:
            found[name] = "not what the records give"
    return _problems("derived", found)


def _difference(recorded: Any, expected: Any, at: str = "") -> str:
    """The first place where two JSON values differ, with both."""
    if isinstance(recorded, dict) and isinstance(expected, dict):
        given, wanted = cast("dict[str, Any]", recorded), cast("dict[str, Any]", expected)
        for key in sorted({*given, *wanted}):
            place = f"{at}.{key}" if at else key
            if key not in wanted:
                return f"{place} is unknown"
            if key not in given:
                return f"{place} is missing"
            if found := _difference(given[key], wanted[key], place):
                return found
        return "" if at else "not in the layout that a gate writes"
    if isinstance(recorded, list) and isinstance(expected, list):
        items, others = cast("list[Any]", recorded), cast("list[Any]", expected)
        for i, (a, b) in enumerate(zip(items, others, strict=False)):
            if found := _difference(a, b, _entry(at, i, b)):
                return found
        if len(items) == len(others):
            return ""
        return f"{at} has {len(items)} entries, the records give {len(others)}"
    # Python calls True and 1 equal; JSON does not.
    if json.dumps(recorded) == json.dumps(expected):
        return ""
    return f"{at} = {recorded!r}, recomputed {expected!r}"


def _entry(at: str, index: int, expected: Any) -> str:
    """A row by its name where it has one."""
    if isinstance(expected, dict) and "name" in expected:
        return str(cast("dict[str, Any]", expected)["name"])
    return f"{at}[{index}]"


def reports(path: Path) -> list[Problem]:
    """Both reports are what the other files give."""
    rendered = {"report.md": render_markdown(path), "report.html": render_html(path)}
    return [
        Problem(check="report", where=name, what="not what the other files give")
        for name, expected in rendered.items()
        if (path / name).read_text(encoding="utf-8") != expected
    ]


def statement(path: Path, verdict: GateVerdict) -> list[Problem]:
    """The statement is about this manifest and says what was recomputed."""
    expected = build_statement(
        verdict,
        manifest_sha256=file_sha256(path / MANIFEST),
        run=read_metadata(path, "run", Run),
        source=read_metadata(path, "source", Source),
    )
    recorded = (path / STATEMENT).read_text(encoding="utf-8")
    if recorded == dump_json(expected):
        return []
    what = _difference(parse_json(recorded), expected)
    return [Problem(check="statement", where=STATEMENT, what=what)]


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
    elif not is_signed(key, (path / STATEMENT).read_bytes(), (path / SIGNATURE).read_text("ascii")):
        found = "not a signature of this statement by that key"
    return _problems("signature", {SIGNATURE: found})


def staleness(path: Path, verdict: GateVerdict, expected: Expected) -> list[Problem]:
    """The bundle is about the run that the caller means."""
    found = {
        "git commit": (expected.commit, read_metadata(path, "source", Source).git_commit),
        "config hash": (expected.config_hash, verdict.config_hash),
        "nonce": (expected.nonce, read_metadata(path, "run", Run).nonce),
        "bundle digest": (expected.digest, file_sha256(path / MANIFEST)),
    }
    return [
        Problem(check="stale", where=name, what=f"{actual} where {wanted} is expected")
        for name, (wanted, actual) in found.items()
        if wanted is not None and not _identifies(wanted, str(actual))
    ]


def _identifies(wanted: str, actual: str) -> bool:
    return len(wanted) >= MIN_EXPECTED and actual.startswith(wanted.lower())
