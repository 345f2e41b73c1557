"""With one safety check turned off the gate fails, at the step that the check belongs to, and says why.

Each test goes on from the smoke run of the shared gate; the steps, the processes and the checks are the real
ones, and the switch is `PIRL_TEST_DISABLE`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import pirl.runtime.screen
from pirl.audit.criterion import Verdict
from pirl.audit.verify import verify_bundle
from pirl.gate import mismatch_step
from pirl.gate.deadlines import EXPECTED_S, LOAD_FACTOR
from pirl.hooks import VARIABLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

# A wrong actor that is let in goes on acting until its deadline.
ACCEPTED_S = 30.0


def not_passed(outcome) -> dict[str, str]:
    """Criteria that did not pass, with the reason that a reader sees."""
    return {r.name: r.detail for r in outcome.results if r.verdict is not Verdict.PASSED}


def lying_actors(monkeypatch) -> None:
    """Every actor that a launch starts from now on records a wrong log-prob."""
    spawn = pirl.runtime.screen.spawn

    def replaced(role, argv, *, env, **options):
        argv = ["lying_actor" if word == "pirl.actor" else word for word in argv]
        return spawn(role, argv, env={**env, "PYTHONPATH": str(Path(__file__).parent)}, **options)

    monkeypatch.setattr(pirl.runtime.screen, "spawn", replaced)


def test_actor_that_records_another_log_prob_stops_the_smoke_run(gate_before, monkeypatch):
    gate = gate_before("smoke-run")
    lying_actors(monkeypatch)
    outcome = gate.run_step("smoke-run")
    assert outcome.verdict is not Verdict.PASSED
    log = (gate.bundle.folder / "logs/smoke-run/learner.log").read_text()
    assert "replayed log-prob differs from the recorded one" in log


def test_without_the_parity_check_the_smoke_step_fails_by_its_own_numbers(gate_before, monkeypatch):
    gate = gate_before("smoke-run")
    lying_actors(monkeypatch)
    monkeypatch.setenv(VARIABLE, "parity")
    outcome = gate.run_step("smoke-run")
    assert outcome.error == ""
    assert outcome.verdict is Verdict.FAILED
    reasons = not_passed(outcome)
    assert {"smoke/parity_max_abs", "smoke/parity_mean_abs", "smoke/checks_disabled"} <= set(
        reasons
    )
    assert "parity" in reasons["smoke/checks_disabled"]


def test_without_restoring_the_optimiser_the_resume_step_fails(gate_before, monkeypatch):
    gate = gate_before("resume-roundtrip")
    monkeypatch.setenv(VARIABLE, "resume-optimizer")
    outcome = gate.run_step("resume-roundtrip")
    assert outcome.verdict is Verdict.FAILED
    reasons = not_passed(outcome)
    assert set(reasons) >= {
        "resume/loaded_differs",
        "resume/final_differs",
        "resume/metrics_differ",
    }
    assert reasons["resume/loaded_differs"] == "optimizer"
    assert "resume-optimizer" in reasons["resume/checks_disabled"]


def test_without_handshake_and_manifest_check_the_mismatch_step_fails(gate_before, monkeypatch):
    gate = gate_before("mismatch-negative")
    monkeypatch.setenv(VARIABLE, "handshake,manifest")
    monkeypatch.setitem(EXPECTED_S["embedded"], "refusal", ACCEPTED_S / LOAD_FACTOR)
    few = ("config-hash", "protocol-version", "recipe-spelling")
    every = mismatch_step.process_cases

    def process_cases(*arguments):
        return [case for case in every(*arguments) if case.name in few]

    monkeypatch.setattr(mismatch_step, "process_cases", process_cases)
    outcome = gate.run_step("mismatch-negative")
    assert outcome.verdict is Verdict.FAILED
    shown = not_passed(outcome)["mismatch/wrong_exit_code"].split(", ")
    accepted = dict(entry.split(": ") for entry in shown)
    # Let in by the link, by the client's side of it, and by the loader of checkpoints.
    assert {"config-hash", "protocol-version", "run-id", "checkpoint-manifest"} <= set(accepted)
    assert not {"2", "5"} & set(accepted.values())
    # A config that is invalid by itself needs no handshake to be refused.
    assert "recipe-spelling" not in accepted
    assert "mismatch/checks_disabled" in not_passed(outcome)
    finished = gate.finish()
    assert finished.verdict.steps["mismatch-negative"] is Verdict.FAILED
    assert verify_bundle(finished.folder).exit_code == 1
