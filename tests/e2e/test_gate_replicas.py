"""The gate of a learner of two processes, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pirl.audit.verify import verify_main as verify

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

REPO = Path(__file__).resolve().parents[2]


def test_the_gate_of_a_learner_of_two_processes_passes_and_is_accepted(environ, tmp_path: Path):
    out = tmp_path / "bundle"
    argv = [sys.executable, "-m", "pirl.cli", "gate", "--profile", "embedded", "--no-mlflow"]
    done = subprocess.run(
        [*argv, "--learner-processes", "2", "--json", "--out", str(out)],
        cwd=REPO,
        env=environ,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    answer = json.loads(done.stdout)
    assert answer["criteria_passed"] == answer["criteria_total"]
    assert verify([str(out)]) == 0
    table = (out / "raw/smoke-run/processes.jsonl").read_text().splitlines()
    roles = [json.loads(line)["role"] for line in table]
    assert [role for role in roles if role.startswith("learner")] == ["learner", "learner-1"]
