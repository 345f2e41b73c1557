"""Counts with intervals, and an exact paired test. Pure; no percentage leaves this module alone.

Sources: Wilson, JASA 22 (1927) 209-212; McNemar, Psychometrika 12 (1947) 153-157, in its exact
binomial form. Read `pirl.audit.outcomes` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pirl.errors import EvidenceError


@cache
def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95 % Wilson score interval of a binomial share.

    Returns:
        Lower and upper bound, both in [0, 1]; exactly 0 or 1 where the data reached it.

    Raises:
        EvidenceError: no episode, or counts that cannot be.
    """
    # A second to import, and only who shows a figure needs it.
    from scipy.stats import binomtest

    if episodes < 1 or not 0 <= successes <= episodes:
        raise EvidenceError(f"{successes} successes in {episodes} episodes is not a count")
    low, high = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A success count. It can be shown in one form only: k/n with its interval."""

    successes: int
    episodes: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval."""
        return wilson_interval(self.successes, self.episodes)

    def __str__(self) -> str:
        return format_rate(self.successes, self.episodes)

    def __float__(self) -> float:
        raise EvidenceError("a success figure without its counts; use str() or both counts")

    def __format__(self, spec: str) -> str:
        if spec:
            raise EvidenceError("a success figure is shown as k/n with its interval, nothing else")
        return str(self)


def format_rate(successes: int, episodes: int) -> str:
    """`k/n (low to high, 95 % Wilson)`; the only form in which a rate is shown.

    Raises:
        EvidenceError: no episode, counts that cannot be, or anything but two integers (a share).
    """
    for count in (successes, episodes):
        if type(count) is not int:
            raise EvidenceError(f"{count!r} is not a count; a bare percentage is refused")
    low, high = wilson_interval(successes, episodes)
    return f"{successes}/{episodes} ({low:.2f} to {high:.2f}, 95 % Wilson)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Exact McNemar test of two policies on the same (task, initial state, seed)."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def pairs(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def p_value(self) -> float:
        """Two-sided exact binomial p-value over the discordant pairs; 1 when there is none."""
        discordant = self.only_a + self.only_b
        if discordant == 0:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.only_a, discordant).pvalue)

    def __str__(self) -> str:
        return (
            f"A {format_rate(self.both + self.only_a, self.pairs)}, "
            f"B {format_rate(self.both + self.only_b, self.pairs)}, "
            f"only A {self.only_a}, only B {self.only_b}, exact McNemar p = {self.p_value:.3g}"
        )


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> PairedTest:
    """Compare two policies pair by pair.

    Args:
        a: successes of one policy.
        b: successes of the other; entry i of both is the same task, initial state and seed.

    Raises:
        EvidenceError: no pair, or lists of different lengths.
    """
    if not a or len(a) != len(b):
        raise EvidenceError(f"{len(a)} and {len(b)} outcomes are not pairs")
    pairs = list(zip(a, b, strict=True))
    return PairedTest(
        both=pairs.count((True, True)),
        only_a=pairs.count((True, False)),
        only_b=pairs.count((False, True)),
        neither=pairs.count((False, False)),
    )
