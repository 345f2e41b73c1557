"""The short mode of the mutation runner: of the oracle's list by hand, every mutation tried is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = 20


def test_the_oracle_sees_a_sample_of_its_named_mutations():
    argv = [sys.executable, "tests/mutation", "--named", "tests/oracle/mutations.toml"]
    run = subprocess.run(
        [*argv, "--sample", str(SAMPLE), "--jobs", "1"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("killed ") == SAMPLE
