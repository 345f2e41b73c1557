"""The documentation builds as a site, with every link and every documented name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr, done.stderr
    library = (tmp_path / "library" / "index.html").read_text(encoding="utf-8")
    assert "evaluate_checkpoint" in library
    assert len(list(tmp_path.glob("adr/*/index.html"))) == len(list(ROOT.glob("docs/adr/*.md")))
