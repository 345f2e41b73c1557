"""Every error pirl raises on purpose, and the exit code each one ends a process with.

Owns the exception tree and the text format of a teaching error. Knows nothing of configs, tensors
or sockets. Read `pirl.config` next.

    PirlError                    exit code 1
    |-- UsageError               2  the command line is wrong; one line that names what was meant
    |-- ConfigError              2  one or more fields of a config are wrong; carries all of them
    |-- ContractError            2  the policy does not do what the algorithm needs; failed clauses
    |-- EnvironmentNotReadyError 3  a machine lacks something; carries the remedy
    |-- MismatchError            5  two sides disagree; carries each field with both values
    |-- NumericsError            1  not finite, or an invariant broken; carries the first offender
    |   `-- ParityError          1  recorded log-probs do not follow from their decisions; carries the episodes
    |-- TransportError           1  the other side is gone, or sent what no peer may send
    |   `-- LinkClosedError      1  the other side ended or never answered within its deadline
    |-- CheckpointError          1  incomplete, damaged or inconsistent; carries the parts
    |-- EvidenceError            1  missing, malformed or leaking; carries the problems
    `-- EnvError                 1  the simulator failed; carries task and seed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a pirl process returns (product contract; people script against it)."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    NOT_READY = 3
    INTERRUPTED = 4
    MISMATCH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One wrong field: where it is, what it holds, what it may hold, how to mend it."""

    field: str
    value: object
    expected: str
    fix: str

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        return f"{self.field} = {shown}\n  expected: {self.expected}\n  fix: {self.fix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMismatch:
    """One field on which two sides disagree; `ours` is the side that reports."""

    field: str
    ours: object
    theirs: object

    def __str__(self) -> str:
        return f"{self.field}: ours = {self.ours!r}, theirs = {self.theirs!r}"


class PirlError(Exception):
    """Base of all errors that pirl raises on purpose."""

    exit_code: ExitCode = ExitCode.CHECK_FAILED


class UsageError(PirlError):
    """A command line is wrong: an option, a value or a command that there is not."""

    exit_code = ExitCode.USAGE


class ConfigError(PirlError):
    """A config has one or more wrong fields; all of them are in `errors`."""

    exit_code = ExitCode.USAGE

    def __init__(self, errors: Sequence[FieldError], *, source: str = "config") -> None:
        self.errors = tuple(errors)
        self.source = source
        noun = "error" if len(self.errors) == 1 else "errors"
        body = "\n".join(str(error) for error in self.errors)
        super().__init__(f"{source}: {len(self.errors)} {noun}\n{body}")


class ContractError(PirlError):
    """A policy breaks clauses of the flow-policy contract; all of them are in `clauses`."""

    exit_code = ExitCode.USAGE

    def __init__(self, clauses: Sequence[FieldError]) -> None:
        self.clauses = tuple(clauses)
        super().__init__("policy contract broken\n" + "\n".join(str(c) for c in self.clauses))


class EnvironmentNotReadyError(PirlError):
    """This machine lacks something; `remedy` says what to run or install."""

    exit_code = ExitCode.NOT_READY

    def __init__(self, what: str, *, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}\n  fix: {remedy}")


class MismatchError(PirlError):
    """Two sides disagree; every differing field is in `fields` with both values.

    `sides` says in the message what `ours` and `theirs` are, where that is clearer.
    """

    exit_code = ExitCode.MISMATCH

    def __init__(
        self,
        where: str,
        fields: Sequence[FieldMismatch],
        *,
        sides: tuple[str, str] = ("ours", "theirs"),
    ) -> None:
        self.where = where
        self.fields = tuple(fields)
        lines = (
            f"  {f.field}: {sides[0]} = {f.ours!r}, {sides[1]} = {f.theirs!r}" for f in self.fields
        )
        super().__init__(f"{where}: mismatch\n" + "\n".join(lines))


class NumericsError(PirlError):
    """A value is not finite or an invariant of the mathematics is broken."""


class ParityError(NumericsError):
    """Recorded log-probs do not follow from what was sent with them; `gaps` are nats by episode id.

    What is wrong came with the decisions: the learner's own replay repeats itself.
    """

    def __init__(self, message: str, *, gaps: Mapping[int, float]) -> None:
        self.gaps = dict(gaps)
        super().__init__(message)


class TransportError(PirlError):
    """The link failed, or the peer sent what no peer may send."""


class LinkClosedError(TransportError):
    """The other side ended, or did not answer within its deadline."""


class CheckpointError(PirlError):
    """A checkpoint is incomplete, damaged or inconsistent; `parts` names what is wrong."""

    def __init__(self, message: str, *, parts: Sequence[str] = ()) -> None:
        self.parts = tuple(parts)
        detail = "".join(f"\n  {part}" for part in self.parts)
        super().__init__(message + detail)


class EvidenceError(PirlError):
    """Evidence is missing, malformed or would leak; `problems` names each one."""

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        detail = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(message + detail)


class EnvError(PirlError):
    """The simulator failed; the message carries task and seed.

    `slots` are those of the process that failed, where one did in the middle of episodes: one of them is to
    blame.
    """

    def __init__(self, message: str, *, slots: Sequence[int] = ()) -> None:
        self.slots = tuple(slots)
        super().__init__(message)
