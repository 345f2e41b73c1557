"""The checks of the verifier, one function each; every one returns all it finds.

Owns what is compared with what. Refuses to stop at the first problem, except where a folder is not
safe to read. Read `docs/evidence.md` next.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pirl.evidence.bundle import BINARY_SUFFIXES, LAUNCHERS, TEXT_SUFFIXES
from pirl.evidence.criteria import STEPS
from pirl.evidence.judge import GateVerdict
from pirl.evidence.policy import GATE, POLICY_VERSION, policy_digest, policy_text
from pirl.evidence.raw import file_sha256, mapping, read_object, text
from pirl.evidence.redact import find_leaks
from pirl.evidence.report import render_html, render_markdown
from pirl.evidence.statement import (
    FORMAT_VERSION,
    MANIFEST,
    STATEMENT,
    build_statement,
    compare_manifest,
    dump_json,
    list_files,
)

MAX_FILE_BYTES = 256 * 2**20
MIN_EXPECTED = 7
"""Characters of a commit or hash that identify it."""


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

    commit: str | None
    config_hash: str | None
    nonce: str | None
    digest: str | None


def unreadable(path: Path) -> list[Problem]:
    """Why the folder cannot be read as a bundle at all; links are not followed."""
    if not path.is_dir():
        return [Problem(check="bundle", where=path.name, what="not a folder")]
    problems = [
        Problem(check="bundle", where=name, what="neither a file nor a folder of the bundle")
        for name, entry in list_files(path).items()
        if entry.is_symlink() or not entry.is_file() or entry.stat().st_size > MAX_FILE_BYTES
    ]
    if not (path / MANIFEST).is_file():
        problems.append(Problem(check="manifest", where=MANIFEST, what="missing"))
    return problems


def manifest(path: Path) -> list[Problem]:
    """Every file is listed, present and unaltered."""
    differences = compare_manifest(path, read_object(path / MANIFEST))
    pairs = [difference.partition(": ") for difference in differences]
    return [Problem(check="manifest", where=where, what=what) for where, _, what in pairs]


def content(path: Path) -> list[Problem]:
    """Only known types of file, and no secret, name or machine path in them."""
    problems: list[Problem] = []
    for name, file in list_files(path).items():
        if file.suffix in TEXT_SUFFIXES:
            leaks = find_leaks(file.read_text(encoding="utf-8"))
            problems += [Problem(check="leak", where=name, what=str(leak)) for leak in leaks]
        elif file.suffix not in BINARY_SUFFIXES:
            problems.append(Problem(check="content", where=name, what="unknown type of file"))
    return problems


def policy(path: Path) -> list[Problem]:
    """The bundle was judged under the policy of this code."""
    if (path / "policy.json").read_text(encoding="utf-8") == policy_text():
        return []
    version = read_object(path / "policy.json").get("policy_version")
    what = (
        f"not the policy of this verifier (bundle: version {version}, verifier: version "
        f"{POLICY_VERSION}, {policy_digest()[:12]}); a loosened threshold, or other code"
    )
    return [Problem(check="policy", where="policy.json", what=what)]


def metadata(path: Path) -> list[Problem]:
    """Who ran it, when, on which code and machine, with which commands."""
    run = read_object(path / "metadata" / "run.json")
    source = read_object(path / "metadata" / "source.json")
    environment = read_object(path / "metadata" / "environment.json")
    dirty = source.get("git_dirty")
    holds = {
        "metadata/run.json: gate": run.get("gate") == GATE,
        "metadata/run.json: bundle_format": run.get("bundle_format") == FORMAT_VERSION,
        "metadata/run.json: policy_digest": run.get("policy_digest") == policy_digest(),
        "metadata/run.json: nonce": _is_hex(run.get("nonce"), 32),
        "metadata/run.json: launched_by": run.get("launched_by") in LAUNCHERS,
        "metadata/run.json: started_utc, ended_utc": _utc(run, "started_utc")
        <= _utc(run, "ended_utc"),
        "metadata/run.json: steps": set() < set(mapping(run, "steps")) <= set(STEPS),
        "metadata/source.json: git_commit": _is_hex(source.get("git_commit"), 40),
        "metadata/source.json: git_dirty": isinstance(dirty, bool),
        "metadata/source.json: patch_sha256": not dirty or _is_hex(source.get("patch_sha256"), 64),
        "metadata/source.json: lock_files": bool(source.get("lock_files")),
        "metadata/environment.json: packages": bool(environment.get("packages")),
        "metadata/environment.json: python": bool(environment.get("python")),
        "commands.txt: commands": bool((path / "commands.txt").read_text("utf-8").strip()),
    }
    return [
        Problem(check="metadata", where=where.partition(": ")[0],
                what=f"{where.partition(': ')[2]} is missing or cannot be")
        for where, ok in holds.items() if not ok
    ]  # fmt: skip


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def _utc(record: Any, key: str) -> datetime:
    return datetime.strptime(text(record, key), "%Y-%m-%dT%H:%M:%SZ")


def criteria(path: Path, verdict: GateVerdict) -> list[Problem]:
    """The recorded criteria are exactly the ones that the raw records and this code give."""
    problems: list[Problem] = []
    for step in STEPS:
        where = f"criteria/{step}.json"
        recorded = {
            str(c["name"]): c for c in read_object(path / "criteria" / f"{step}.json")["criteria"]
        }
        expected = {result.name: result.to_json() for result in verdict.results[step]}
        for name in recorded.keys() - expected.keys():
            problems.append(
                Problem(check="criteria", where=where, what=f"{name} is not a criterion")
            )
        for name, result in expected.items():
            if name not in recorded:
                problems.append(Problem(check="criteria", where=where, what=f"{name} is missing"))
                continue
            for key in sorted({*result, *recorded[name]}):
                said, found = recorded[name].get(key), result.get(key)
                if _json(said) != _json(found):
                    source = "code says" if key in ("threshold", "comparator") else "recomputed"
                    what = f"{name}: {key} = {said!r}, {source} {found!r}"
                    problems.append(Problem(check="criteria", where=where, what=what))
    return problems


def profile(path: Path, verdict: GateVerdict) -> list[Problem]:
    """A fallback is shown as a fallback."""
    recorded = read_object(path / "verdict.json")
    shown = (recorded.get("profile"), recorded.get("label"))
    if shown == (verdict.profile, verdict.label):
        return []
    what = (
        f"shown as profile {shown[0]!r}, {shown[1]!r}; the records say profile "
        f"{verdict.profile!r}, {verdict.label!r}"
    )
    return [Problem(check="profile", where="verdict.json", what=what)]


def recorded_verdict(path: Path, verdict: GateVerdict) -> list[Problem]:
    """`verdict.json` is what the raw records give, success counts included."""
    recorded, expected = read_object(path / "verdict.json"), verdict.to_json()
    return [
        Problem(check="verdict", where="verdict.json", what=f"{key} is not what the records give")
        for key in sorted({*recorded, *expected})
        if _json(recorded.get(key)) != _json(expected.get(key))
    ]


def _json(value: object) -> str:
    # Python calls True and 1 equal; JSON does not.
    return json.dumps(value, sort_keys=True)


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
        run=read_object(path / "metadata" / "run.json"),
        source=read_object(path / "metadata" / "source.json"),
    )
    recorded = (path / STATEMENT).read_text(encoding="utf-8")
    if recorded == dump_json(expected):
        return []
    found = read_object(path / STATEMENT)
    wrong = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    what = f"{', '.join(wrong) or 'layout'} differs from what the bundle gives"
    return [Problem(check="statement", where=STATEMENT, what=what)]


def staleness(path: Path, verdict: GateVerdict, expected: Expected) -> list[Problem]:
    """The bundle is about the run that the caller means."""
    found = {
        "git commit": (
            expected.commit,
            read_object(path / "metadata" / "source.json")["git_commit"],
        ),
        "config hash": (expected.config_hash, verdict.config_hash),
        "nonce": (expected.nonce, read_object(path / "metadata" / "run.json")["nonce"]),
        "bundle digest": (expected.digest, file_sha256(path / MANIFEST)),
    }
    return [
        Problem(check="stale", where=name, what=f"{actual} where {wanted} is expected")
        for name, (wanted, actual) in found.items()
        if wanted is not None and not _identifies(wanted, str(actual))
    ]


def _identifies(wanted: str, actual: str) -> bool:
    return len(wanted) >= MIN_EXPECTED and actual.startswith(wanted.lower())
