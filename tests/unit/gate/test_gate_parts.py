"""The parts of the gate whose failure would make it pass: order, refusals, leftovers, profiles, its lock."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pirl.audit.criteria.mismatch import MAX_DEADLINE_S
from pirl.audit.criterion import Verdict
from pirl.audit.records.files import STEPS
from pirl.audit.records.mismatch import NamedField
from pirl.envs import machine as machine_checks
from pirl.envs.libero_assets import AlteredAssetsError
from pirl.errors import (
    ConfigError,
    EnvError,
    EnvironmentNotReadyError,
    EvidenceError,
    ExitCode,
    LinkClosedError,
    MismatchError,
)
from pirl.gate import deadlines, main, mismatch_run, processes, profiles, segments, session
from pirl.gate.mismatch_run import WrongPeer
from pirl.gate.processes import MARK, Watch, process_rows
from pirl.gate.session import GateFailedError, GateSession, StepOutcome
from pirl.gate.track import NoTracker
from pirl.hooks import VARIABLE
from pirl.runtime import procs
from pirl.runtime.mark import ProcessMark
from pirl.runtime.procs import ProcessDiedError, last_words_of, logged_lines

REPO = Path(__file__).resolve().parents[3]

# One wrong peer


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Peer:
    """A process that ends with `code` at `ends_at`, never where that is None."""

    role: str
    code: int | None
    clock: Clock
    ends_at: float = 0.0
    log_path: Path | None = None
    told: str = ""

    def last_words(self) -> str:
        return last_words_of(logged_lines(self.log_path))

    def poll(self) -> int | None:
        return self.code if self.clock.now >= self.ends_at else None

    def terminate(self) -> None:
        self.told = "terminate"

    def kill(self) -> None:
        self.told = "kill"


class Group:
    """Stands for the forked processes: writes what a peer would print, and remembers the rest.

    Args:
        ends: exit code and seconds by module; another module's process runs on.
    """

    def __init__(self, clock: Clock, says: str, ends: dict[str, tuple[int | None, float]]) -> None:
        self.clock, self.says, self.ends = clock, says, ends
        self.started: list[tuple[str, dict]] = []
        self.processes: list[Peer] = []

    def start(self, module, argv, *, env, log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text(self.says)
        self.started.append((module, dict(env)))
        code, seconds = self.ends.get(module, (None, 0.0))
        peer = Peer(log_path.stem, code, self.clock, self.clock.now + seconds, log_path)
        self.processes.append(peer)
        return peer


REFUSAL = """mismatch
  config_hash: ours = 'aaa', theirs = 'bbb'
recipe = 'pi_rl'
  expected: pi-rl
