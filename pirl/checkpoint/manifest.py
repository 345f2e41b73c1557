"""The completion marker of a checkpoint: every file with size and SHA-256, written last.

Owns the format of `manifest.json` and the verdict over a folder. Refuses to know what the files
mean. Read `pirl.checkpoint.atomic` next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pirl.config.strictjson import read_json
from pirl.files import write_json
from pirl.journal.fields import file_sha256

MANIFEST_NAME = "manifest.json"
FORMAT = "pirl-checkpoint"
FORMAT_VERSION = 1

MANIFEST_KINDS = ("manifest altered", "manifest format")
"""Problems of the manifest's own text, as opposed to damage of what it describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One part of a folder that is not what its manifest says."""

    part: str
    """Path relative to the folder, forward slashes; `manifest.json` for the manifest itself."""
    kind: str
    """`missing`, `extra`, `truncated`, `altered`, `not a regular file`, `illegal path`,
    `unreadable`, or one of `MANIFEST_KINDS`."""
    recorded: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        values = "" if self.recorded is None else f": manifest {self.recorded}, found {self.found}"
        return f"{self.part}: {self.kind}{values}"


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text.

    Raises:
        ValueError: a number is not finite, which JSON cannot carry.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_manifest(folder: Path) -> Path:
    """Describe every file below `folder` in its `manifest.json`; nothing may be written after it.

    The paths are relative, so a checkpoint may be moved or copied. `digest` covers the manifest's
    other entries: an edited manifest is told apart from a damaged file.
    """
    files = {
        name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in _entries(folder).items()
    }
    body: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "files": files}
    manifest = folder / MANIFEST_NAME
    return write_json(manifest, body | {"digest": _digest(body)}, sort_keys=False)


def verify_manifest(folder: Path) -> list[Problem]:
    """Everything in which `folder` differs from its manifest, sorted by part; empty when intact.

    All parts are looked at, not only the first bad one. Nothing outside `folder` is opened.
    """
    manifest = folder / MANIFEST_NAME
    if not manifest.is_file():
        return [Problem(part=MANIFEST_NAME, kind="missing")]
    try:
        body = read_json(manifest)
    except (OSError, ValueError) as error:
        return [Problem(part=MANIFEST_NAME, kind="unreadable", recorded="JSON", found=str(error))]
    wrong = _manifest_problems(body)
    if wrong:
        return wrong
    recorded = cast("Mapping[str, Mapping[str, Any]]", body["files"])
    present = _entries(folder)
    problems = [Problem(part=name, kind="extra") for name in present.keys() - recorded.keys()]
    for name, entry in recorded.items():
        problem = _compare(folder, name, entry)
        if problem is not None:
            problems.append(problem)
    return sorted(problems, key=lambda problem: problem.part)


def _entries(folder: Path) -> dict[str, Path]:
    """Everything below `folder` that is not a folder, links included, without the manifest."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
    found.pop(MANIFEST_NAME, None)
    return found


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _manifest_problems(body: Any) -> list[Problem]:
    """What is wrong with the manifest's own text."""
    if not isinstance(body, dict):
        return [Problem(part=MANIFEST_NAME, kind="unreadable", recorded="object", found=repr(body))]
    fields = cast("dict[str, Any]", body)
    declared = (fields.get("format"), fields.get("format_version"))
    if declared != (FORMAT, FORMAT_VERSION):
        return [
            Problem(
                part=MANIFEST_NAME,
                kind=MANIFEST_KINDS[1],
                recorded=repr(declared),
                found=repr((FORMAT, FORMAT_VERSION)),
            )
        ]
    recorded = fields.pop("digest", None)
    actual = _digest(fields)
    if recorded != actual or not _is_table(fields.get("files")):
        return [
            Problem(
                part=MANIFEST_NAME, kind=MANIFEST_KINDS[0], recorded=str(recorded), found=actual
            )
        ]
    return []


def _is_table(files: object) -> bool:
    if not isinstance(files, dict):
        return False
    return all(_is_entry(entry) for entry in cast("dict[str, Any]", files).values())


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    fields = cast("dict[str, Any]", entry)
    return type(fields.get("size")) is int and isinstance(fields.get("sha256"), str)


def _compare(folder: Path, name: str, entry: Mapping[str, Any]) -> Problem | None:
    """The first way in which one file differs from its entry, cheapest comparison first."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        return Problem(part=name, kind="illegal path")
    try:
        return _compare_file(folder / name, name, entry)
    except (OSError, ValueError):
        # No file can have this name, or nobody may read it.
        return Problem(part=name, kind="illegal path")


def _compare_file(path: Path, name: str, entry: Mapping[str, Any]) -> Problem | None:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return Problem(part=name, kind="not a regular file")
    if not path.exists():
        return Problem(part=name, kind="missing")
    size = path.stat().st_size
    if size != entry["size"]:
        kind = "truncated" if size < int(entry["size"]) else "altered"
        return Problem(
            part=name, kind=kind, recorded=f"{entry['size']} bytes", found=f"{size} bytes"
        )
    digest = file_sha256(path)
    if digest != entry["sha256"]:
        return Problem(part=name, kind="altered", recorded=str(entry["sha256"]), found=digest)
    return None
