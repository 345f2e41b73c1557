"""What the wheel carries beside the code: default configs, parameters, pins and the commit it was built from.

A checkout has these in its root, so an editable install needs none of them. Read `pirl/resources.py` for the
other side.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = "pirl/shipped"
FILES = ("configs", "params.yaml", "learning/settings.yaml", "constraints.txt", "pyproject.toml")
SOURCE = "source.json"


class ShippedFiles(BuildHookInterface[Any]):
    """Adds `FILES` and `SOURCE` to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel."""
        if version == "editable":
            return
        root = Path(self.root)
        forced = {str(root / name): f"{SHIPPED}/{name}" for name in FILES}
        facts = source_of(root)
        if facts is not None:
            written = Path(tempfile.mkdtemp()) / SOURCE
            written.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            forced[str(written)] = f"{SHIPPED}/{SOURCE}"
        build_data["force_include"].update(forced)


def source_of(root: Path) -> dict[str, Any] | None:
    """Commit and state of the checkout; None where the sources came without their git repository."""
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    changed = _git(root, "status", "--porcelain", "--untracked-files=all")
    patch = _git(root, "diff", "HEAD", "--binary")
    return {
        "git_commit": commit,
        "git_dirty": bool(changed),
        "patch_sha256": hashlib.sha256(changed + patch).hexdigest() if changed else None,
    }


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout
