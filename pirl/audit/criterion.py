"""What a criterion is: one decorated function that measures, with everything that it is compared with.

Owns comparators, verdict words, the decorator and the result record. The first paragraph of the function's
docstring is the description that every report shows. Read `pirl.audit.criteria` next.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pirl.audit.raw import RawRecords


class Verdict(StrEnum):
    """The three words of a verdict. A waiver does not exist."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


IS_TRUE = "is true"
COMPARATORS = ("==", "<=", ">=", IS_TRUE)

DEFAULT_NUMERICS = "cpu/float32"
"""Device and dtype for which a threshold holds unless the criterion names another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value recomputed from raw records, with one sentence about where it comes from."""

    value: float | bool
    detail: str = ""


def counted(wrong: Sequence[str], looked_at: str = "", *, shown: int | None = None) -> Measured:
    """How many are wrong, and which; or, when none is, what was looked at.

    Args:
        shown: names at most; None for all.
    """
    return Measured(value=len(wrong), detail=", ".join(wrong[:shown]) or looked_at)


type Measure = Callable[[RawRecords], Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One thing that must hold, fixed in code before a run."""

    name: str
    """`group/leaf`."""
    step: str
    comparator: str
    threshold: float | bool
    unit: str
    row: str
    """Row of the audit checklist that asks for it, section letter and number."""
    description: str
    recompute: str
    """Dotted name of the function that recomputes the value from raw records."""
    cuda: float | None
    """Threshold on `cuda/float32`, where kernels depend on the batch size; None: the same."""
    profile: str | None
    """The only profile that it is asked of; None: every one."""
    measure: Measure

    def threshold_for(self, numerics: str) -> float | bool:
        """The threshold on `numerics` (`device/dtype`); unknown numerics get the strict default."""
        return self.cuda if numerics == "cuda/float32" and self.cuda is not None else self.threshold

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

    def to_json(self) -> dict[str, Any]:
        """The criterion as it stands in `policy.json`."""
        values = {f: getattr(self, f) for f in ("name", "step", "comparator", "threshold", "unit")}
        return values | {
            "row": self.row,
            "description": self.description,
            "recompute": self.recompute,
            "cuda": self.cuda,
            "profile": self.profile,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """The criteria of one module, in the order in which they stand there; used as a decorator."""

    name: str
    step: str
    criteria: list[Criterion] = field(default_factory=list[Criterion])

    def __call__(
        self,
        comparator: str,
        threshold: float | bool,
        unit: str = "",
        *,
        row: str,
        cuda: float | None = None,
        profile: str | None = None,
    ) -> Callable[[Measure], Measure]:
        """Make the decorated function a criterion; the function itself stays as it is.

        Args:
            row: rows of the auditor's checklist (`docs/evidence.md`).
            cuda: threshold on `cuda/float32`.
            profile: the only one that it is asked of.
        """

        def register(measure: Measure) -> Measure:
            name = measure.__name__
            self.criteria.append(
                Criterion(
                    name=f"{self.name}/{name}",
                    step=self.step,
                    comparator=comparator,
                    threshold=threshold,
                    unit=unit,
                    row=row,
                    description=" ".join(inspect.getdoc(measure).split("\n\n")[0].split()),  # type: ignore[union-attr]
                    recompute=f"{measure.__module__}.{name}",
                    cuda=cuda,
                    profile=profile,
                    measure=measure,
                )
            )
            return measure

        return register


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
