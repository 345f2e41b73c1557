"""A process of the gate is killed in the middle of a step: the gate ends, says who died of what, leaves nothing.

The steps go on from the smoke run of the shared gate; every process is real. What a step kills by itself (the
learner to be resumed, the saver) is no failure and not meant here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.audit.verify import verify_bundle
from pirl.errors import ExitCode
from pirl.gate import main
from pirl.gate.segments import abandoned, segments
from pirl.gate.track import NoTracker

REPO = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

END_S = 20.0
"""From the death to the sealed bundle, pictures included."""
APPEAR_S = 600.0
LINKED = "linked to the learner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A process of the gate, by the log that it writes, and the moment of its death."""

    log: str
    """Below `<work>/logs`; "" for a simulator of the gate's own process."""
    says: str
    is_worker: bool = False
    after: tuple[str, str] = ("", "")
    """A log and a text in it; at once when empty."""

    def find(self, work: Path) -> psutil.Process | None:
        """The process, once it lives and its moment has come."""
        log, text = self.after
        if text and text not in read(work / "logs" / f"{log}.log"):
            return None
        found = writers(work / "logs" / f"{self.log}.log") if self.log else own_children()
        return next((p for p in found if is_worker(p) is self.is_worker), None)


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def own_children() -> list[psutil.Process]:
    return psutil.Process().children()


def writers(target: Path) -> list[psutil.Process]:
    """Living processes whose output goes to `target`, a file, or to a file below it."""
    found = []
    for pid in psutil.pids():
        try:
            output = Path(f"/proc/{pid}/fd/1").readlink()
            if output.is_relative_to(target) and pid != os.getpid():
                found.append(psutil.Process(pid))
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def is_worker(process: psutil.Process) -> bool:
    try:
        return "pirl.envs.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


class Killer(threading.Thread):
    """Waits for a victim and kills it; `at` is the moment, monotonic seconds, None before."""

    def __init__(self, victim: Victim, work: Path) -> None:
        super().__init__(daemon=True)
        self.victim, self.work = victim, work
        self.at: float | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.02):
            found = self.victim.find(self.work)
            if found is not None:
                self.at = time.monotonic()
                found.send_signal(signal.SIGKILL)
                return


@contextmanager
def killing(victim: Victim, work: Path) -> Generator[Killer]:
    killer = Killer(victim, work)
    killer.start()
    try:
        yield killer
    finally:
        killer.is_over.set()
        killer.join(10.0)


KILLED = "was killed by SIGKILL"
SIMULATOR = "simulator worker 0 died while"

DEATHS = [
    ("validate-config", Victim(log="", is_worker=True, says=SIMULATOR)),
    *(
        (step, victim)
        for step, run in (("smoke-run", "smoke"), ("resume-roundtrip", "interrupted"))
        for victim in (
            Victim(log=f"{run}/learner", after=(f"{run}/actor-0", LINKED), says=f"learner {KILLED}"),
            Victim(log=f"{run}/actor-1", after=(f"{run}/actor-1", LINKED), says=f"actor-1 {KILLED}"),
            Victim(log=f"{run}/actor-0", is_worker=True, says=SIMULATOR),
        )
    ),
    ("resume-roundtrip", Victim(log="resumed/actor-0", after=("resumed/actor-0", LINKED),
                                says=f"actor-0 {KILLED}")),
    ("resume-roundtrip", Victim(log="saver", says=f"saver {KILLED}")),
    ("mismatch-negative", Victim(log="mismatch/control-learner", says=f"control-learner {KILLED}",
                                 after=("mismatch/control-actor-0", LINKED))),
    ("mismatch-negative", Victim(log="mismatch/control-actor-0", says=f"control-actor-0 {KILLED}",
                                 after=("mismatch/control-actor-0", LINKED))),
    ("mismatch-negative", Victim(log="mismatch/control-actor-1", is_worker=True, says=SIMULATOR)),
    ("mismatch-negative", Victim(log="mismatch/host-learner", says=f"host-learner {KILLED}")),
    ("mismatch-negative", Victim(log="mismatch/config-path-actor-to-learner",
                                 says=f"config-path-actor-to-learner {KILLED}")),
    ("mismatch-negative", Victim(log="mismatch/missing-metadata-learner-to-actor.beside",
                                 says=f"missing-metadata-learner-to-actor.beside {KILLED}")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "victim"),
    DEATHS,
    ids=[f"{s}-{v.log or 'own'}{'-worker' * v.is_worker}" for s, v in DEATHS],
)
def test_gate_ends_soon_after_a_death_and_says_whose(gate_before, step, victim):
    gate = gate_before(step)
    before = segments()
    with killing(victim, gate.work) as killer:
        bundle = main.run_steps(gate, NoTracker())
        ended = time.monotonic()
    assert killer.at is not None, "the victim never appeared"
    assert ended - killer.at < END_S
    assert victim.says in main.why_it_ended(gate)
    assert main.exit_code(gate, bundle) is ExitCode.CHECK_FAILED
    assert gate.ended_by.step == step
    later = STEPS[STEPS.index(step) + 1 :]
    assert {bundle.verdict.steps[name] for name in later} <= {Verdict.NOT_RUN}
    assert victim.says in (bundle.folder / "report.md").read_text()
    assert verify_bundle(bundle.folder).exit_code == 1
    assert writers(gate.work) == []
    assert not any(is_worker(process) for process in own_children())
    assert abandoned(before) == []


MARK = "PIRL_TEST_DEATH"


def marked(value: str) -> list[psutil.Process]:
    """Every living process that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@contextmanager
def command(tmp_path: Path, env: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    """`pirl gate` as a user starts it; whatever is left of it is killed in the end."""
    env = env | {MARK: tmp_path.name}
    argv = [sys.executable, "-m", "pirl.cli", "gate", "--profile", "embedded", "--json"]
    # The tracker gets copies of a gate that is over; how long that takes is not the gate's.
    argv += ["--launched-by", "test", "--no-mlflow", "--out", str(tmp_path / "bundle")]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(argv, cwd=REPO, env=env, stdout=out, stderr=err)
    try:
        yield process
    finally:
        for left in marked(tmp_path.name):
            left.kill()
        process.wait(10)


def test_command_ends_with_1_and_leaves_nothing_when_an_actor_is_killed(tmp_path, environ):
    victim = Victim(log="smoke/actor-0", after=("smoke/actor-0", LINKED), says=f"actor-0 {KILLED}")
    with command(tmp_path, environ) as gate, killing(victim, tmp_path / "bundle.work") as killer:
        assert gate.wait(APPEAR_S) == 1, read(tmp_path / "err")
        assert time.monotonic() - killer.at < END_S
        assert marked(tmp_path.name) == []
    answer = json.loads(read(tmp_path / "out"))
    assert victim.says in answer["ended_early"]
    assert [answer["steps"][step] for step in STEPS[2:]] == ["not run", "not run"]


def test_machine_that_cannot_draw_ends_the_command_with_3_and_nothing_looks_like_a_run(
    tmp_path, environ
):
    with command(tmp_path, environ | {"MUJOCO_EGL_DEVICE_ID": "99"}) as gate:
        assert gate.wait(APPEAR_S) == 3, read(tmp_path / "err")
        assert marked(tmp_path.name) == []
    said = read(tmp_path / "err")
    assert "MuJoCo cannot draw off screen" in said
    assert "MUJOCO_EGL_DEVICE_ID" in said
    assert read(tmp_path / "out") == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["err", "out"]
