"""What a criterion is and how a measured value is judged.

Owns comparators, verdict words and the result record. Refuses to know which criteria exist
(`pirl.evidence.policy`) and how a value is measured (`pirl.evidence.measure_*`). Read
`pirl.evidence.policy` next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The three words of a verdict. A waiver does not exist."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


STEPS = ("validate-config", "smoke-run", "resume-roundtrip", "mismatch-negative")
"""The steps of the gate, in order."""

GROUPS: Mapping[str, str] = dict(
    zip(("validate", "smoke", "resume", "mismatch"), STEPS, strict=True)
)
"""First part of a criterion's name, and the step it belongs to."""

IS_TRUE = "is true"
COMPARATORS = ("==", "<=", ">=", IS_TRUE)

DEFAULT_NUMERICS = "cpu/float32"
"""Device and dtype for which a threshold holds unless the criterion names another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value recomputed from raw records, with one sentence about where it comes from."""

    value: float | bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that must hold, fixed in code before a run."""

    name: str
    """`group/leaf`; `GROUPS[group]` is the step."""
    module: str
    """Module of `pirl.evidence` whose function `leaf` recomputes the value."""
    comparator: str
    threshold: float | bool
    unit: str
    source: str
    """Row of the audit checklist that asks for it, section letter and number."""
    description: str
    other_numerics: tuple[tuple[str, float], ...] = ()
    """Thresholds on other devices or dtypes: (`device/dtype`, threshold)."""

    @property
    def step(self) -> str:
        return GROUPS[self.name.split("/")[0]]

    @property
    def recompute(self) -> str:
        """Dotted name of the pure function that recomputes the value from raw records."""
        return f"pirl.evidence.{self.module}.{self.name.split('/')[1]}"

    def threshold_for(self, numerics: str) -> float | bool:
        """The threshold on `numerics` (`device/dtype`); unknown numerics get the strict default."""
        return dict(self.other_numerics).get(numerics, self.threshold)

    def holds(self, value: float | bool, *, numerics: str = DEFAULT_NUMERICS) -> bool:
        """Whether `value` meets the threshold; a value that is not finite never does."""
        threshold = self.threshold_for(numerics)
        if self.comparator == IS_TRUE:
            return value is True
        if isinstance(value, bool) or not math.isfinite(value):
            return False
        if self.comparator == "==":
            return value == threshold
        return value <= threshold if self.comparator == "<=" else value >= threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionResult:
    """A criterion, what was measured and the verdict."""

    name: str
    step: str
    measured: float | bool | None
    """None when the raw records do not allow a measurement."""
    threshold: float | bool
    comparator: str
    unit: str
    verdict: Verdict
    recompute: str
    description: str
    detail: str

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in `criteria/<step>.json`."""
        value = self.measured
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        return asdict(self) | {"verdict": str(self.verdict), "measured": value}


def worst(verdicts: Mapping[str, Verdict]) -> Verdict:
    """Failed if one failed, else not run if one is missing or there is none, else passed."""
    if Verdict.FAILED in verdicts.values():
        return Verdict.FAILED
    if not verdicts or Verdict.NOT_RUN in verdicts.values():
        return Verdict.NOT_RUN
    return Verdict.PASSED
