"""Records of mismatch-negative: an identical pair, then every wrong peer, each followed by a valid contact."""

from __future__ import annotations

from dataclasses import dataclass, field

from pirl.audit.records.common import says


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedField:
    """A field that a refusal names. For a token both values are marks."""

    field_name: str = field(metadata=says("dotted name"))
    ours: str = field(metadata=says("value of the side that refuses"))
    theirs: str = field(metadata=says("value of the other side"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A valid handshake with the same host learner, directly after a case."""

    started_s: float = field(metadata=says("since the gate began", "s"))
    seconds: float = field(metadata=says("duration", "s"))
    run_id: str | None = field(metadata=says("of the learner that accepted; null: nobody did"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A wrong peer and what became of it."""

    name: str = field(metadata=says("class of the mismatch"))
    direction: str = field(metadata=says("`actor-to-learner`, `learner-to-actor` or `checkpoint`"))
    probe: str = field(metadata=says("`process`, or `client`: a real link in the gate's process"))
    hooks: tuple[str, ...] = field(metadata=says("safety checks turned off in its environment"))
    exit_code: int | None = field(metadata=says("null: it outlived its deadline and was killed"))
    deadline_s: float = field(metadata=says("given to it", "s"))
    started_s: float = field(metadata=says("since the gate began", "s"))
    elapsed_s: float = field(metadata=says("from its start to its end", "s"))
    fields: tuple[NamedField, ...] = field(metadata=says("what the refusal names"))
    decisions: int | None = field(
        metadata=says(
            "taken in by a learner of its own; null: the host's books count it", "decisions"
        )
    )
    optimiser_steps: int | None = field(
        metadata=says("of a learner of its own; null: the host's books count them", "steps")
    )
    contact: Contact | None = field(metadata=says("what followed; null: nothing was tried"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The learner that faced every wrong peer, by its own record; nobody valid sent it a decision."""

    run_id: str = field(metadata=says("of the learner"))
    decisions: int = field(metadata=says("taken in", "decisions"))
    optimiser_steps: int = field(metadata=says("taken", "steps"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tooth:
    """A case with a check disabled on purpose; it must be judged as not refused."""

    disabled: str = field(metadata=says("the check"))
    reported: tuple[str, ...] | None = field(
        metadata=says("checks that the process wrote as disabled; null: it wrote nothing")
    )
    case: Case = field(metadata=says("judged by the same function as the others"))
