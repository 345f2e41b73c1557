"""What a reviewer sees in the tracker: description, saved view, tags and parameters. Pure text.

Owns names and wording. Imports no tracker: the only door to one is `pirl.tracking.sink`.
Read that next.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pirl.audit.criterion import CriterionResult, Verdict
from pirl.audit.judge import GateVerdict
from pirl.audit.policy import CLAIM, GATE, NON_CLAIM, PASS_RULE
from pirl.audit.records.metadata import Run, Source
from pirl.config.yamlfile import read_yaml
from pirl.errors import EvidenceError

EXPERIMENT = GATE
VIEW_KEY = "gate-audit"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
"""Internal to the tracker's UI: if the format changes, only the view is lost."""

NOTE_TAG = "mlflow.note.content"
COLOR_TAG = "mlflow.runColor"
KIND_TAG = "gate.kind"
"""Only the parent run of a gate has it."""
CRITERIA_FILE = "criteria.json"
"""Table of criteria among the artifacts of a step; those of the gate itself are the bundle and nothing else."""
MAX_PARAM_CHARS = 500
_RUNNING = "running"
_NOT_LIBERO = {"passed (fallback": "FALLBACK", "passed (own": "OWN"}
"""Beginning of a label, and what a run's name begins with."""

COLUMNS = (
    "tags.`gate.verdict`", "metrics.`criteria_passed`", "metrics.`criteria_total`",
    "tags.`variant`", "tags.`profile`", "tags.`launched_by`", "tags.`git.sha`", "tags.`git.dirty`",
)  # fmt: skip


def experiment_note() -> str:
    """Description of the experiment."""
    return (
        "## What a run here is\n\nOne run is one phase-2 gate: validate-config, smoke-run, "
        f"resume-roundtrip, mismatch-negative, each as a child run. {CLAIM}\n\n"
        f"**Verdict**: {PASS_RULE}. A failed or incomplete gate has status FAILED, a cancelled one "
        f"KILLED. {NON_CLAIM}\n\nOpen `report.html` among the artifacts of a run first. The "
        "artifacts are the evidence bundle: download them and run `pirl verify`.\n\n"
        f"Saved view with one row per gate: append `&viewStateShareKey={VIEW_KEY}`."
    )


def saved_view(*, now_ms: int) -> str:
    """Value of `VIEW_TAG`: parent runs only, with the columns a reviewer needs."""
    state = {
        "searchFilter": f"tags.`{KIND_TAG}` = 'gate'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    named = {"name": "gate audit", "createdAt": now_ms, "updatedAt": now_ms}
    return json.dumps(named | {"state": f"deflate;{packed}"})


def run_name(*, variant: str, commit: str, label: str | None) -> str:
    """`PASSED flow-sde 1a2b3c4`, `FALLBACK passed ...`, `OWN passed ...`; without a label it is running.

    The verdict comes first and another profile than LIBERO's before that: the tracker's table cuts a name
    after about twenty characters.
    """
    word = _RUNNING if label is None else label.upper()
    for begin, shown in _NOT_LIBERO.items():
        if label is not None and label.startswith(begin):
            word = f"{shown} passed"
    return f"{word} {variant} {commit[:7]}"


def ended_name(name: str, word: str) -> str:
    """`running flow-sde 1a2b3c4` as `CANCELLED flow-sde 1a2b3c4`; other names stay."""
    ended = name.removeprefix(f"{_RUNNING} ")
    return name if ended == name else f"{word.upper()} {ended}"


def run_color(label: str) -> str:
    """Colour of a run's dot; the tracker's own choice means nothing and looks like a verdict."""
    if label == "passed":
        return "#1a7f4b"
    if label.startswith("passed (own"):
        return "#2a5db0"
    if label.startswith("passed ("):
        return "#9a6700"
    return "#b42318" if label in ("failed", "crashed") else "#6b7280"


def verdict_note(verdict: GateVerdict, *, bundle_digest: str, commit: str) -> str:
    """Description of a gate's run: the verdict in the first line, then every step."""
    lines = [
        f"## Verdict: {verdict.label.upper()}",
        "",
        f"{verdict.count(Verdict.PASSED)} of {verdict.total} criteria passed. Open `report.html` among the "
        "artifacts: every criterion, pictures, a video.",
        "",
        "| step | verdict | criteria not passed |",
        "|---|---|---|",
    ]
    for step, word in verdict.steps.items():
        bad = [r.name for r in verdict.results[step] if r.verdict != Verdict.PASSED]
        lines.append(f"| {step} | {word} | {', '.join(bad) or '-'} |")
    lines += [
        "",
        f"{verdict.variant}, profile {verdict.profile}; commit `{commit}`, config "
        f"`{verdict.config_hash}`, bundle `{bundle_digest}`",
    ]
    return "\n".join(lines)


def verdict_tags(verdict: GateVerdict, *, bundle_digest: str) -> dict[str, str]:
    """Tags that follow from a verdict."""
    return {
        "gate.verdict": verdict.label,
        COLOR_TAG: run_color(verdict.label),
        "variant": verdict.variant,
        "profile": verdict.profile,
        "numerics": verdict.numerics,
        "config.path": verdict.config_path,
        "config.sha256": verdict.config_hash,
        "bundle.sha256": bundle_digest,
    }


def criteria_table(results: Iterable[CriterionResult]) -> dict[str, list[str]]:
    """Columns of the table of criteria; what did not pass comes first."""
    ordered = sorted(results, key=lambda result: result.verdict == Verdict.PASSED)
    rows = [
        (
            str(r.verdict),
            r.name,
            str(r.measured),
            f"{r.comparator} {r.threshold} {r.unit}".strip(),
            r.detail,
        )
        for r in ordered
    ]
    names = ("verdict", "criterion", "measured", "required", "detail")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def run_tags(run: Run, source: Source) -> dict[str, str]:
    """Tags of `metadata/run.json` and `metadata/source.json`; the tracker's own columns as well."""
    return {
        "launched_by": str(run.launched_by),
        "nonce": str(run.nonce),
        "policy.sha256": str(run.policy_digest),
        "git.sha": str(source.git_commit),
        "git.dirty": str(source.git_dirty).lower(),
        "git.patch.sha256": str(source.patch_sha256),
        "mlflow.source.git.commit": str(source.git_commit),
        "mlflow.source.name": "pirl gate",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": "pirl",
    }


def flat_params(config: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """A nested config as dotted names with short texts."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flat_params(value, prefix=f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[name] = text[:MAX_PARAM_CHARS]
    return flat


def dvc_tags(lock_file: Path, stage: str) -> dict[str, str]:
    """MD5 of every dependency and output of a DVC stage, as tags; empty without a lock file.

    Raises:
        EvidenceError: the lock file is damaged.
    """
    if not lock_file.is_file():
        return {}
    try:
        entries = (read_yaml(lock_file) or {}).get("stages", {}).get(stage, {})
        tags = {"dvc.stage": stage} if entries else {}
        for kind in ("deps", "outs"):
            for entry in entries.get(kind, []):
                tags[f"dvc.{kind.removesuffix('s')}.{entry['path']}"] = str(entry.get("md5"))
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise EvidenceError(f"{lock_file.name} is not a lock file of DVC: {error}") from error
    return tags
