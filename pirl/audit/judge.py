"""From raw records to a verdict: the one path that gate and verifier share.

Owns the order "recompute, compare, conclude". Nothing that a bundle says about itself is read here,
only its raw records. Read `pirl.audit.verify` next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pirl.audit import outcomes
from pirl.audit.criterion import (
    DEFAULT_NUMERICS,
    Criterion,
    CriterionResult,
    Measured,
    Verdict,
    worst,
)
from pirl.audit.policy import (
    CLAIM,
    GATE,
    NON_CLAIM,
    POLICY_VERSION,
    criteria_of,
    limits,
    policy_digest,
)
from pirl.audit.raw import MissingRecordError, RawRecords
from pirl.audit.records import files
from pirl.audit.records.files import STEPS, RecordFile
from pirl.errors import EvidenceError

MALFORMED = (
    EvidenceError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)
"""What a measurement raises on records that are not what `docs/evidence.md` says."""

UNKNOWN = "unknown"


def judge_criterion(
    criterion: Criterion, raw: RawRecords, *, numerics: str = DEFAULT_NUMERICS
) -> CriterionResult:
    """Measure one criterion and compare it with its threshold.

    A missing record gives "not run", a malformed one "failed"; neither counts as passed.
    """
    measured: Measured | None = None
    try:
        measured = criterion.measure(raw)
        holds = criterion.holds(measured.value, numerics=numerics)
        verdict, detail = (Verdict.PASSED if holds else Verdict.FAILED), measured.detail
    except MissingRecordError as error:
        verdict, detail = Verdict.NOT_RUN, str(error)
    except MALFORMED as error:
        verdict, detail = Verdict.FAILED, f"malformed record: {error}"
    return CriterionResult(
        name=criterion.name,
        step=criterion.step,
        measured=None if measured is None else measured.value,
        threshold=criterion.threshold_for(numerics),
        comparator=criterion.comparator,
        unit=criterion.unit,
        verdict=verdict,
        recompute=criterion.recompute,
        description=criterion.description,
        detail=detail,
    )


def judge_step(raw: RawRecords, step: str) -> list[CriterionResult]:
    """Every criterion of a step that is asked of the recorded profile, in order; without one, all of them."""
    settings = _record(raw, files.SETTINGS)
    numerics = DEFAULT_NUMERICS if settings is None else settings.numerics
    profile = _record(raw, files.PROFILE)
    asked = criteria_of(step, None if profile is None else profile.profile)
    return [judge_criterion(c, raw, numerics=numerics) for c in asked]


def _record[T](raw: RawRecords, file: RecordFile[T]) -> T | None:
    """A record that a reader is shown; None when its criteria will say what is wrong with it."""
    try:
        return raw.one(file)
    except MALFORMED:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """The verdict of a gate and everything it follows from."""

    results: Mapping[str, list[CriterionResult]]
    """By step."""
    profile: str
    profile_reason: str
    """Why it is not the real profile; empty for that one."""
    env_type: str
    variant: str
    numerics: str
    config_path: str
    config_hash: str
    episodes: list[outcomes.TaskOutcome]

    @property
    def steps(self) -> dict[str, Verdict]:
        """Verdict of each step."""
        return {
            step: worst({r.name: r.verdict for r in self.results.get(step, [])}) for step in STEPS
        }

    @property
    def verdict(self) -> Verdict:
        """Verdict of the gate."""
        return worst(self.steps)

    @property
    def label(self) -> str:
        """The verdict as it must be shown: no other profile is ever shown as the real one."""
        if self.verdict != Verdict.PASSED or self.profile == "libero":
            return str(self.verdict)
        if self.profile == files.OWN:
            return f"passed (own config: {self.env_type})"
        return f"passed (fallback: {self.profile})"

    def count(self, verdict: Verdict, step: str | None = None) -> int:
        """Criteria with this verdict, of one step or of all."""
        steps = STEPS if step is None else (step,)
        return sum(r.verdict == verdict for s in steps for r in self.results.get(s, []))

    @property
    def total(self) -> int:
        """Number of criteria."""
        return sum(len(results) for results in self.results.values())

    @property
    def limits(self) -> tuple[str, ...]:
        """What was not tested."""
        return limits(profile=self.profile, numerics=self.numerics)

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in `verdict.json`."""
        return {
            "gate": GATE,
            "policy_version": POLICY_VERSION,
            "policy_digest": policy_digest(),
            "verdict": str(self.verdict),
            "label": self.label,
            "profile": self.profile,
            "profile_reason": self.profile_reason,
            "variant": self.variant,
            "numerics": self.numerics,
            "config_path": self.config_path,
            "config_hash": self.config_hash,
            "steps": {step: str(verdict) for step, verdict in self.steps.items()},
            "criteria": {str(v).replace(" ", "_"): self.count(v) for v in Verdict}
            | {"total": self.total},
            "episodes": [outcome.to_json() for outcome in self.episodes],
            "claim": CLAIM,
            "non_claim": NON_CLAIM,
            "limits": list(self.limits),
        }


def judge_gate(raw: RawRecords) -> GateVerdict:
    """Recompute everything from the raw records of a bundle."""
    raw = raw.once()
    try:
        episodes = outcomes.by_task(outcomes.played(raw))
    except MALFORMED:
        # The criteria that need episodes say what is wrong with them; no figure is shown.
        episodes = []
    profile, config = _record(raw, files.PROFILE), _record(raw, files.CONFIG)
    settings = _record(raw, files.SETTINGS)
    name = UNKNOWN if profile is None else profile.profile
    reason = UNKNOWN if profile is None else profile.reason
    return GateVerdict(
        results={step: judge_step(raw, step) for step in STEPS},
        profile=name,
        profile_reason="" if name == "libero" else reason,
        env_type=UNKNOWN if profile is None else profile.env_type,
        variant=UNKNOWN if config is None else config.variant,
        numerics=UNKNOWN if settings is None else settings.numerics,
        config_path=UNKNOWN if config is None else config.path,
        config_hash=UNKNOWN if config is None else config.hash,
        episodes=episodes,
    )
