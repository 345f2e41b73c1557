"""SmolVLA on `pointreach`, neither of them pirl's own: real processes, then an evaluation.

`tests/e2e/test_gate_own.py` resumes such a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "contract" / "plugins"))

from plugin_builders import a_config, install, write_config, write_vlm  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return write_vlm(tmp_path_factory.mktemp("vlm"))


def pirl(*argv, places=(), expect=0):
    """Run `pirl`; its output."""
    path = os.pathsep.join([*places, str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pirl", *map(str, argv)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == expect, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_policy_and_an_environment_from_elsewhere_train_and_are_evaluated(places, vlm, tmp_path):
    tree = a_config(vlm, reward_model={"type": "time_cost", "cost": 0.25})
    file, run = write_config(tmp_path / "c.json", tree), tmp_path / "run"
    pirl("launch", "--config_path", file, f"--output_dir={run}", "--runtime.port=0", places=places)
    record = json.loads((run / "learner" / "run.json").read_text())
    assert record["exit_reason"] == "finished"
    assert record["identity"]["reward"] == "time_cost cost=0.25"
    assert record["identity"]["environment"] == "pointreach/reach-red, limit 9"
    episodes = [
        json.loads(line) for line in (run / "learner" / "episodes.jsonl").read_text().splitlines()
    ]
    for episode in episodes:
        steps = episode["env_steps"] // 10
        assert episode["reward"] == pytest.approx(episode["success"] - 0.25 * steps, abs=1e-4)
    changed = record["tensors"]
    moved = {
        n for n, d in changed["before"]["trained"].items() if changed["after"]["trained"][n] != d
    }
    assert len(moved) == len(changed["before"]["trained"])
    assert changed["before"]["frozen"] == changed["after"]["frozen"]
    policy = run / "checkpoints" / "last" / "pretrained_model"
    out = tmp_path / "results"
    said = pirl(
        "eval", "--policy_path", policy, "--episodes-per-task", "2", "--out", out, places=places
    )
    assert "reach-red" in said
    pirl("eval", "--verify", out)
    # What `pirl init` makes of the trained policy is a config that can run.
    mine = tmp_path / "mine.yaml"
    pirl("init", "--from", run, "--env", "pointreach", "--task", "reach-blue", "--out", mine,
         places=places)  # fmt: skip
    assert "reach-blue" in mine.read_text()
    pirl("validate", "--config_path", mine, places=places)


def test_what_is_not_installed_is_refused_with_the_list_of_what_is(places, vlm, tmp_path):
    file = write_config(tmp_path / "c.json", a_config(vlm))
    said = pirl("validate", "--config_path", file, expect=2)
    assert "one of xvla: the policies" in said
    assert "one of libero, pirl_metaworld\n" in said
    said = pirl("validate", "--config_path", file, "--policy.type=pi05", places=places, expect=2)
    assert "one of xvla, smolvla: the policies" in said
    said = pirl("validate", "--config_path", file, "--env.type=pointrich", places=places, expect=2)
    assert "one of libero, pirl_metaworld, pointreach" in said
    assert "did you mean env.type=pointreach?" in said


def test_a_package_named_on_the_command_line_registers_what_it_brings(places, vlm, tmp_path):
    package = tmp_path / "code" / "brought"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "offers.py").write_text(
        "from pirl import doors\n"
        "from pirl_pointreach.kind import KIND as ENV\n"
        "from pirl_smolvla.kind import KIND as POLICY\n"
        "doors.register(doors.POLICIES, 'smolvla', POLICY)\n"
        "doors.register(doors.ENVS, 'pointreach', ENV)\n"
    )
    file = write_config(tmp_path / "c.json", a_config(vlm))
    # Without the metadata: nothing is installed, the folders are only on the path.
    folders = [*places[1:], str(tmp_path / "code")]
    option = "--policy.discover_packages_path"
    pirl("validate", "--config_path", file, f"{option}=brought", places=folders)
    pirl(
        "validate", "--config_path", file, "--env.discover_packages_path", "brought", places=folders
    )
    said = pirl("validate", "--config_path", file, f"{option}=no_such", places=folders, expect=2)
    assert "No module named 'no_such'" in said


def test_a_moment_of_the_learning_run_of_both_is_recorded(tmp_path):
    out = tmp_path / "study"
    argv = [sys.executable, "-m", "benchmarks.second_policy", "--smoke", "--json", f"--out={out}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    (record,) = json.loads(done.stdout)
    assert record == json.loads((out / "second_policy.json").read_text())[0]
    assert not record["passed"]
    assert [(p["update"], p["episodes"]) for p in record["points"]] == [(0, 2), (1, 2)]
    assert record["config"] == "examples/second_policy/train_config.json"
    (run,) = (path.parent for path in out.glob("*/learn.json"))
    assert len((run / "run" / "learner" / "metrics.jsonl").read_text().splitlines()) == 1
