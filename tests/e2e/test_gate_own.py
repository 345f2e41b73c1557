"""The gate on a policy and an environment that are both somebody else's, SmolVLA on `pointreach` as plug-ins,
with a learner of two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.append(str(REPO))

from benchmarks.second_policy import install  # noqa: E402

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIG = REPO / "examples" / "second_policy" / "gate.json"
LABEL = "passed (own config: pointreach)"


@pytest.fixture(scope="module")
def plugged(environ, tmp_path_factory):
    """Where both plug-ins are installed, without network and display."""
    path = [*install(tmp_path_factory.mktemp("site")), environ.get("PYTHONPATH", "")]
    return environ | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}


def pirl(*argv, env):
    return subprocess.run(
        [sys.executable, "-m", "pirl", *map(str, argv)],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
        timeout=1700,
    )


@pytest.fixture(scope="module")
def gate(plugged, tmp_path_factory):
    """The bundle of `pirl gate --config CONFIG --learner-processes 2`, and the answer."""
    out = tmp_path_factory.mktemp("gate") / "bundle"
    argv = [
        "--config",
        CONFIG,
        "--learner-processes",
        "2",
        "--launched-by",
        "test",
        "--no-mlflow",
        "--json",
        "--out",
        out,
    ]
    done = pirl("gate", *argv, env=plugged)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return out, json.loads(done.stdout)


def test_it_passes_as_a_config_of_ones_own(gate):
    bundle, answer = gate
    assert (answer["label"], answer["profile"]) == (LABEL, "own")
    assert answer["criteria_passed"] == answer["criteria_total"]
    profile = json.loads((bundle / "raw/validate-config/profile.json").read_text())
    assert (profile["env_type"], profile["suite"]) == ("pointreach", "reach-red")
    table = (bundle / "raw/smoke-run/processes.jsonl").read_text().splitlines()
    roles = [json.loads(line)["role"] for line in table]
    assert [role for role in roles if role.startswith("learner")] == ["learner", "learner-1"]


def test_the_bundle_names_file_and_distributions_and_no_folder_of_this_machine(gate):
    bundle, _ = gate
    command = json.loads((bundle / "metadata/run.json").read_text())["command"]
    assert command[2:6] == ["--profile", "own", "--config", "examples/second_policy/gate.json"]
    packages = json.loads((bundle / "metadata/environment.json").read_text())["packages"]
    assert {"pirl-smolvla", "pirl-pointreach"} <= packages.keys()


def test_the_verifier_accepts_it_where_the_plug_ins_are(gate, plugged, environ):
    done = pirl("verify", gate[0], env=plugged)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"ACCEPTED: {LABEL}")
    without = pirl("verify", gate[0], env=environ)
    assert without.returncode == 1
    assert "env.type=pointreach" in without.stdout
    assert "policy.type=smolvla" in without.stdout
