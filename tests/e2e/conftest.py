"""One gate that a user ran, and gates that go on from its smoke run, for every test of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pirl.audit.bundle import BundleWriter
from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.audit.redact import Redactor
from pirl.config.load import load_config
from pirl.gate.profiles import Profile, first_look
from pirl.gate.session import LOCK_FILES, GateSession, StepOutcome

REPO = Path(__file__).resolve().parents[2]

# Nothing is displayed and no proxy answers: a gate that needs a screen or a network fails.
OFFLINE = {
    "MUJOCO_GL": "egl",
    "OMP_NUM_THREADS": "1",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}


PYTHON_PATH = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
NO_LINKS = """
import errno, os

def refuse(source, target, *rest, **options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

os.symlink = refuse
"""
"""Read by every Python process when it starts."""


def gate_environment() -> dict[str, str]:
    """The environment of a gate without network and display."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY")
    return {k: v for k, v in os.environ.items() if k not in hidden} | OFFLINE


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    """The environment in which a test starts a gate."""
    return gate_environment()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGate:
    """A gate that `pirl gate` ran and that passed."""

    bundle: Path
    work: Path
    answer: dict[str, object]


@pytest.fixture(scope="session")
def passed_gate(tmp_path_factory: pytest.TempPathFactory) -> RunGate:
    """`pirl gate --profile embedded --variant flow-noise`, once, on a file system without symbolic links.

    So it is for every process of it; the steps of `gate_before` have links again.
    """
    out = tmp_path_factory.mktemp("gate") / "bundle"
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(NO_LINKS)
    argv = [sys.executable, "-m", "pirl.cli", "gate", "--profile", "embedded"]
    argv += ["--variant", "flow-noise", "--launched-by", "test", "--no-mlflow", "--json"]
    done = subprocess.run(
        [*argv, "--out", str(out)],
        cwd=REPO,
        env=gate_environment() | {"PYTHONPATH": os.pathsep.join([str(site), *PYTHON_PATH])},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return RunGate(bundle=out, work=out.with_name("bundle.work"), answer=json.loads(done.stdout))


@pytest.fixture
def gate_before(passed_gate: RunGate, tmp_path: Path) -> Callable[[str], GateSession]:
    """Makes a gate that is about to run a step, after the smoke run of the shared one."""

    def make(step: str) -> GateSession:
        work = tmp_path / "work"
        if step != "smoke-run":
            shutil.copytree(passed_gate.work / "smoke", work / "smoke", symlinks=True)
        bundle = BundleWriter.start(
            tmp_path / "bundle",
            repo_root=REPO,
            redactor=Redactor.for_this_machine(REPO),
            launched_by="test",
            lock_files=LOCK_FILES,
            environment={},
        )
        gate = GateSession(
            profile=Profile(name="embedded", reason="test"),
            variant="flow-noise",
            work=work,
            bundle=bundle,
            loaded=load_config(passed_gate.work / "train_config.json"),
        )
        if step == "validate-config":
            # As `open_gate` leaves it: the first episode has begun in a worker.
            gate.look = first_look(gate.loaded)
        for earlier in STEPS[: STEPS.index(step)]:
            gate.outcomes[earlier] = StepOutcome(
                step=earlier, verdict=Verdict.PASSED, results=[], error=""
            )
        return gate

    return make
