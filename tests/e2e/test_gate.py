"""The whole gate as a user runs it: real processes, the embedded simulator, a real bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pirl.evidence.verify import verify_main as verify

REPO = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a gate that passed, made once."""
    out = tmp_path_factory.mktemp("gate") / "bundle"
    argv = [sys.executable, "-m", "pirl.cli", "gate", "--profile", "embedded"]
    argv += ["--variant", "flow-noise", "--launched-by", "test", "--no-mlflow", "--json"]
    env = {**os.environ, "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*argv, "--out", str(out)], cwd=REPO, env=env, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-6000:]
    answer = json.loads(done.stdout)
    assert answer["label"] == "passed (fallback: embedded)"
    assert answer["criteria_passed"] == answer["criteria_total"]
    return out


def a_copy(bundle: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(bundle, target)
    return target


def test_the_verifier_accepts_the_untouched_bundle(bundle: Path):
    assert verify([str(bundle)]) == 0


def test_one_altered_byte_in_a_log_is_refused(bundle: Path, tmp_path: Path):
    copy = a_copy(bundle, tmp_path)
    log = next((copy / "logs").rglob("learner.log"))
    log.write_bytes(log.read_bytes().replace(b"update", b"updatE", 1))
    assert verify([str(copy)]) == 1


def test_a_loosened_threshold_is_refused(bundle: Path, tmp_path: Path):
    copy = a_copy(bundle, tmp_path)
    path = copy / "policy.json"
    path.write_text(path.read_text().replace('"threshold": 0.001', '"threshold": 1000.0', 1))
    assert verify([str(copy)]) == 1


def test_a_missing_record_is_refused(bundle: Path, tmp_path: Path):
    copy = a_copy(bundle, tmp_path)
    (copy / "raw" / "mismatch-negative" / "teeth.jsonl").unlink()
    assert verify([str(copy)]) == 1
