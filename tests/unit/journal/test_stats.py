"""Intervals and paired tests against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from pirl.errors import EvidenceError
from pirl.journal.stats import PairedTest, Rate, format_rate, mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # z = 1.96: (10 + z^2/2) / (10 + z^2) -/+ ..., the upper end of n of n is exactly 1.
        (10, 10, 0.7225, 1.0),
        (5, 5, 0.5655, 1.0),
        (0, 10, 0.0, 0.2775),
        # Brown, Cai and DasGupta (2001) style check: k = 8, n = 10.
        (8, 10, 0.4902, 0.9433),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval_equals_values_worked_out_by_hand(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_solves_the_score_equation():
    low, high = wilson_interval(17, 40)
    for bound in (low, high):
        score = (17 / 40 - bound) / math.sqrt(bound * (1 - bound) / 40)
        assert abs(score) == pytest.approx(1.959963984540054, rel=1e-9)


def counts(*sizes):
    return [(k, n) for n in sizes for k in {0, 1, n // 3, n // 2, n - 1, n}]


@pytest.mark.parametrize(("k", "n"), counts(2, 5, 24, 100, 3000))
def test_interval_and_exact_test_are_those_of_the_formulas_to_1e_9(k, n):
    """Wilson's closed form, and McNemar's binomial tail in integers: figures of earlier reports stay."""
    z, share = 1.959963984540054, k / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    expected = [(centre + side * half) / (1 + z * z / n) for side in (-1, 1)]
    assert wilson_interval(k, n) == pytest.approx(expected, abs=1e-9)
    tail = sum(math.comb(n, i) for i in range(min(k, n - k) + 1))
    test = PairedTest(both=0, only_a=k, only_b=n - k, neither=0)
    assert test.p_value == pytest.approx(min(1.0, 2 * tail / 2**n), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (3, 2), (-1, 2), (0, -1)])
def test_counts_that_cannot_be_are_refused(successes, episodes):
    with pytest.raises(EvidenceError):
        wilson_interval(successes, episodes)


def test_rate_shows_both_counts_and_the_interval():
    assert format_rate(8, 10) == "8/10 (0.49 to 0.94, 95 % Wilson)"
    assert str(Rate(successes=8, episodes=10)) == format_rate(8, 10)


@pytest.mark.parametrize("share", [0.8, 80.0, "80 %", True])
def test_bare_percentage_is_refused(share):
    with pytest.raises(EvidenceError, match="count"):
        format_rate(share, 10)


def test_rate_gives_no_number_without_its_counts():
    rate = Rate(successes=8, episodes=10)
    with pytest.raises(EvidenceError):
        float(rate)
    with pytest.raises(EvidenceError):
        f"{rate:.2f}"
    assert f"{rate}" == str(rate)


def test_mcnemar_equals_the_binomial_worked_out_by_hand():
    # 1 against 9 discordant pairs: 2 * (1 + 10) / 2^10 = 22 / 1024.
    test = PairedTest(both=5, only_a=1, only_b=9, neither=5)
    assert test.p_value == pytest.approx(22 / 1024)


def test_mcnemar_ignores_pairs_that_agree_and_is_symmetric():
    assert PairedTest(both=0, only_a=0, only_b=6, neither=0).p_value == 2 / 64
    assert PairedTest(both=900, only_a=6, only_b=0, neither=900).p_value == 2 / 64


def test_mcnemar_without_discordant_pairs_shows_nothing():
    assert PairedTest(both=50, only_a=0, only_b=0, neither=50).p_value == 1.0


def test_mcnemar_is_never_above_one_and_survives_many_pairs():
    assert PairedTest(both=0, only_a=5, only_b=5, neither=0).p_value == 1.0
    assert 0 < PairedTest(both=0, only_a=1400, only_b=1600, neither=0).p_value < 0.001


def test_pairs_are_counted_by_position():
    test = mcnemar([True, True, False, False], [True, False, True, False])
    assert (test.both, test.only_a, test.only_b, test.neither) == (1, 1, 1, 1)
    assert "only A 1, only B 1" in str(test)


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False])])
def test_outcomes_that_are_not_pairs_are_refused(a, b):
    with pytest.raises(EvidenceError):
        mcnemar(a, b)
