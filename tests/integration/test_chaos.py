"""The short chaos campaign: one run of every kind; see benchmarks/chaos.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.integration
@pytest.mark.slow
def test_runs_survive_whatever_is_done_to_them(tmp_path: Path) -> None:
    out = tmp_path / "trials.jsonl"
    command = [sys.executable, str(SCRIPT), "--short", "--out", str(out), "--keep", str(tmp_path)]
    done = subprocess.run(command, timeout=550, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in out.read_text().splitlines()]
    assert [trial["failures"] for trial in trials] == [[]] * len(trials)
    assert {trial["outcome"] for trial in trials} <= {"identical", "explained"}
    struck = {t["campaign"]: 0 for t in trials}
    for trial in trials:
        struck[trial["campaign"]] += sum(trial["attempts"].values())
    # A campaign whose strikes all missed would show nothing.
    assert struck.pop("full disk") == 1
    assert struck.keys() == {"kills", "stalls", "resets", "corruption", "hostile messages"}
    assert min(struck.values()) >= 2
