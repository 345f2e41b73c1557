"""The result folder: schedule before the first episode, a record after each, figures at the end.

Owns the files and their format. Refuses to overwrite a folder and to read one whose files do not fit
together. Read `pirl.evaluation.verify` next.

    schedule.json    the plans, written before a simulator starts
    episodes.jsonl   one record per episode, in the order of the schedule
    eval_info.json   identity, digests of both, figures, videos
    videos/          optional
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from pirl.errors import ConfigError, EvidenceError, FieldError
from pirl.evaluation.results import METHOD, check_records, compute_results
from pirl.evidence import raw
from pirl.evidence.metric_log import strict_json
from pirl.evidence.raw import file_sha256, read_object
from pirl.records import EpisodePlan, EpisodeRecord

FORMAT = 1
SCHEDULE, EPISODES, INFO = "schedule.json", "episodes.jsonl", "eval_info.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFolder:
    """A complete result folder, read and checked for its form."""

    root: Path
    plans: tuple[EpisodePlan, ...]
    records: tuple[EpisodeRecord, ...]
    info: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Policy, environment, sampler, seed, versions."""
        return raw.mapping(self.info, "identity")


def create_folder(root: Path, plans: Sequence[EpisodePlan]) -> None:
    """Make the folder and write the schedule into it.

    Raises:
        ConfigError: the folder exists and is not empty.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        error = FieldError(
            field="--out", value=str(root), expected="a new or empty folder", fix="choose another"
        )
        raise ConfigError([error], source="evaluation")
    root.mkdir(parents=True, exist_ok=True)
    _write(root / SCHEDULE, {"format": FORMAT, "plans": [asdict(plan) for plan in plans]})


def append_record(root: Path, record: EpisodeRecord) -> None:
    """Add one record as it ends: a crash later keeps what was run, though no figure comes of it."""
    with (root / EPISODES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record), sort_keys=True) + "\n")


def finish_folder(
    root: Path,
    *,
    plans: Sequence[EpisodePlan],
    records: Sequence[EpisodeRecord],
    identity: Mapping[str, Any],
    videos: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the records in the order of the schedule and `eval_info.json` last.

    Returns:
        The content of `eval_info.json`.

    Raises:
        EvidenceError: the records are not those of the schedule.
    """
    check_records(plans, records)
    lines = [json.dumps(asdict(record), sort_keys=True) + "\n" for record in records]
    (root / EPISODES).write_text("".join(lines), encoding="utf-8")
    info = {
        "format": FORMAT,
        "method": METHOD,
        "identity": dict(identity),
        "sha256": {name: file_sha256(root / name) for name in (SCHEDULE, EPISODES)},
        "videos": list(videos),
        **compute_results(records).to_json(),
    }
    _write(root / INFO, info)
    return info


def read_folder(root: Path) -> EvalFolder:
    """Read a result folder; figures are not recomputed here.

    Raises:
        EvidenceError: a file is missing or malformed, or the evaluation did not end.
    """
    for name in (SCHEDULE, EPISODES, INFO):
        if not (root / name).is_file():
            raise EvidenceError(
                f"{root.name}: no {name}; not a result folder, or the evaluation did not end"
            )
    plans = [
        _record(EpisodePlan, item) for item in raw.objects(read_object(root / SCHEDULE), "plans")
    ]
    records = [
        _record(EpisodeRecord, _object(line, number))
        for number, line in enumerate((root / EPISODES).read_text("utf-8").splitlines(), start=1)
    ]
    info = read_object(root / INFO)
    if info.get("format") != FORMAT:
        raise EvidenceError(f"{INFO}: format {info.get('format')!r}, this code reads {FORMAT}")
    return EvalFolder(root=root, plans=tuple(plans), records=tuple(records), info=info)


def _record[T: (EpisodePlan, EpisodeRecord)](kind: type[T], item: Mapping[str, Any]) -> T:
    """A record with exactly the fields and types of its class."""
    read = {"int": raw.integer, "float": raw.number, "bool": raw.boolean, "str": raw.text}
    names = [field.name for field in fields(kind)]
    if set(item) != set(names):
        raise EvidenceError(f"{kind.__name__}: fields {sorted(item)}, expected {sorted(names)}")
    values: dict[str, Any] = {f.name: read[str(f.type)](item, f.name) for f in fields(kind)}
    return kind(**values)


def _object(line: str, number: int) -> Mapping[str, Any]:
    try:
        value = strict_json(line)
    except ValueError as error:
        raise EvidenceError(f"{EPISODES} line {number} is not JSON") from error
    if not isinstance(value, dict):
        raise EvidenceError(f"{EPISODES} line {number} is not an object")
    return cast("Mapping[str, Any]", value)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
