"""What is known about a run and its last checkpoint, from records: the only source of a model card.

Owns the reading and the checks: the checkpoint is intact, results are verified and of these weights, a bundle
is verified. Refuses to word anything. Read `pirl.publish.card` next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pirl.audit.criterion import Verdict
from pirl.audit.verify import verify_bundle
from pirl.checkpoint.layout import POLICY_WEIGHTS
from pirl.checkpoint.locate import newest_step
from pirl.checkpoint.manifest import verify_manifest
from pirl.checkpoint.record import read_record
from pirl.config.weights_header import WEIGHTS_FILE
from pirl.errors import CheckpointError, EvidenceError, FieldMismatch, MismatchError, UsageError
from pirl.evaluation.folder import EvalFolder
from pirl.evaluation.verify import compare_folders, verify_folder
from pirl.journal.fields import file_sha256, mapping, read_object
from pirl.journal.metric_log import read_json_lines
from pirl.journal.stats import Rate, format_rate
from pirl.resources import locate
from pirl.runtime.layout import RunFolder

_WINDOW = 0.1
"""Share of the updates, at either end, whose training episodes are counted together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Training episodes of one task at both ends of a run; None where it was not played there."""

    task: str
    start: Rate | None
    end: Rate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run, its last checkpoint, and what was measured on it."""

    checkpoint: Path
    run_id: str
    config: Mapping[str, Any]
    """Canonical config, without what is host-local."""
    config_hash: str
    environment: str
    updates: int
    exit_reason: str
    """Of the learner, or the kind of its error; empty while it runs."""
    books: Mapping[str, Any]
    versions: Mapping[str, str]
    weights_sha256: str
    """Of the file."""
    window: int
    """Updates at either end."""
    training: tuple[Counts, ...]
    before: EvalFolder | None
    is_before_checked: bool
    """Whether the weights of `before` were compared with those that the run started from: they may be gone."""
    after: EvalFolder | None
    comparison: str
    """Paired test of both; empty without both."""
    bundle: Mapping[str, str] | None
    """Verdict and digest; null without one."""

    @property
    def seed(self) -> int:
        return int(self.config["seed"])


def read_facts(
    run: Path, *, before: Path | None = None, after: Path | None = None, bundle: Path | None = None
) -> Facts:
    """Everything that the card may say.

    Raises:
        UsageError: no run folder.
        CheckpointError: no complete checkpoint, or a damaged one.
        EvidenceError: results or bundle do not hold.
        MismatchError: the results of `after` are of other weights, or `before` has other episodes.
    """
    folder = RunFolder(run)
    if not folder.run_record.is_file():
        raise UsageError(f"pirl push: {run} is no run folder: there is no learner/run.json")
    step = newest_step(run / "checkpoints")
    problems = [str(problem) for problem in verify_manifest(step)]
    if problems:
        raise CheckpointError(f"{step} is damaged and not pushed", parts=problems)
    record, learner = read_record(step), read_object(folder.run_record)
    updates, weights = int(record["step"]), file_sha256(step / POLICY_WEIGHTS)
    before_folder = None if before is None else verify_folder(before)
    after_folder = None if after is None else verify_folder(after)
    start = _start_weights(record["config"])
    if before_folder is not None and start is not None:
        _require_weights(before_folder, start, option="--before")
    if after_folder is not None:
        _require_weights(after_folder, weights, option="--after")
    window = max(1, round(_WINDOW * updates))
    return Facts(
        checkpoint=step,
        run_id=record["run_id"],
        config=record["config"],
        config_hash=record["identity"]["config_hash"],
        environment=str(mapping(learner, "identity")["environment"]),
        updates=updates,
        exit_reason=str(learner.get("exit_reason", "")).partition(":")[0],
        books=record["counters"]["books"],
        versions=record["versions"],
        weights_sha256=weights,
        window=window,
        training=_training(folder, updates=updates, window=window),
        before=before_folder,
        is_before_checked=start is not None,
        after=after_folder,
        comparison=str(compare_folders(before, after).overall) if before and after else "",
        bundle=None if bundle is None else _bundle(bundle),
    )


def _training(folder: RunFolder, *, updates: int, window: int) -> tuple[Counts, ...]:
    rows = [
        r for r in read_json_lines(folder.episodes, allow_torn_tail=True) if r["update"] <= updates
    ]
    tasks = dict.fromkeys(str(row["task"]) for row in rows)
    return tuple(
        Counts(
            task=task,
            start=_rate([r for r in rows if r["task"] == task and r["update"] <= window]),
            end=_rate([r for r in rows if r["task"] == task and r["update"] > updates - window]),
        )
        for task in sorted(tasks)
    )


def _rate(rows: Sequence[Mapping[str, Any]]) -> Rate | None:
    return (
        Rate(successes=sum(bool(r["success"]) for r in rows), episodes=len(rows)) if rows else None
    )


def _start_weights(config: Mapping[str, Any]) -> str | None:
    """Digest of the weights file that the run started from; None where it is not here."""
    start = config["policy"].get("pretrained_path")
    file = locate(start) / WEIGHTS_FILE if start else None
    return file_sha256(file) if file is not None and file.is_file() else None


def _require_weights(results: EvalFolder, weights: str, *, option: str) -> None:
    files: Mapping[str, Any] = results.identity["policy"].get("files_sha256", {})
    found = files.get(WEIGHTS_FILE)
    if found != weights:
        wrong = FieldMismatch(field=f"sha256 of {WEIGHTS_FILE}", ours=weights, theirs=found)
        where = f"{results.root.name} is not of the policy that {option} is for"
        raise MismatchError(where, [wrong], sides=("run", option))


def _bundle(bundle: Path) -> Mapping[str, str]:
    report = verify_bundle(bundle)
    if report.verdict is None or not report.is_intact:
        raise EvidenceError(f"{bundle.name} does not hold", problems=report.reasons)
    verdict = report.verdict
    return {
        "verdict": verdict.label,
        "criteria": f"{verdict.count(Verdict.PASSED)} of {verdict.total}",
        "digest": str(report.digest),
        "profile": verdict.profile,
        "config_hash": verdict.config_hash,
    }


def rate_text(rate: Rate | None) -> str:
    """Counts with their interval, or that there was no episode."""
    return "no episode" if rate is None else format_rate(rate.successes, rate.episodes)
