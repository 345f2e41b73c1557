"""A process killed while it saves leaves a run that resumes; see benchmarks/crash_save.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crash_save.py"


@pytest.mark.integration
def test_sigkill_at_random_moments_and_at_calls_leaves_the_previous_checkpoint(
    tmp_path: Path,
) -> None:
    out = tmp_path / "crash.json"
    command = [sys.executable, str(SCRIPT), "--kills", "10", "--every-call", "3", "--out", str(out)]
    done = subprocess.run(
        command, cwd=SCRIPT.parents[1], timeout=500, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["pirl"]["kills"] == 10
    assert result["pirl"]["trials_with_a_problem"] == 0
    # Kills that all fell between saves would show nothing.
    assert result["pirl"]["killed"]["while writing"] >= 3
    at_calls = result["pirl_at_calls"]
    assert at_calls["trials_with_a_problem"] == 0
    assert at_calls["kills"] >= 8
    assert at_calls["killed"]["while writing"] >= 4
    assert at_calls["killed"]["between rename and link"] >= 1
