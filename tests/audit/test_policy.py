"""The policy is fixed, complete and versioned."""

from __future__ import annotations

import math

import pytest

from pirl.audit import policy
from pirl.audit.criterion import COMPARATORS, IS_TRUE, Criterion, Verdict, worst
from pirl.audit.records.files import STEPS

PINNED = ("4", "da37bbdf3142d0ea2282a1a0cf7acddf9a9ce9013df6a877ffc06442192bca22")
"""Version and digest of the policy. A change of any threshold or text shows here."""

CHECKLIST = {
    "A4", "B2", "B3", "B4", "B5", "C1", "C2", "C3", "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "E1",
    "E2", "F1", "F2", "F3", "F4", "F5", "G1", "G2", "G3", "G4", "H3",
}  # fmt: skip
"""Rows of the audit checklist that criteria answer; the verifier's own checks answer A1 to A3, B1,
H1, H2 and I1 to I5."""


def test_policy_changes_only_together_with_its_version():
    assert (policy.POLICY_VERSION, policy.policy_digest()) == PINNED


def test_every_row_of_the_checklist_has_a_criterion():
    rows = {row for criterion in policy.CRITERIA for row in criterion.row.split()}
    assert rows == CHECKLIST


def test_every_step_has_criteria_and_names_are_unique():
    assert {criterion.step for criterion in policy.CRITERIA} == set(STEPS)
    names = [criterion.name for criterion in policy.CRITERIA]
    assert len(set(names)) == len(names)


def test_every_comparator_is_known_and_fits_its_threshold():
    for criterion in policy.CRITERIA:
        assert criterion.comparator in COMPARATORS
        assert isinstance(criterion.threshold, bool) == (criterion.comparator == IS_TRUE)


def a_criterion(comparator, threshold):
    return Criterion(
        name="smoke/x", step="smoke-run", comparator=comparator, threshold=threshold, unit="",
        row="", description="", recompute="", cuda=None, profile=None, measure=lambda _: None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("comparator", "threshold", "value", "holds"),
    [
        ("==", 0, 0, True),
        ("==", 0, 1e-9, False),
        ("<=", 0.5, 0.5, True),
        ("<=", 0.5, 0.5000001, False),
        (">=", 2, 2, True),
        (">=", 2, 1, False),
        (IS_TRUE, True, True, True),
        (IS_TRUE, True, False, False),
        (IS_TRUE, True, 1, False),
        ("==", 0, False, False),
        ("<=", 1.0, True, False),
        ("<=", 1.0, math.nan, False),
        (">=", 1.0, math.inf, False),
        ("==", 0, math.nan, False),
    ],
)
def test_comparison_holds_exactly_when_it_should(comparator, threshold, value, holds):
    assert a_criterion(comparator, threshold).holds(value) is holds


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], Verdict.NOT_RUN),
        ([Verdict.PASSED], Verdict.PASSED),
        ([Verdict.PASSED, Verdict.NOT_RUN], Verdict.NOT_RUN),
        ([Verdict.NOT_RUN, Verdict.FAILED, Verdict.PASSED], Verdict.FAILED),
    ],
)
def test_nothing_missing_counts_as_passed(verdicts, expected):
    assert worst({str(i): v for i, v in enumerate(verdicts)}) == expected


def test_limits_say_what_a_fallback_did_not_test():
    fallback = policy.limits(profile="embedded", numerics="cpu/float32")
    real = policy.limits(profile="libero", numerics="cuda/float32")
    assert "no LIBERO episode ran" in fallback[0]
    assert not any("LIBERO" in limit for limit in real)
    assert any("GPU" in limit for limit in fallback)
    assert not any("GPU" in limit for limit in real)
    own = policy.limits(profile="own", numerics="cpu/float32")
    assert "a config of one's own" in own[0]
    assert all("other variant" in limits[-1] for limits in (fallback, real, own))
