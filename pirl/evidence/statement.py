"""Manifest and statement: which bytes a bundle consists of, and what is claimed about them.

Owns `manifest.json` (size and SHA-256 of every file) and `statement.json` (in-toto Statement v1
whose one subject is the manifest). The SHA-256 of the manifest is the digest of the bundle. Read
`pirl.evidence.verify` next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pirl.evidence.criteria import Verdict
from pirl.evidence.judge import GateVerdict
from pirl.evidence.policy import GATE, POLICY_VERSION, policy_digest
from pirl.evidence.raw import file_sha256

MANIFEST = "manifest.json"
STATEMENT = "statement.json"
UNLISTED = (MANIFEST, STATEMENT)
"""Files that the manifest cannot list: itself, and the statement about it."""

FORMAT = "pirl-evidence"
FORMAT_VERSION = 1
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:pirl:phase2-gate:verdict:v1"


def dump_json(value: Mapping[str, Any]) -> str:
    """The one JSON layout of a bundle: sorted keys, one line per entry, no NaN."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def list_files(bundle: Path) -> dict[str, Path]:
    """Everything in the bundle that is not a folder, links included, by relative path."""
    return {
        path.relative_to(bundle).as_posix(): path
        for path in sorted(bundle.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def build_manifest(bundle: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file but the unlisted two."""
    files = {
        name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in list_files(bundle).items()
        if name not in UNLISTED
    }
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "files": files}


def compare_manifest(bundle: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Every difference between a manifest and the files of a bundle, by file; empty when equal."""
    if (manifest.get("format"), manifest.get("format_version")) != (FORMAT, FORMAT_VERSION):
        return [f"{MANIFEST}: not format {FORMAT} version {FORMAT_VERSION}"]
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        return [f"{MANIFEST}: no list of files"]
    present = {name: path for name, path in list_files(bundle).items() if name not in UNLISTED}
    problems = [
        f"{name}: in the folder but not in the manifest" for name in present if name not in listed
    ]
    for name, entry in listed.items():
        problem = _compare(present.get(name), name, entry)
        if problem:
            problems.append(f"{name}: {problem}")
    return problems


def _compare(path: Path | None, name: str, entry: object) -> str | None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return "not a path inside the bundle"
    if path is None:
        return "in the manifest but missing"
    if path.is_symlink() or not path.is_file():
        return "not a regular file"
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        return "malformed manifest entry"
    if entry["size"] != path.stat().st_size:
        return f"{path.stat().st_size} bytes where the manifest says {entry['size']}"
    return None if entry["sha256"] == file_sha256(path) else "altered (SHA-256 differs)"


def build_statement(
    verdict: GateVerdict,
    *,
    manifest_sha256: str,
    run: Mapping[str, Any],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """The in-toto statement about a bundle; a pure function of its files.

    Args:
        verdict: recomputed from raw records.
        manifest_sha256: digest of `manifest.json`.
        run: `metadata/run.json`.
        source: `metadata/source.json`.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MANIFEST, "digest": {"sha256": manifest_sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "gate": GATE,
            "policy": {"version": POLICY_VERSION, "digest": {"sha256": policy_digest()}},
            "verdict": str(verdict.verdict),
            "label": verdict.label,
            "profile": verdict.profile,
            "variant": verdict.variant,
            "config": {"path": verdict.config_path, "digest": {"sha256": verdict.config_hash}},
            "source": {
                "gitCommit": source.get("git_commit"),
                "dirty": source.get("git_dirty"),
                "patch": source.get("patch_sha256"),
            },
            "nonce": run.get("nonce"),
            "criteria": {
                "passed": verdict.count(Verdict.PASSED),
                "failed": verdict.count(Verdict.FAILED),
                "notRun": verdict.count(Verdict.NOT_RUN),
                "total": verdict.total,
            },
        },
    }