"""


REFUSAL_S = 120.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(procs, "time", clock)
    monkeypatch.setattr(mismatch_run, "time", clock)
    return clock


def refusal(clock, tmp_path, *, code, says=REFUSAL, seconds=0.0, case_env=None, beside_ends=None,
            needs=(), **case):  # fmt: skip
    """The row of one wrong peer that ends with `code` after `seconds`, and what was kept of it."""
    ends = {"pirl.actor": (code, seconds), "pirl.gate.stock_learner": beside_ends or (None, 0.0)}
    group, kept = Group(clock, says, ends), []
    row = mismatch_run.run_case(
        SimpleNamespace(work=tmp_path, allowed_s={"refusal": REFUSAL_S}.__getitem__),
        SimpleNamespace(log=lambda name, path: kept.append(name), now=clock.monotonic),
        WrongPeer(name="config-hash", argv=("pirl.actor", "--x"), env=case_env or {}, **case),
        group,
        {},
        needs=needs,
    )
    return row, group, kept


@pytest.mark.parametrize(("code", "recorded"), [(5, 5), (2, 2), (1, 1), (0, 0), (None, None)])
def test_a_peer_that_never_ended_has_no_exit_code(clock, tmp_path, code, recorded):
    row, group, _ = refusal(clock, tmp_path, code=code)
    assert row.exit_code == recorded
    assert group.processes[-1].told == ("kill" if code is None else "")
    assert row.elapsed_s == pytest.approx(REFUSAL_S if code is None else 0.0, abs=0.1)


def test_the_time_of_a_refusal_is_measured_and_its_deadline_recorded(clock, tmp_path):
    row, _, _ = refusal(clock, tmp_path, code=5, seconds=7.5)
    assert row.elapsed_s == pytest.approx(7.5, abs=0.1)
    assert row.deadline_s == REFUSAL_S


def test_a_wrong_peer_that_a_signal_ends_is_no_refusal_and_ends_the_step(clock, tmp_path):
    with pytest.raises(
        ProcessDiedError, match="config-hash-actor-to-learner was killed by SIGKILL"
    ):
        refusal(clock, tmp_path, code=-9, seconds=3.0)
    assert clock.now == pytest.approx(103.0, abs=0.1)


def test_a_case_does_not_outlive_the_learner_that_it_needs(clock, tmp_path):
    host = Peer("host-learner", -9, clock, ends_at=102.0)
    with pytest.raises(ProcessDiedError, match="host-learner was killed by SIGKILL"):
        refusal(clock, tmp_path, code=None, needs=[host])
    assert clock.now == pytest.approx(102.0, abs=0.1)


def test_a_case_does_not_outlive_the_process_beside_it(clock, tmp_path):
    with pytest.raises(ProcessDiedError, match=r"beside was killed by SIGKILL"):
        refusal(clock, tmp_path, code=None, beside_ends=(-9, 2.0),
                beside=("pirl.gate.stock_learner", "1"))  # fmt: skip
    assert clock.now == pytest.approx(102.0, abs=0.1)


def test_fields_are_read_from_either_kind_of_refusal(clock, tmp_path):
    row, _, kept = refusal(clock, tmp_path, code=5)
    assert row.fields == (
        NamedField(field_name="config_hash", ours="'aaa'", theirs="'bbb'"),
        NamedField(field_name="recipe", ours="'pi_rl'", theirs="pi-rl"),
    )
    assert kept == ["config-hash-actor-to-learner"]


def test_a_secret_is_neither_shown_nor_kept(clock, tmp_path):
    row, _, kept = refusal(
        clock, tmp_path, code=5, says="  token: ours = 'hunter2', theirs = ''\n",
        hidden=("<withheld>", "<no token>"),
    )  # fmt: skip
    assert row.fields == (NamedField(field_name="token", ours="<withheld>", theirs="<no token>"),)
    assert kept == []


def test_an_error_does_not_quote_a_log_that_holds_a_secret(clock, tmp_path):
    hidden = ("<withheld>", "<no token>")
    for kept, given in ((True, {}), (False, {"hidden": hidden})):
        with pytest.raises(ProcessDiedError) as died:
            refusal(clock, tmp_path, code=-9, says="token hunter2", **given)
        assert ("hunter2" in str(died.value)) is kept


def test_a_hook_left_on_is_reported_wherever_it_was_set(monkeypatch, clock, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert refusal(clock, tmp_path, code=5)[0].hooks == ()
    row, group, _ = refusal(clock, tmp_path, code=5, case_env={VARIABLE: "manifest"})
    assert row.hooks == ("manifest",)
    assert group.started[0][1][VARIABLE] == "manifest"
    monkeypatch.setenv(VARIABLE, "handshake")
    assert refusal(clock, tmp_path, code=5)[0].hooks == ("handshake",)


def test_a_process_beside_a_case_ends_with_it(clock, tmp_path):
    _, group, _ = refusal(clock, tmp_path, code=5, beside=("pirl.gate.stock_learner", "1"))
    assert [module for module, _ in group.started] == ["pirl.gate.stock_learner", "pirl.actor"]
    assert [process.told for process in group.processes] == ["terminate", ""]


def the_health(monkeypatch, clock, connect, weights, *, host_ends_at=float("inf")) -> bool:
    """Whether a learner that answers so is healthy; `connect` may fail."""
    runtime = SimpleNamespace(cfg=SimpleNamespace(runtime=None))
    monkeypatch.setattr(mismatch_run, "load_config", lambda *_: runtime)
    message = None if weights is None else SimpleNamespace(weights=weights)
    link = SimpleNamespace(
        connect=connect,
        wait_for_version=lambda *_, **__: message,
        identity=SimpleNamespace(run_id="host"),
    )
    monkeypatch.setattr(mismatch_run, "ActorLink", lambda *_, **__: nullcontext(link))
    gate = SimpleNamespace(config_path="", allowed_s={"contact": 20.0}.__getitem__)
    host = SimpleNamespace(
        port=1, identity=None, process=Peer("host-learner", -9, clock, ends_at=host_ends_at)
    )
    step = SimpleNamespace(now=clock.monotonic)
    return mismatch_run.contact(gate, step, host).run_id == "host"


def test_a_learner_that_refuses_a_valid_peer_is_not_healthy(monkeypatch, clock):
    def refuses(**_):
        raise MismatchError("here", [])

    def is_silent(**_):
        clock.sleep(2.0)
        raise LinkClosedError("nobody there")

    def answers(**_):
        return None

    assert the_health(monkeypatch, clock, answers, {"a": 1}) is True
    assert the_health(monkeypatch, clock, answers, {}) is False
    assert the_health(monkeypatch, clock, answers, None) is False
    assert the_health(monkeypatch, clock, refuses, {"a": 1}) is False
    began = clock.now
    assert the_health(monkeypatch, clock, is_silent, {"a": 1}) is False
    assert clock.now - began < 25.0


def test_nobody_waits_for_the_answer_of_a_learner_that_died(monkeypatch, clock):
    def is_silent(**_):
        clock.sleep(2.0)
        raise LinkClosedError("nobody there")

    with pytest.raises(ProcessDiedError, match="host-learner was killed by SIGKILL"):
        the_health(monkeypatch, clock, is_silent, None, host_ends_at=101.0)
    assert clock.now < 105.0


# A pair


@pytest.mark.parametrize(
    ("learner", "first", "second", "code", "ends_at"),
    [
        ((0, 9.0), (0, 8.0), (0, 7.0), 0, 9.0),
        ((0, 9.0), (5, 2.0), (0, 7.0), 5, 2.0),
        ((None, 0.0), (None, 0.0), (2, 3.0), 2, 3.0),
    ],
)
def test_a_pair_ends_when_all_finished_or_one_is_refused(
    clock, learner, first, second, code, ends_at
):
    assert end_of_pair(clock, learner, first, second) == code
    assert clock.now - 100.0 == pytest.approx(ends_at, abs=0.1)


@pytest.mark.parametrize(
    ("learner", "first", "second", "who"),
    [
        ((None, 0.0), (-9, 2.0), (None, 0.0), "actor-0 was killed by SIGKILL"),
        ((None, 0.0), (None, 0.0), (1, 2.0), "actor-1 ended with exit code 1"),
        (
            (-9, 2.0),
            (1, 2.0),
            (1, 2.0),
            "learner was killed by SIGKILL; actor-0 ended",
        ),
        ((None, 0.0), (5, 2.0), (-9, 2.0), "actor-1 was killed by SIGKILL"),
    ],
)
def test_a_pair_does_not_outlive_any_of_its_processes(clock, learner, first, second, who):
    with pytest.raises(ProcessDiedError, match=who):
        end_of_pair(clock, learner, first, second)
    assert clock.now - 100.0 == pytest.approx(2.0, abs=0.1)


def end_of_pair(clock, *ends) -> int:
    roles = ("learner", "actor-0", "actor-1")
    learner, *actors = [
        Peer(role, code, clock, 100.0 + seconds)
        for role, (code, seconds) in zip(roles, ends, strict=True)
    ]
    gate = SimpleNamespace(allowed_s={"pair": 60.0}.__getitem__)
    return mismatch_run._end_of_pair(gate, learner, actors)


# What a step leaves behind


def test_a_process_a_port_and_a_segment_left_behind_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_SETTLE_S", 0.2)
    monkeypatch.setattr(segments, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "psm_before").touch()
    watch = Watch()
    nothing = watch.leftovers(roles=["learner"], ports=[])
    assert (nothing.processes, nothing.shared_memory) == ((), ())
    (tmp_path / "psm_after").touch()
    (tmp_path / "of-another-program").touch()
    # Open in a living process, as what another program works with.
    in_use = (tmp_path / "torch_in_use").open("w")
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **watch.env}
    )
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            found = watch.leftovers(roles=["learner"], ports=[port])
    finally:
        in_use.close()
        sleeper.kill()
        sleeper.wait()
    assert len(found.processes) == 1
    assert (found.ports, found.shared_memory) == ((port,), ("psm_after",))
    assert found.looked_for.processes == ("learner",)
    assert found.looked_for.ports == (port,)
    assert watch.leftovers(roles=[], ports=[port]).ports == ()


def test_a_process_that_ends_within_a_moment_is_no_leftover():
    watch = Watch()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5)"], env={**os.environ, **watch.env}
    )
    began = time.monotonic()
    assert watch.leftovers(roles=[], ports=[]).processes == ()
    assert time.monotonic() - began > 0.2
    sleeper.wait()


def test_another_gates_processes_are_not_this_ones(monkeypatch):
    monkeypatch.setattr(processes, "_SETTLE_S", 0.0)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, MARK: "other"}
    )
    try:
        assert Watch().leftovers(roles=[], ports=[]).processes == ()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_process_is_known_by_what_it_wrote_itself():
    table = [
        {"role": role, "pid": 7 + i, "exit_code": 0, "seconds": 1.0}
        for i, role in enumerate(("learner", "actor-0", "actor-1"))
    ]
    marks = [
        ProcessMark(role="actor-0", nonce="b", pid=8, started_unix=103.0, hooks=("parity",)),
        ProcessMark(role="learner", nonce="a", pid=7, started_unix=102.0, hooks=()),
    ]
    rows = process_rows(table, marks=marks, since_start=lambda unix: unix - 100.0, suffix="-x")
    assert [row.role for row in rows] == ["learner-x", "actor-0-x", "actor-1-x"]
    assert [row.nonce for row in rows] == ["a", "b", None]
    assert [row.started_s for row in rows] == [2.0, 3.0, None]
    assert [row.hooks for row in rows] == [(), ("parity",), None]


# Profile, config, lock, exit code


class Machine:
    """A machine on which simulators run, but for what a test takes away."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.closed: list[str] = []
        self.looked_at: list[str] = []
        self.blank = False
        self._patch = monkeypatch
        self._target = tmp_path / "train_config.json"
        monkeypatch.chdir(REPO)
        self.lacks("prepare_config", None)
        self.lacks("find_assets", None)
        self.has_memory(64.0)
        monkeypatch.setattr(profiles, "make_vector_env", self._make)

    def lacks(self, name: str, error: Exception | None) -> None:
        def probe() -> None:
            if error is not None:
                raise error

        self._patch.setattr(machine_checks, name, probe)

    def has_memory(self, gib: float) -> None:
        free = SimpleNamespace(available=gib * 2**30)
        self._patch.setattr(machine_checks.psutil, "virtual_memory", lambda: free)

    def _make(self, env_cfg, **_):
        self.looked_at.append(env_cfg.type)
        names = [f"{env_cfg.task}/{i}" for i in range(2)]
        names = names if env_cfg.type == "libero" else [env_cfg.task]
        return SimpleNamespace(task_names=tuple(names), reset=self._reset, close=self._close)

    def _reset(self, plans):
        self.plans = plans
        frame = np.zeros((3, 4, 4), dtype=np.uint8)
        if not self.blank:
            frame[:, 0] = 200
        return {0: SimpleNamespace(images={"observation.images.image": frame})}

    def _close(self) -> None:
        self.closed.append(self.looked_at[-1])

    def choose(self, wanted: str) -> profiles.Ready:
        return profiles.choose_profile(
            wanted, variant="flow-sde", overrides=[], target=self._target
        )


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Machine:
    return Machine(monkeypatch, tmp_path)


