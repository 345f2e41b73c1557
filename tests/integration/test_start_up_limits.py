"""The limits of `benchmarks/start_up.py` that take seconds to look at, and the doctor as a real process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


def run(*argv):
    # HF_HUB_OFFLINE: what is asked here needs no hub, and a hub that answers slowly is not our start.
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def test_help_version_and_validate_stay_within_their_limits():
    done = run("benchmarks/start_up.py", "--smoke", "--json")
    rows = json.loads(done.stdout)
    assert [row["what"] for row in rows if not row["holds"]] == []
    assert {"pirl validate", "pirl --version", "pirl learner --help"} <= {r["what"] for r in rows}
    assert done.returncode == 0


def test_doctor_draws_a_frame_and_reads_the_profile_without_torch():
    done = run("-X", "importtime", "-m", "pirl.cli", "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["render"]["ok"]
    assert "profile control_mode" in checks
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "pirl.config.check" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "lerobot.configs", "lerobot.policies"})
