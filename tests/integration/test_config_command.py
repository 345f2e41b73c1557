"""`pirl validate` as a real process: exit codes, where the text goes, and never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMBEDDED = "configs/train_config_pirl_embedded.json"

pytestmark = pytest.mark.integration


def run(*argv, program="pirl.cli"):
    command = [sys.executable, "-m", program, *argv]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300
    )


def test_valid_config_ends_with_0_and_a_summary_on_stdout():
    done = run("validate", "--config_path", EMBEDDED)
    assert done.returncode == 0
    assert f"config path  {EMBEDDED}" in done.stdout
    assert "Traceback" not in done.stderr


def test_six_errors_end_with_2_and_are_all_told(tmp_path):
    tree = json.loads((ROOT / EMBEDDED).read_text())
    tree["pirl"] |= {"gamma": 7, "gama": 0.9, "micro_batch": 3, "betas": "high"}
    tree["runtime"]["mode"] = "Sync"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(tree))
    done = run("validate", f"--config_path={file}", "--policy.n_action_steps=9")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    fields = {"pirl.gamma", "pirl.gama", "pirl.micro_batch", "pirl.betas"}
    fields |= {"runtime.mode", "policy.n_action_steps"}
    assert all(f"{field} = " in done.stderr for field in fields)
    assert "6 errors" in done.stderr
    assert done.stdout == ""


def test_text_that_is_no_json_ends_with_2(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("recipe: pi-rl")
    done = run("--config_path", str(file), program="pirl.config")
    assert done.returncode == 2
    assert "line 1, column 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_with_the_recipe_ends_with_2_and_names_the_two_commands():
    done = run("train", "--config_path", EMBEDDED)
    assert done.returncode == 2
    assert f"python -m pirl.learner --config_path {EMBEDDED}" in done.stderr
    assert f"python -m pirl.actor --config_path {EMBEDDED}" in done.stderr
    assert "Traceback" not in done.stderr