NOT_HERE = EnvironmentNotReadyError("no assets", remedy="fetch them")


def test_libero_where_it_runs_needs_no_reason_and_has_begun_its_first_episode(machine):
    ready = machine.choose("auto")
    assert ready.profile == profiles.Profile(name="libero", reason="")
    assert (machine.looked_at, machine.closed) == (["libero"], [])
    assert machine.plans[0] == ready.look.plan


@pytest.mark.parametrize("missing", ["prepare_config", "find_assets"])
def test_a_fallback_says_why_it_is_one(machine, missing):
    machine.lacks(missing, NOT_HERE)
    ready = machine.choose("auto")
    assert ready.profile.name == "embedded"
    assert "no assets" in ready.profile.reason
    assert machine.looked_at == ["pirl_metaworld"]


def test_too_little_memory_is_a_reason(machine):
    machine.has_memory(3.0)
    assert "3.0 GiB of memory" in machine.choose("auto").profile.reason


def test_a_simulator_that_dies_or_draws_nothing_is_a_reason_and_is_closed(machine, monkeypatch):
    original = machine._reset

    def crash(plans):
        if machine.looked_at[-1] == "libero":
            raise EnvError("worker 0 died of SIGSEGV\nmore")
        return original(plans)

    machine._reset = crash
    assert machine.choose("auto").profile.reason.endswith("worker 0 died of SIGSEGV")
    assert machine.closed == ["libero"]
    machine._reset, machine.blank = original, True
    with pytest.raises(EnvironmentNotReadyError, match="blank"):
        machine.choose("libero")
    assert machine.closed == ["libero", "libero"]


