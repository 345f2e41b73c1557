"""DVC's own commands on this repository's stages, in a copy; a stand-in writes what a gate would leave."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
COPIED = ("dvc.yaml", "dvc.lock", "params.yaml", "constraints.txt", "configs", "learning", "reports",
          ".dvc/config", ".dvc/.gitignore", ".dvc/plots.html", ".dvcignore", ".gitignore")  # fmt: skip
STAND_IN = """
import json, pathlib, yaml
variant = yaml.safe_load(open("params.yaml"))["gate"]["variant"]
for name in ("checkpoint/000003/weights.bin", "config/train_config.json"):
    path = pathlib.Path("runs/dvc", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(variant)
numbers = {"verdict": "passed (fallback: embedded)", "criteria_passed": 81, "criteria_total": 81}
open("reports/learning.csv", "w").write("update,success_rate\\n1,0.25\\n2,0.5\\n")
json.dump(numbers | {"approx_kl": len(variant) / 1000}, open("reports/gate.json", "w"))
"""

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def run(folder: Path, *command: str) -> str:
    # Variables of git and of DVC name the repository that the tests run in.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTHONPATH"))}
    env |= {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "test"}
    env |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "test@localhost"}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "DVC_NO_ANALYTICS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", message)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A repository in which the gate ran, with its lock file committed."""
    folder = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, folder / name)
    (folder / "pirl").mkdir()
    (folder / "pirl" / "__init__.py").write_text("")
    (folder / "pirl" / "dvc_stage.py").write_text(STAND_IN)
    run(folder, "git", "init", "-q", "-b", "main")
    commit(folder, "start")
    run(folder, "dvc", "repro")
    commit(folder, "the gate ran")
    return folder


def test_what_was_pushed_is_pulled_in_another_clone(gated, tmp_path):
    run(gated, "dvc", "remote", "add", "-d", "-f", "store", str(tmp_path / "store"))
    commit(gated, "name the remote")
    run(gated, "dvc", "push", "phase2_gate")
    run(tmp_path, "git", "clone", "-q", str(gated), "clone")
    clone = tmp_path / "clone"
    assert not (clone / "runs").exists()
    run(clone, "dvc", "pull", "phase2_gate")
    assert (clone / "runs/dvc/checkpoint/000003/weights.bin").read_text() == "flow-sde"
    assert (clone / "runs/dvc/config/train_config.json").is_file()


def test_plots_are_drawn_without_the_network(gated, tmp_path):
    run(gated, "dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert set(re.findall(r"vegaEmbed\('#(\w+)'", page)) == {
        "reports_learning_csv",
        "reports_learn_csv",
    }
    assert not re.search(r"(src|href)\s*=|import\(|fetch\(", page)


def test_the_table_of_experiments_fits_a_screen(gated):
    run(gated, "dvc", "exp", "run", "-q", "-S", "gate.variant=flow-noise")
    header, *rows = csv.reader(run(gated, "dvc", "exp", "show", "--csv").splitlines())
    assert {"gate.variant", "verdict", "criteria_passed"} <= set(header)
    assert not [name for name in header if name.startswith(("studies", "learn."))]
    shown, *rows = csv.reader(
        run(gated, "dvc", "exp", "show", "--csv", "--only-changed").splitlines()
    )
    widths = [max(map(len, column)) + 3 for column in zip(shown, *rows, strict=True)]
    assert "gate.variant" in shown
    assert sum(widths) <= 160, (shown, widths)
