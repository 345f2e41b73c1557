"""The parts of the gate whose failure would make it pass: order, refusals, leftovers, profiles, its lock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from pirl.errors import ConfigError, EnvironmentNotReadyError, ExitCode, MismatchError
from pirl.evidence.criteria import Verdict
from pirl.gate import main, mismatch_run, mismatch_step, processes, profiles, session
from pirl.gate.mismatch_run import Case
from pirl.gate.processes import MARK, Watch, process_records
from pirl.gate.session import GateFailedError, GateSession
from pirl.hooks import VARIABLE

REPO = Path(__file__).resolve().parents[3]

# One wrong peer


class Group:
    """Stands for the forked processes: writes what a peer would print, and remembers the rest."""

    def __init__(self, says: str) -> None:
        self.says, self.started = says, []

    def start(self, module, argv, *, env, log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text(self.says)
        self.started.append((module, dict(env)))
        return SimpleNamespace(terminate=lambda: self.started.append("ended"))


REFUSAL = """mismatch
  config_hash: ours = 'aaa', theirs = 'bbb'
recipe = 'pi_rl'
  expected: pi-rl
"""


def refusal(monkeypatch, tmp_path, *, code, says=REFUSAL, seconds=0.0, case_env=None, **case):
    """The row of one wrong peer that ends with `code` after `seconds`, and what was kept of it."""
    clock = [100.0]

    def wait(_process, timeout_s):
        assert timeout_s == mismatch_run.DEADLINE_S
        clock[0] += seconds
        return code

    monkeypatch.setattr(mismatch_run.forked, "wait", wait)
    monkeypatch.setattr(mismatch_run.time, "monotonic", lambda: clock[0])
    group, kept = Group(says), []
    row = mismatch_run.run_case(
        SimpleNamespace(work=tmp_path),
        SimpleNamespace(log=lambda name, path: kept.append(name)),
        Case(name="config-hash", argv=("pirl.actor", "--x"), env=case_env or {}, **case),
        group,
        {},
    )
    return row, group, kept


@pytest.mark.parametrize(("code", "recorded"), [(5, 5), (2, 2), (1, 1), (0, 0), (None, 0)])
def test_a_peer_that_never_ended_is_recorded_as_accepted(monkeypatch, tmp_path, code, recorded):
    row, _, _ = refusal(monkeypatch, tmp_path, code=code)
    assert row["exit_code"] == recorded


def test_the_time_of_a_refusal_is_measured_and_its_deadline_recorded(monkeypatch, tmp_path):
    row, _, _ = refusal(monkeypatch, tmp_path, code=5, seconds=7.5)
    assert (row["elapsed_s"], row["deadline_s"]) == (7.5, mismatch_run.DEADLINE_S)


def test_fields_are_read_from_either_kind_of_refusal(monkeypatch, tmp_path):
    row, _, kept = refusal(monkeypatch, tmp_path, code=5)
    assert row["fields"] == [
        {"field": "config_hash", "ours": "'aaa'", "theirs": "'bbb'"},
        {"field": "recipe", "ours": "'pi_rl'", "theirs": "pi-rl"},
    ]
    assert kept == ["config-hash-actor-to-learner"]


def test_a_secret_is_neither_shown_nor_kept(monkeypatch, tmp_path):
    row, _, kept = refusal(
        monkeypatch, tmp_path, code=5, says="  token: ours = 'hunter2', theirs = ''\n",
        hidden=("<withheld>", "<no token>"),
    )  # fmt: skip
    assert row["fields"] == [{"field": "token", "ours": "<withheld>", "theirs": "<no token>"}]
    assert kept == []
    case = Case(name="token", argv=("pirl.actor", "--runtime.token=hunter2"), hidden=("a", "b"))
    assert "hunter2" not in str(case.shown)


def test_a_hook_left_on_is_reported_wherever_it_was_set(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert refusal(monkeypatch, tmp_path, code=5)[0]["hooks"] == []
    row, group, _ = refusal(monkeypatch, tmp_path, code=5, case_env={VARIABLE: "manifest"})
    assert row["hooks"] == ["manifest"]
    assert group.started[0][1][VARIABLE] == "manifest"
    monkeypatch.setenv(VARIABLE, "handshake")
    assert refusal(monkeypatch, tmp_path, code=5)[0]["hooks"] == ["handshake"]


def test_a_process_beside_a_case_ends_with_it(monkeypatch, tmp_path):
    _, group, _ = refusal(monkeypatch, tmp_path, code=5, beside=("pirl.gate.stock_learner", "1"))
    assert [entry if entry == "ended" else entry[0] for entry in group.started] == [
        "pirl.gate.stock_learner",
        "pirl.actor",
        "ended",
    ]


def test_a_learner_that_refuses_a_valid_peer_is_not_healthy(monkeypatch):
    runtime = SimpleNamespace(cfg=SimpleNamespace(runtime=None))
    monkeypatch.setattr(mismatch_run, "load_config", lambda *_: runtime)
    gate = SimpleNamespace(config_path="")

    def healthy(connect, weights) -> bool:
        message = None if weights is None else SimpleNamespace(weights=weights)
        link = SimpleNamespace(connect=connect, wait_for_version=lambda *_, **__: message)
        monkeypatch.setattr(mismatch_run, "ActorLink", lambda *_, **__: nullcontext(link))
        host = SimpleNamespace(port=1, identity=None)
        return mismatch_run.is_healthy(gate, host)

    def refuses(**_):
        raise MismatchError("here", [])

    def answers(**_):
        return None

    assert healthy(answers, {"a": 1}) is True
    assert healthy(answers, {}) is False
    assert healthy(answers, None) is False
    assert healthy(refuses, {"a": 1}) is False


# The order of step 4


@pytest.fixture
def mismatch(monkeypatch, tmp_path):
    """Step 4 with every process replaced; the names of what it did, and what it wrote."""
    did, wrote = [], {}
    record = tmp_path / "run.json"
    record.write_text(
        json.dumps({"counters": {"received": 3}, "books": {"optimiser_steps": 2}, "hooks": []})
    )
    host = SimpleNamespace(
        process=SimpleNamespace(terminate=lambda: did.append("end host")),
        folder=SimpleNamespace(run_record=record),
    )
    row = {"transitions_accepted": 0, "optimiser_steps": 0}

    def pair(_gate, _step, *, name, **_):
        did.append(f"pair {name}")
        return {"exit_code": 0, "transitions_accepted": 9, "elapsed_s": 1.0}

    def cases(_gate, _step, given, _host, _env):
        did.append(f"cases {given[0]}")
        return [{"class": given[0], **row}]

    fakes = {
        "run_pair": pair,
        "start_learner": lambda *_, **__: host,
        "process_cases": lambda *_: ["process"],
        "checkpoint_cases": lambda *_: ["checkpoint"],
        "run_cases": cases,
        "client_cases": lambda *_: [{"class": "client", **row}],
        "ForkedGroup": nullcontext,
        "tampered": lambda *_: tmp_path / "checkpoints" / "000001",
        "resume_argv": lambda *_: ("pirl.learner",),
        "RunFolder": lambda *_: SimpleNamespace(run_record=record),
        "run_case": lambda *_: {"class": "checkpoint-manifest"},
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(mismatch_step, name, fake)
    ended = [0]
    monkeypatch.setattr(mismatch_step.forked, "exit_code", lambda *_: ended[0])
    step = SimpleNamespace(log=lambda *_: None, lines=lambda name, rows: wrote.update({name: rows}))
    gate = SimpleNamespace(
        work=tmp_path,
        loaded=SimpleNamespace(cfg=SimpleNamespace(pirl=SimpleNamespace(gamma=0.99))),
    )
    return SimpleNamespace(run=lambda: mismatch_step.run(gate, step), did=did, wrote=wrote,
                           ended=ended)  # fmt: skip


def test_an_identical_pair_comes_first_and_the_toothless_ones_last(mismatch):
    mismatch.run()
    assert mismatch.did == [
        "pair control", "cases process", "cases checkpoint", "end host", "pair toothless",
    ]  # fmt: skip
    classes = [row["class"] for row in mismatch.wrote["cases.jsonl"]]
    assert classes == ["control", "process", "client", "checkpoint"]
    assert [row["disabled"] for row in mismatch.wrote["teeth.jsonl"]] == ["handshake", "manifest"]


def test_what_the_learner_took_in_is_held_against_every_wrong_peer(mismatch):
    mismatch.run()
    control, *wrong = mismatch.wrote["cases.jsonl"]
    assert control["transitions_accepted"] == 9
    assert {(r["transitions_accepted"], r["optimiser_steps"]) for r in wrong} == {(3, 2)}


def test_a_learner_that_does_not_end_fails_the_step(mismatch):
    mismatch.ended[0] = None
    with pytest.raises(GateFailedError, match="did not end on SIGTERM"):
        mismatch.run()


# What a step leaves behind


def test_a_process_a_port_and_a_segment_left_behind_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_SETTLE_S", 0.2)
    monkeypatch.setattr(processes, "_SHARED_MEMORY", tmp_path)
    (tmp_path / "psm_before").touch()
    watch = Watch()
    nothing = watch.leftovers(labels=["learner"], ports=[])
    assert (nothing["processes"], nothing["shared_memory"]) == ([], [])
    (tmp_path / "psm_after").touch()
    (tmp_path / "of-another-program").touch()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **watch.env}
    )
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            found = watch.leftovers(labels=["learner"], ports=[port])
    finally:
        sleeper.kill()
        sleeper.wait()
    assert len(found["processes"]) == 1
    assert (found["ports"], found["shared_memory"]) == ([port], ["psm_after"])
    assert found["looked_for"]["processes"] == ["learner"]
    assert found["looked_for"]["ports"] == [port]
    assert watch.leftovers(labels=[], ports=[port])["ports"] == []


def test_a_process_that_ends_within_a_moment_is_no_leftover():
    watch = Watch()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5)"], env={**os.environ, **watch.env}
    )
    began = time.monotonic()
    assert watch.leftovers(labels=[], ports=[])["processes"] == []
    assert time.monotonic() - began > 0.2
    sleeper.wait()


def test_another_gates_processes_are_not_this_ones(monkeypatch):
    monkeypatch.setattr(processes, "_SETTLE_S", 0.0)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, MARK: "other"}
    )
    try:
        assert Watch().leftovers(labels=[], ports=[])["processes"] == []
    finally:
        sleeper.kill()
        sleeper.wait()


def test_each_process_reports_the_checks_that_it_had_turned_off():
    table = [{"role": role, "exit_code": 0, "seconds": 1.0} for role in ("learner", "actor-0")]
    rows = process_records(table, hooks={"actor-0": ["parity"]})
    assert [row["hooks"] for row in rows] == [[], ["parity"]]
    assert len({row["label"] for row in rows}) == 2


# Profile, config, lock, exit code


def without_libero(monkeypatch):
    def not_here(_env):
        raise EnvironmentNotReadyError("no assets", remedy="fetch them")

    monkeypatch.setattr(profiles, "describe_env", not_here)
    monkeypatch.setattr(profiles, "env_of", lambda cfg: cfg)
    monkeypatch.setattr(profiles, "check_config", lambda _path: SimpleNamespace(cfg=None))


def test_a_fallback_says_why_it_is_one(monkeypatch):
    without_libero(monkeypatch)
    chosen = profiles.choose_profile("auto")
    assert chosen.name == "embedded"
    assert "no assets" in chosen.reason
    assert profiles.choose_profile("embedded").reason


def test_libero_asked_for_by_name_never_falls_back(monkeypatch):
    without_libero(monkeypatch)
    with pytest.raises(EnvironmentNotReadyError, match="no assets"):
        profiles.choose_profile("libero")
    with pytest.raises(ConfigError):
        profiles.choose_profile("Libero")


def test_libero_where_it_runs_needs_no_reason(monkeypatch):
    without_libero(monkeypatch)
    monkeypatch.setattr(profiles, "describe_env", lambda _env: None)
    assert profiles.choose_profile("auto") == profiles.Profile(name="libero", reason="")


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


def a_session(monkeypatch, run, verdict=Verdict.PASSED) -> GateSession:
    monkeypatch.setattr(session, "import_module", lambda _name: SimpleNamespace(run=run))
    bundle = SimpleNamespace(step=lambda _name: Writer(verdict))
    return GateSession(profile=None, variant="", work=None, bundle=bundle, loaded=None)  # type: ignore[arg-type]


def test_a_step_that_ended_early_is_judged_by_its_records_and_says_why(monkeypatch):
    def broken(_gate, _step):
        raise GateFailedError("the pair left no record")

    gate = a_session(monkeypatch, broken, Verdict.NOT_RUN)
    outcome = gate.run_step("validate-config")
    assert outcome.verdict is Verdict.NOT_RUN
    assert "left no record" in outcome.error


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
    monkeypatch.chdir(REPO)
    for name in ("configure_logging", "interrupt_on_signals"):
        monkeypatch.setattr(main, name, lambda *_: None)
    monkeypatch.setattr(main, "open_gate", lambda **_: nullcontext(None))
    monkeypatch.setattr(main, "tracked", lambda *_, **__: nullcontext(None))
    monkeypatch.setattr(main, "run_steps", lambda *_: bundle)
    assert main.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == str(verdict)