def test_assets_that_were_altered_stop_every_gate_that_would_use_them(machine):
    machine.lacks("find_assets", AlteredAssetsError("x.png differs", remedy="reinstall"))
    for wanted in ("auto", "libero"):
        with pytest.raises(AlteredAssetsError, match=r"x\.png"):
            machine.choose(wanted)
    assert machine.looked_at == []
    assert machine.choose("embedded").profile.name == "embedded"


def test_libero_asked_for_by_name_never_falls_back(machine):
    machine.lacks("find_assets", NOT_HERE)
    with pytest.raises(EnvironmentNotReadyError, match="no assets"):
        machine.choose("libero")
    with pytest.raises(ConfigError):
        machine.choose("Libero")
    assert machine.looked_at == []


def test_the_gates_config_has_one_variant(monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    chosen = profiles.Profile(name="embedded", reason="test")
    base = json.loads(chosen.base_config.read_text())["pirl"]["variant"]
    other = next(v for v in profiles.VARIANTS if v != base)
    loaded = profiles.resolve_config(
        chosen, variant=other, overrides=["--seed=7"], target=tmp_path / "train_config.json"
    )
    assert (loaded.cfg.pirl.variant, loaded.cfg.seed) == (other, 7)


def test_a_gate_without_frozen_tensors_is_refused_before_anything_runs(tmp_path):
    chosen = profiles.Profile(name="embedded", reason="test")
    with pytest.raises(ConfigError, match=r"pirl\.train_scope = 'all'"):
        profiles.resolve_config(
            chosen,
            variant="flow-sde",
            overrides=["--pirl.train_scope=all"],
            target=tmp_path / "train_config.json",
        )


class Writer:
    """A step of a bundle, judged as given."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def results(self):
        return [SimpleNamespace(name="a", verdict=self.verdict, detail="")]


LOADED = SimpleNamespace(identity=SimpleNamespace(hash="ab"))


def a_session(monkeypatch, run, verdict=Verdict.PASSED) -> GateSession:
    monkeypatch.setattr(session, "import_module", lambda _name: SimpleNamespace(run=run))
    finished = SimpleNamespace(verdict=SimpleNamespace(verdict=verdict))
    bundle = SimpleNamespace(
        step=lambda _name, **_: Writer(verdict), finish=lambda *, pictures: finished
    )
    return GateSession(profile=None, variant="", work=None, bundle=bundle, loaded=LOADED)  # type: ignore[arg-type]


def test_a_step_that_ended_early_is_judged_by_its_records_and_says_why(monkeypatch):
    def broken(_gate, _step):
        raise GateFailedError("the pair left no record")

    gate = a_session(monkeypatch, broken, Verdict.NOT_RUN)
    outcome = gate.run_step("validate-config")
    assert outcome.verdict is Verdict.NOT_RUN
    assert "left no record" in outcome.error


def test_a_full_disk_ends_a_step_and_not_the_gate(monkeypatch):
    """Whatever the kernel refused and nobody caught: the bundle is still judged and sealed."""

    def full(_gate, _step):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "copy")

    gate = a_session(monkeypatch, full, Verdict.NOT_RUN)
    bundle = main.run_steps(gate, NoTracker())
    assert "No space left" in gate.outcomes["validate-config"].error
    assert main.exit_code(gate, bundle) is ExitCode.NOT_READY


def test_a_fault_of_pirl_itself_is_not_taken_for_a_verdict(monkeypatch):
    def wrong(_gate, _step):
        raise LookupError("a fault")

    with pytest.raises(LookupError):
        a_session(monkeypatch, wrong).run_step("validate-config")


def test_steps_cannot_be_skipped(monkeypatch):
    gate = a_session(monkeypatch, lambda *_: None)
    with pytest.raises(ValueError, match="validate-config"):
        gate.run_step("smoke-run")


def test_two_gates_cannot_share_a_checkout(tmp_path):
    lock = tmp_path / "runs" / ".gate.lock"

    def enter() -> None:
        with session._only_gate(lock):
            pass

    with session._only_gate(lock), pytest.raises(GateFailedError, match=f"pid {os.getpid()}"):
        enter()
    enter()


@pytest.mark.parametrize("problem", [GateFailedError("broken"), ProcessDiedError("it", [])])
def test_no_step_starts_after_one_that_ended_early(monkeypatch, problem):
    def broken(_gate, _step):
        raise problem

    gate = a_session(monkeypatch, broken, Verdict.NOT_RUN)
    bundle = main.run_steps(gate, NoTracker())
    assert list(gate.outcomes) == ["validate-config"]
    assert main.exit_code(gate, bundle) is ExitCode.CHECK_FAILED
    assert main.why_it_ended(gate).startswith("validate-config ended early: ")
    with pytest.raises(ValueError, match="ended the gate"):
        gate.run_step("smoke-run")


def test_a_machine_that_lacks_something_ends_the_gate_with_3(monkeypatch):
    def not_ready(_gate, _step):
        raise EnvironmentNotReadyError("no assets", remedy="fetch them")

    gate = a_session(monkeypatch, not_ready, Verdict.NOT_RUN)
    bundle = main.run_steps(gate, NoTracker())
    assert list(gate.outcomes) == ["validate-config"]
    assert main.exit_code(gate, bundle) is ExitCode.NOT_READY
    assert main.why_it_ended(gate) == (
        "validate-config ended early: EnvironmentNotReadyError: no assets; fix: fetch them"
    )


def test_a_step_that_failed_by_its_numbers_ends_nothing(monkeypatch):
    gate = a_session(monkeypatch, lambda *_: None, Verdict.FAILED)
    bundle = main.run_steps(gate, NoTracker())
    assert tuple(gate.outcomes) == STEPS
    assert main.exit_code(gate, bundle) is ExitCode.CHECK_FAILED
    assert main.why_it_ended(gate) == ""


def test_a_door_runs_the_steps_in_the_gates_order_and_stops_where_it_stops(monkeypatch):
    gate, ran = a_session(monkeypatch, lambda *_: None), []

    def door(gate, tracker, step):
        ran.append(step)
        gate.outcomes[step] = StepOutcome(
            step=step, verdict=Verdict.NOT_RUN, results=[], error="died" * (step == "smoke-run")
        )
        return gate.outcomes[step]

    main.run_steps(gate, NoTracker(), run=door)
    assert ran == ["validate-config", "smoke-run"]


def start_gate(tmp_path, **arguments) -> None:
    given = {"profile": "embedded", "variant": "flow-sde", "launched_by": "test"} | arguments
    with session.open_gate(out=tmp_path / "bundle", **given):
        pass


@pytest.mark.parametrize(
    "wrong", [{"overrides": ["--pirl.gamma=7"]}, {"variant": "flow-ode"}, {"launched_by": "cron"}]
)
def test_a_start_that_fails_leaves_no_work_folder(monkeypatch, tmp_path, wrong):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(session, "LOCK", tmp_path / ".gate.lock")
    with pytest.raises((ConfigError, EvidenceError)):
        start_gate(tmp_path, **wrong)
    assert [path.name for path in tmp_path.iterdir()] == [".gate.lock"]


def test_a_bundle_that_is_there_keeps_its_work_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(session, "LOCK", tmp_path / ".gate.lock")
    for name in ("bundle", "bundle.work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
    with pytest.raises(EvidenceError, match="not empty"):
        start_gate(tmp_path)
    assert (tmp_path / "bundle.work" / "kept").exists()


# Deadlines


def test_every_wait_has_a_deadline_in_every_profile():
    phases = {phase for counts in deadlines._PHASES.values() for phase in counts}
    for profile in profiles.BASE_CONFIGS:
        assert set(deadlines.EXPECTED_S[profile]) == phases
        for step in STEPS:
            assert deadlines.step_allowed_s(profile, step) > 0


def test_the_deadline_of_a_refusal_is_one_that_the_evidence_allows():
    for profile in profiles.BASE_CONFIGS:
        assert deadlines.allowed_s(profile, "refusal") <= MAX_DEADLINE_S
        assert deadlines.allowed_s(profile, "contact") <= MAX_DEADLINE_S


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PASSED, ExitCode.OK),
        (Verdict.FAILED, ExitCode.CHECK_FAILED),
        (Verdict.NOT_RUN, ExitCode.CHECK_FAILED),
    ],
)
def test_the_command_ends_with_0_only_for_a_pass(monkeypatch, capsys, verdict, code):
    judged = SimpleNamespace(
        verdict=verdict, label=str(verdict), profile="embedded", variant="flow-sde", steps={},
        total=1, count=lambda _verdict: 0,
    )  # fmt: skip
    bundle = SimpleNamespace(verdict=judged, folder=Path("x"), digest="d")
    gate = SimpleNamespace(ended_by=None)
    monkeypatch.chdir(REPO)
    for name in ("configure_logging", "interrupt_on_signals"):
        monkeypatch.setattr(main, name, lambda *_: None)
    monkeypatch.setattr(main, "open_gate", lambda **_: nullcontext(gate))
    monkeypatch.setattr(main, "tracked", lambda *_, **__: nullcontext(None))
    monkeypatch.setattr(main, "run_steps", lambda *_: bundle)
    assert main.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == str(verdict)
