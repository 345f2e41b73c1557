"""Manifest and statement: which bytes a bundle consists of, and what is claimed about them.

Owns `manifest.json` (size and SHA-256 of every file) and `statement.json` (in-toto Statement v1
whose one subject is the manifest). The SHA-256 of the manifest is the digest of the bundle. Read
`pirl.audit.verify` next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pirl.audit.criterion import Verdict
from pirl.audit.judge import GateVerdict
from pirl.audit.policy import GATE, POLICY_VERSION, policy_digest
from pirl.audit.records.metadata import Run, Source
from pirl.journal.fields import file_sha256

MANIFEST = "manifest.json"
STATEMENT = "statement.json"
SIGNATURE = "statement.sig"
UNLISTED = (MANIFEST, STATEMENT, SIGNATURE)
"""Files that the manifest cannot list: itself, the statement about it, and the signature of that."""

FORMAT = "pirl-evidence"
FORMAT_VERSION = 2
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:pirl:phase2-gate:verdict:v1"


def list_files(bundle: Path) -> dict[str, Path]:
    """Everything in the bundle that is not a folder, links included, by relative path."""
    return {name: bundle / name for name in sorted(_names(bundle))}


def _names(bundle: Path) -> Iterator[str]:
    folders = [""]
    while folders:
        above = folders.pop()
        with os.scandir(bundle / above) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{above}{entry.name}/")
                else:
                    yield above + entry.name


def build_manifest(bundle: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file but the unlisted two."""
    files = {
        name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in list_files(bundle).items()
        if name not in UNLISTED
    }
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "files": files}


def build_statement(
    verdict: GateVerdict,
    *,
    manifest_sha256: str,
    run: Run,
    source: Source,
) -> dict[str, Any]:
    """The in-toto statement about a bundle; a pure function of its files.

    Args:
        verdict: recomputed from raw records.
        manifest_sha256: digest of `manifest.json`.
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
                "gitCommit": source.git_commit,
                "dirty": source.git_dirty,
                "patch": source.patch_sha256,
            },
            "nonce": run.nonce,
            "criteria": {
                "passed": verdict.count(Verdict.PASSED),
                "failed": verdict.count(Verdict.FAILED),
                "notRun": verdict.count(Verdict.NOT_RUN),
                "total": verdict.total,
            },
        },
    }
