"""The checks of the verifier, one function each; every one returns all it finds.

Owns what is compared with what. A bundle is a closed world: its set of files is exact, every text that follows
from raw records is written again and compared byte by byte, every typed record is encoded again, and every step
must be of this gate and follow the step before. Read `docs/evidence.md` next.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from pirl.audit import logs
from pirl.audit.bundle import (
    POSTER,
    VIDEO,
)
from pirl.audit.derive import derived_texts, read_metadata
from pirl.audit.findings import Expected, Problem, layout, problems
from pirl.audit.judge import GateVerdict
from pirl.audit.page import render_html
from pirl.audit.pictures import CAPTIONS
from pirl.audit.raw import RawRecords, lines_of
from pirl.audit.records import files
from pirl.audit.records.common import Seal
from pirl.audit.records.files import METRIC_FILES, SEAL_NAME, STEPS, file_of
from pirl.audit.records.metadata import Environment, Run, Source
from pirl.audit.report import render_markdown
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
from pirl.journal.codec import dump_json, dump_line, parse_object, to_json
from pirl.journal.fields import exact_text, file_sha256, read_object
from pirl.journal.media import is_png
from pirl.journal.metric_log import encode_row, parse_rows

MAX_FILE_BYTES = 256 * 2**20
MIN_EXPECTED = 7
"""Characters of a commit or hash that identify it."""

FIXED_FILES = (
    "commands.txt", "config/canonical.json", "config/train_config.json", "metadata/environment.json",
    "metadata/run.json", "metadata/source.json", "policy.json", "report.html", "report.md",
    "verdict.json", *(f"criteria/{step}.json" for step in STEPS),
)  # fmt: skip
"""Files that every bundle has, beside manifest and statement; one whose first step failed may lack the config."""


def unreadable(path: Path) -> list[Problem]:
    """Why the folder cannot be read as a bundle of this format; links are not followed."""
    if not path.is_dir():
        return [Problem("bundle", path.name, "not a folder")]
    try:
        entries = list_files(path)
    except OSError as error:
        return [Problem("bundle", path.name, f"cannot be listed: {error.strerror}")]
    found = [
        Problem("bundle", name, "neither a file nor a folder of the bundle")
        for name, entry in entries.items()
        if entry.is_symlink() or not entry.is_file() or entry.stat().st_size > MAX_FILE_BYTES
    ]
    if not (path / MANIFEST).is_file():
        found.append(Problem("manifest", MANIFEST, "missing"))
    return found or other_format(path)


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
    return [Problem("format", MANIFEST, what)]


def manifest(path: Path) -> list[Problem]:
    """Every file is listed, present and unaltered, and nothing else is said."""
    expected = build_manifest(path)
    text = exact_text(path / MANIFEST)
    if text == dump_json(expected):
        return []
    recorded = parse_object(text, where=MANIFEST)
    listed = recorded.get("files")
    found: dict[str, str] = {}
    if not isinstance(listed, dict):
        return [Problem("manifest", MANIFEST, "no list of files")]
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
    return problems("manifest", found)


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
        wanted |= of_step
        if run.steps[step].stopped_by is None:
            of_step = _complete(path, step)
            wanted |= of_step
        allowed |= of_step
    if "config/canonical.json" not in present and _stopped(run, files.VALIDATE):
        wanted -= {"config/canonical.json", "config/train_config.json"}
    found = dict.fromkeys(sorted(present - allowed), "does not belong in a bundle")
    found |= dict.fromkeys(sorted(wanted - present), "is missing")
    empty = [folder for folder, inside, names in path.walk() if not inside and not names]
    found |= {f.relative_to(path).as_posix(): "a folder without a file" for f in empty}
    for name in present & allowed:
        if name.endswith(".png") and not is_png((path / name).read_bytes()):
            found[name] = "not a PNG picture"
    return problems("files", found)


def _stopped(run: Run, step: str) -> bool:
    return step in run.steps and run.steps[step].stopped_by is not None


def _complete(path: Path, step: str) -> set[str]:
    """Files of a step that ran to its end: its records, and a log of every process."""
    raw = RawRecords(path)
    ranks = range(raw.one(files.SETTINGS).actors)
    profile = raw.one(files.PROFILE).profile
    names = {
        f"raw/{step}/{file.of(rank)}"
        for file in files.FILES
        if file.step == step and file.profile in (None, profile)
        for rank in (ranks if file.is_per_actor else (None,))
    }
    names |= {f"logs/{step}/{role}.log" for role in logs.roles(raw, step)}
    return names | ({VIDEO, POSTER} if step == files.SMOKE else set())


def _seal(path: Path, step: str) -> Seal:
    return RawRecords(path).one(files.SEALS[step])


def records(path: Path) -> list[Problem]:
    """Every record is of its class and in the one layout: no key or line more, less, twice or elsewhere."""
    found: dict[str, str] = {}
    raw = RawRecords(path).once()
    for name in list_files(path):
        folder, _, rest = name.partition("/")
        step, _, leaf = rest.partition("/")
        if folder == "raw":
            found[name] = record_problem(raw, step, leaf)
    for name, kind in (("run", Run), ("source", Source), ("environment", Environment)):
        where = f"metadata/{name}.json"
        text = exact_text(path / where)
        found[where] = layout(text, dump_json(to_json(read_metadata(path, name, kind))))
    return problems("record", found)


def record_problem(raw: RawRecords, step: str, leaf: str) -> str:
    """What is wrong with a file of `raw/STEP/`: its place, its class or its layout; empty when nothing is."""
    file = file_of(step, leaf)
    if file is None:
        return "no record of this step"
    rank = file.rank_in(leaf) if file.is_per_actor else None
    try:
        if file.profile not in (None, profile := raw.one(files.PROFILE).profile):
            return f"no record of the profile {profile}"
        text = raw.text(file, rank)
        if file in METRIC_FILES:
            return _metric_problem(text, leaf)
        if file.kind is str:
            return layout(text, canonical_text(parse_object(text, where=leaf)))
        if file.is_lines:
            rows = raw.all(file) if text else []
            return layout(text, "".join(dump_line(to_json(row)) for row in rows))
        return layout(text, dump_json(to_json(raw.one(file, rank))))
    except (EvidenceError, ValueError) as error:
        return str(error)


_METRIC_KEYS = {"format", "step", "version", "elapsed_s", "metrics"}


def _metric_problem(text: str, leaf: str) -> str:
    """Rows as `MetricLog` writes them: the known keys, known names, steps and times that rise."""
    rows = [row for _, row in lines_of(text, leaf)]
    parsed = parse_rows(rows, source=leaf)
    for row in rows:
        if set(row) != _METRIC_KEYS:
            return f"a row with the keys {', '.join(sorted(row))}"
    again = "".join(
        json.dumps(encode_row(row), separators=(",", ":"), allow_nan=False) + "\n" for row in parsed
    )
    steps = [row.step for row in parsed]
    if steps != sorted(set(steps)):
        return "updates do not rise"
    if any(row.elapsed_s < 0 for row in parsed):
        return "a time before the start"
    return layout(text, again)


def derived(path: Path, verdict: GateVerdict) -> list[Problem]:
    """Criteria, verdict, policy, commands: what raw records and this code give, byte by byte."""
    run = read_metadata(path, "run", Run)
    found: dict[str, str] = {}
    for name, expected in derived_texts(RawRecords(path), verdict, run).items():
        text = exact_text(path / name)
        if text == expected:
            continue
        if name.endswith(".json"):
            found[name] = _difference(parse_object(text, where=name), json.loads(expected))
        else:
            found[name] = "not what the records give"
    return problems("derived", found)


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
        Problem("report", name, "not what the other files give")
        for name, expected in rendered.items()
        if exact_text(path / name) != expected
    ]


def statement(path: Path, verdict: GateVerdict) -> list[Problem]:
    """The statement is about this manifest and says what was recomputed."""
    expected = build_statement(
        verdict,
        manifest_sha256=file_sha256(path / MANIFEST),
        run=read_metadata(path, "run", Run),
        source=read_metadata(path, "source", Source),
    )
    recorded = exact_text(path / STATEMENT)
    if recorded == dump_json(expected):
        return []
    what = _difference(parse_json(recorded), expected)
    return [Problem("statement", STATEMENT, what)]


def staleness(path: Path, verdict: GateVerdict, expected: Expected) -> list[Problem]:
    """The bundle is about the run that the caller means."""
    found = {
        "git commit": (expected.commit, read_metadata(path, "source", Source).git_commit),
        "config hash": (expected.config_hash, verdict.config_hash),
        "nonce": (expected.nonce, read_metadata(path, "run", Run).nonce),
        "bundle digest": (expected.digest, file_sha256(path / MANIFEST)),
    }
    return [
        Problem("stale", name, f"{actual} where {wanted} is expected")
        for name, (wanted, actual) in found.items()
        if wanted is not None and not _identifies(wanted, str(actual))
    ]


def _identifies(wanted: str, actual: str) -> bool:
    return len(wanted) >= MIN_EXPECTED and actual.startswith(wanted.lower())
