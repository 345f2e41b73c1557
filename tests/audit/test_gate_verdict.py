"""Counts, words and label of a gate's verdict follow from its criteria."""

from __future__ import annotations

import json

import pytest

from pirl.audit.criterion import CriterionResult, Verdict
from pirl.audit.judge import UNKNOWN, GateVerdict, judge_gate
from pirl.audit.raw import RawRecords
from pirl.audit.records.files import STEPS

PASSED, FAILED, NOT_RUN = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_RUN


def a_result(step, verdict, number):
    return CriterionResult(
        name=f"{step}/{number}",
        step=step,
        measured=1,
        threshold=1,
        comparator="==",
        unit="",
        verdict=verdict,
        recompute="a.b",
        description="",
        detail="",
    )


def a_verdict(by_step, **changes):
    facts = {
        "profile": "embedded",
        "profile_reason": "no assets",
        "env_type": "pointreach",
        "variant": "flow-sde",
        "numerics": "cpu/float32",
        "config_path": "c.json",
        "config_hash": "ab",
        "episodes": [],
    }
    results = {
        step: [a_result(step, verdict, i) for i, verdict in enumerate(verdicts)]
        for step, verdicts in by_step.items()
    }
    return GateVerdict(results=results, **(facts | changes))


ALL_PASSED = {step: [PASSED] for step in STEPS}
MIXED = {STEPS[0]: [PASSED, FAILED], STEPS[1]: [NOT_RUN, PASSED, PASSED]}


@pytest.mark.parametrize(
    ("by_step", "profile", "label"),
    [
        (ALL_PASSED, "embedded", "passed (fallback: embedded)"),
        (ALL_PASSED, "libero", "passed"),
        (ALL_PASSED, "own", "passed (own config: pointreach)"),
        (MIXED, "own", "failed"),
        (MIXED, "embedded", "failed"),
        (ALL_PASSED | {STEPS[2]: [NOT_RUN]}, "libero", "not run"),
        ({}, "libero", "not run"),
    ],
)
def test_label_never_shows_a_fallback_as_the_real_profile(by_step, profile, label):
    assert a_verdict(by_step, profile=profile).label == label


def test_a_step_without_criteria_did_not_run():
    steps = a_verdict(MIXED).steps
    assert list(steps) == list(STEPS)
    assert list(steps.values()) == [FAILED, NOT_RUN, NOT_RUN, NOT_RUN]


def test_criteria_are_counted_by_verdict_and_step():
    verdict = a_verdict(MIXED)
    assert [verdict.count(word) for word in (PASSED, FAILED, NOT_RUN)] == [3, 1, 1]
    assert [verdict.count(PASSED, step) for step in STEPS] == [1, 2, 0, 0]
    assert verdict.total == 5
    assert verdict.to_json()["criteria"] == {"passed": 3, "failed": 1, "not_run": 1, "total": 5}


def test_a_folder_without_records_is_no_pass(tmp_path):
    verdict = judge_gate(RawRecords(tmp_path))
    assert {verdict.profile, verdict.variant, verdict.config_hash} == {UNKNOWN}
    assert verdict.episodes == []
    assert verdict.profile_reason == UNKNOWN
    assert verdict.verdict != PASSED
    assert verdict.count(PASSED) == 0


def test_the_real_profile_needs_no_reason(bundle):
    path = bundle / "raw" / "validate-config" / "profile.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"profile": "libero", "reason": "a reason"}))
    assert judge_gate(RawRecords(bundle)).profile_reason == ""
    path.write_text(json.dumps(record | {"reason": "a reason"}))
    assert judge_gate(RawRecords(bundle)).profile_reason == "a reason"


def test_malformed_episodes_are_not_shown(bundle):
    path = bundle / "raw" / "smoke-run" / "episodes.jsonl"
    path.write_text(path.read_text() * 2)
    verdict = judge_gate(RawRecords(bundle))
    assert verdict.episodes == []
    assert verdict.verdict == FAILED
