"""Checking a bundle offline: nothing it says about itself is believed, everything is recomputed.

Owns the order of the checks and `pirl verify`. Needs no GPU, no network and no other file of the
run. Trusts its own code only: thresholds come from `pirl.audit.policy`, values from raw records.
Read `pirl.audit.verify_checks` next.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl.audit import verify_agreement
from pirl.audit import verify_checks as checks
from pirl.audit import verify_ties as ties
from pirl.audit.arguments import verify_parser
from pirl.audit.bundle import unfit_files
from pirl.audit.criterion import Verdict
from pirl.audit.derive import read_metadata
from pirl.audit.findings import Expected, Problem
from pirl.audit.judge import MALFORMED, GateVerdict, judge_gate
from pirl.audit.raw import RawRecords
from pirl.audit.records.files import STEPS
from pirl.audit.records.metadata import Run
from pirl.audit.signature import load_public_key
from pirl.audit.statement import MANIFEST
from pirl.config.command_line import parse
from pirl.errors import ExitCode
from pirl.journal.fields import file_sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verifier found out about a bundle."""

    verdict: GateVerdict | None
    """Recomputed; None when the folder could not even be read as a bundle."""
    digest: str | None
    """SHA-256 of `manifest.json`."""
    problems: tuple[Problem, ...]
    signature: str = "not signed"
    """Whether the statement is signed, by whom, and whether that was checked."""

    @property
    def is_intact(self) -> bool:
        """Whether nothing was altered, added, left out or expected otherwise."""
        return not self.problems

    @property
    def is_accepted(self) -> bool:
        """Whether the bundle is intact and the recomputed verdict is passed."""
        passed = self.verdict is not None and self.verdict.verdict == Verdict.PASSED
        return self.is_intact and passed

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.is_accepted else ExitCode.CHECK_FAILED

    @property
    def reasons(self) -> list[str]:
        """Why the bundle is not accepted; empty when it is."""
        found = [str(problem) for problem in self.problems]
        if self.verdict is not None:
            for step in STEPS:
                for result in self.verdict.results[step]:
                    if result.verdict != Verdict.PASSED:
                        found.append(f"{result.verdict}: {result.name}: {result.detail}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The report for a program."""
        verdict = self.verdict
        return {
            "accepted": self.is_accepted,
            "intact": self.is_intact,
            "verdict": None if verdict is None else str(verdict.verdict),
            "label": None if verdict is None else verdict.label,
            "bundle_digest": self.digest,
            "signature": self.signature,
            "problems": [
                {"check": p.check, "where": p.where, "what": p.what} for p in self.problems
            ],
            "recomputed": None if verdict is None else verdict.to_json(),
            "not_passed": []
            if verdict is None
            else [
                result.to_json()
                for step in STEPS
                for result in verdict.results[step]
                if result.verdict != Verdict.PASSED
            ],
        }

    def to_text(self) -> str:
        """The report for a person: the answer first, then every reason."""
        if self.verdict is None:
            head = "NOT A BUNDLE"
        elif self.is_accepted:
            head = f"ACCEPTED: {self.verdict.label}"
        elif self.is_intact:
            head = f"NOT ACCEPTED: intact, verdict {self.verdict.label}"
        else:
            head = f"NOT ACCEPTED: {len(self.problems)} problems with the bundle itself"
        lines = [head]
        if self.verdict is not None:
            passed = self.verdict.count(Verdict.PASSED)
            lines.append(f"recomputed from raw records: {passed} of {self.verdict.total} passed")
            lines.append(f"profile {self.verdict.profile}, variant {self.verdict.variant}")
        lines.append(f"bundle digest {self.digest}, {self.signature}")
        return "\n".join([*lines, *(f"  {reason}" for reason in self.reasons)]) + "\n"


def verify_bundle(
    path: Path,
    *,
    expect_commit: str | None = None,
    expect_config_hash: str | None = None,
    expect_nonce: str | None = None,
    expect_digest: str | None = None,
    key: Path | None = None,
) -> VerifyReport:
    """Check a bundle and recompute its verdict. A bad bundle is a report and no error.

    Args:
        path: the bundle folder.
        expect_commit: git commit, or its first 7 characters or more, that the run must be about.
        expect_config_hash: config hash, or its first 7 characters or more.
        expect_nonce: the nonce that was noted when the gate started; finds a replay.
        expect_digest: the bundle digest that was noted when the gate ended; finds a forgery.
        key: PEM file of the Ed25519 key that must have signed it; finds a forgery.

    Raises:
        ConfigError: `key` is no such key.
    """
    public = None if key is None else load_public_key(key)
    unreadable = checks.unreadable(path)
    if unreadable:
        return VerifyReport(verdict=None, digest=None, problems=tuple(unreadable))
    expected = Expected(
        commit=expect_commit,
        config_hash=expect_config_hash,
        nonce=expect_nonce,
        digest=expect_digest,
    )
    verdict = judge_gate(RawRecords(path))
    problems = [problem for check in _checks(path, verdict, expected, public) for problem in check]
    return VerifyReport(
        verdict=verdict,
        digest=file_sha256(path / MANIFEST),
        problems=tuple(problems),
        signature=_signature_in_words(path, is_checked=public is not None),
    )


def _signature_in_words(path: Path, *, is_checked: bool) -> str:
    try:
        signed_by = read_metadata(path, "run", Run).signed_by
    except MALFORMED:
        return "not signed"
    if signed_by is None:
        return "not signed"
    how = "checked" if is_checked else "not checked; --key checks it"
    return f"signed by the key {signed_by[:12]} ({how})"


def _checks(
    path: Path, verdict: GateVerdict, expected: Expected, key: Ed25519PublicKey | None
) -> Iterator[list[Problem]]:
    steps: dict[str, Callable[[], list[Problem]]] = {
        "manifest": lambda: checks.manifest(path),
        "content": lambda: unfit_files(path),
        "files": lambda: checks.file_set(path),
        "record": lambda: checks.records(path),
        "chain": lambda: ties.chain(path),
        "metadata": lambda: [*ties.metadata(path), *ties.command(path, verdict)],
        "config": lambda: ties.config(path),
        "log": lambda: ties.log_texts(path),
        "agreement": lambda: verify_agreement.agreement(RawRecords(path).once()),
        "derived": lambda: checks.derived(path, verdict),
        "report": lambda: checks.reports(path),
        "statement": lambda: checks.statement(path, verdict),
        "signature": lambda: ties.signature(path, key),
        "stale": lambda: checks.staleness(path, verdict, expected),
    }
    for name, check in steps.items():
        try:
            yield check()
        except MALFORMED as error:
            yield [Problem(name, "bundle", f"cannot be checked: {error!r}")]


def verify_main(argv: Sequence[str]) -> int:
    """`pirl verify BUNDLE`: exit code 0 only if the bundle is intact and the gate passed."""
    args, _ = parse(verify_parser(), argv)
    report = verify_bundle(
        args.bundle,
        expect_commit=args.expect_commit,
        expect_config_hash=args.expect_config_hash,
        expect_nonce=args.expect_nonce,
        expect_digest=args.expect_digest,
        key=args.key,
    )
    as_json = json.dumps(report.to_json(), indent=1, sort_keys=True) + "\n"
    sys.stdout.write(as_json if args.json else report.to_text())
    return int(report.exit_code)


main = verify_main
"""Entry point of the command."""
