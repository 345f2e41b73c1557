"""Several learning runs in one table: seeds, controls and methods side by side, from shared starting policies.

Owns the order of the runs and the table. Every row is an ordinary `run_learning`; rows of one seed start from
the same policy. A row whose record is there already is not run again, and the table says when each was run.
Read `pirl.learning.proof` next.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from pirl.config.load import load_config
from pirl.config.yamlfile import read_section
from pirl.errors import ConfigError, FieldError
from pirl.files import write_text
from pirl.journal.fields import read_object
from pirl.journal.stats import format_rate
from pirl.learning.proof import PRETRAINED, LearnFolder, LearningRunError, run_learning
from pirl.learning.report import RECORD, conclude
from pirl.learning.settings import PARAMS, LearnSettings, read_settings, settings_from
from pirl.learning.track import track_learning
from pirl.learning.warm_start import warm_start
from pirl.resources import locate
from pirl.runtime.procs import logged_lines

logger = logging.getLogger(__name__)

FAILED = "failed.json"


def study_rows(name: str, path: Path = PARAMS) -> dict[str, dict[str, Any]]:
    """The rows of one study in a settings file, by label.

    Raises:
        ConfigError: there is no such study.
    """
    studies = read_section(locate(path), "studies", field="params")
    rows = studies.get(name)
    if not isinstance(rows, Mapping):
        error = FieldError(
            field="studies",
            value=name,
            expected=f"one of {', '.join(sorted(studies))}",
            fix=f"choose one, or add it to {path.name}",
        )
        raise ConfigError([error], source=path.name)
    found = cast("Mapping[str, Any]", rows)
    for label, row in found.items():
        if row is not None and not isinstance(row, Mapping):
            error = FieldError(
                field=f"studies.{name}.{label}",
                value=row,
                expected="settings of `learn`, as keys",
                fix=f"correct {path.name}",
            )
            raise ConfigError([error], source=path.name)
    return {str(label): dict(row or {}) for label, row in found.items()}


def row_settings(row: Mapping[str, Any], base: LearnSettings) -> LearnSettings:
    """The `learn` settings with a row on top; a row's overrides come after the base's."""
    read = settings_from(dict(row))
    given = {name: getattr(read, name) for name in row}
    given["overrides"] = (*base.overrides, *read.overrides)
    return replace(base, **given)


def run_study(name: str, out: Path, *, mlflow: bool, path: Path = PARAMS) -> list[dict[str, Any]]:
    """Run every row of a study in `path` that has no record yet; the rows' summaries in its order.

    Writes `NAME.json` and `NAME.md` into `out` after every row.

    A row whose training was stopped (a control that the live checks refuse) is a record too: its exit code
    and the last line of the learner's log.
    """
    base = read_settings(path)
    records: list[dict[str, Any]] = []
    rows = study_rows(name, path)
    for label, row in tqdm(rows.items(), desc=f"study {name}", file=sys.stderr, disable=None):
        settings = row_settings(row, base)
        folder = LearnFolder(root=out / label.replace(" ", "-"))
        if not any((folder.root / done).exists() for done in (RECORD, FAILED)):
            start = _start(settings, out)
            _run_row(
                replace(settings, start_from=str(start)),
                folder,
                row=f"{name}: {label}" if mlflow else None,
            )
        records.append({"label": label, **_summary(_read(folder))})
        write_text(out / f"{name}.json", json.dumps(records, indent=1) + "\n")
        write_text(out / f"{name}.md", table(records))
    return records


def _start(settings: LearnSettings, out: Path) -> Path:
    """The starting policy of a seed and its tasks, made once."""
    if settings.start_from is not None:
        return Path(settings.start_from)
    # Both variants of a seed share a start; another config may mean other tasks.
    shown = [o for o in settings.overrides if o.startswith(("--env.", "--policy.tokenizer"))]
    made_of = [settings.config, asdict(settings.warm_start), *([shown] if shown else [])]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
    folder = out / "starts" / f"seed-{settings.seed}-{digest}"
    if not (folder / PRETRAINED / "model.safetensors").exists():
        loaded = load_config(settings.config_path, settings.all_overrides)
        warm_start(loaded.cfg, settings.warm_start, seed=settings.seed, folder=folder)
    return folder / PRETRAINED


def _run_row(settings: LearnSettings, folder: LearnFolder, *, row: str | None) -> None:
    try:
        with track_learning(settings, enabled=row is not None, row=row) as conclude_tracked:
            run = run_learning(settings, folder=folder)
            conclude_tracked(conclude(settings, run), run)
    except LearningRunError as error:
        said = [line for line in logged_lines(folder.logs / "learner.log") if line.strip()]
        last = said[-1].rstrip() if said else ""
        record = {"control": settings.control, "stopped": str(error), "last_line": last}
        write_text(folder.root / FAILED, json.dumps(record, indent=1) + "\n")


def _read(folder: LearnFolder) -> dict[str, Any]:
    path = folder.root / RECORD
    found = path if path.exists() else folder.root / FAILED
    return dict(read_object(found))


_SHOWN = (
    "variant",
    "seed",
    "control",
    "actors",
    "config",
    "config_hash",
    "weights_sha256",
    "passed",
    "points",
    "misled",
    "paired",
    "env_steps_per_s",
    "stopped",
    "last_line",
)
"""What a row of a study keeps of the run's own record; no path of the machine is among it."""


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in _SHOWN if name in record}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The study as Markdown: one row per run, then one per task of runs that have several.

    Counts with intervals, never a bare share.
    """
    lines = [
        "| run | start | end | env steps | mean length, start to end | training CPU s | env steps/s "
        "| weights | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        if "stopped" in record:
            lines.append(f"| {record['label']} | | | | | | | | stopped: {record['last_line']} |")
            continue
        first, last = record["points"][0], record["points"][-1]
        verdict = "passed" if record["passed"] else "failed"
        lines.append(
            f"| {record['label']} | {format_rate(first['successes'], first['episodes'])} "
            f"| {format_rate(last['successes'], last['episodes'])} | {last['env_steps']} "
            f"| {first['mean_env_steps']:.1f} to {last['mean_env_steps']:.1f} "
            f"| {last['cpu_s']:.0f} | {record['env_steps_per_s']} "
            f"| `{record['weights_sha256'][:8]}` | {verdict} |"
        )
    several = [record for record in records if "misled" in record]
    if several:
        lines += [
            "",
            "| run | task | start | end | end, told another task |",
            "|---|---|---|---|---|",
            *(line for record in several for line in _task_lines(record)),
        ]
    return "\n".join([*lines, ""])


def _task_lines(record: Mapping[str, Any]) -> list[str]:
    first, last = record["points"][0], record["points"][-1]
    return [
        f"| {record['label']} | {task} "
        + "".join(
            f"| {format_rate(counts[task]['successes'], counts[task]['episodes'])} "
            for counts in (first["tasks"], last["tasks"], record["misled"])
        )
        + "|"
        for task in last["tasks"]
    ]
