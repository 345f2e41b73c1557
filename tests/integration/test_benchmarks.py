"""Every benchmark still runs: those that no other test runs for a moment, for a moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"start_up", "crash_save", "chaos", "libero_exact", "second_policy"}
"""In test_start_up_limits, test_checkpoint_crash, test_chaos, e2e/test_libero_env and test_plugins_run."""

pytestmark = pytest.mark.integration


def benchmarks(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_a_moment_of_each_benchmark_works():
    names = [line.split()[0] for line in benchmarks().stdout.splitlines()]
    scripts = {file.stem for file in (ROOT / "benchmarks").glob("*.py")}
    assert scripts - {"__main__", "chaos_messages", "chaos_runs"} == set(names)
    done = benchmarks("--smoke", *(name for name in names if name not in ELSEWHERE))
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count('"benchmark"') + done.stdout.count('"version"') >= 2


def test_a_name_that_is_none_is_refused():
    done = benchmarks("env_step")
    assert done.returncode == 2
    assert "env_steps" in done.stderr
