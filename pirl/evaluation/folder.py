"""The result folder: schedule before the first episode, a record after each, figures at the end.

Owns the files and their format. Refuses to overwrite a folder and to read one whose files do not fit
together. Read `pirl.evaluation.verify` next.

    schedule.json            the plans, written before a simulator starts
    episodes.jsonl           one record per episode, in the order of the schedule; where its simulator crashed,
                             with the reason in `crash`
    eval_info.json           identity, digests, figures, videos
    lerobot/eval_info.json   the same figures as `lerobot-eval` writes them
    videos/                  optional
    run.json                 how the process ended; no figure follows from it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pirl.config.strictjson import parse_json
from pirl.errors import ConfigError, EvidenceError, FieldError
from pirl.evaluation.crashes import is_crashed
from pirl.evaluation.lerobot_form import lerobot_info
from pirl.evaluation.results import METHOD, METHOD_1, check_records, compute_results
from pirl.files import Appender, require_space, write_json, write_text
from pirl.journal.codec import from_json
from pirl.journal.fields import (
    file_sha256,
    mapping,
    objects,
    read_object,
    text,
)
from pirl.ownership import contents
from pirl.records import EpisodePlan, EpisodeRecord

FORMAT = 2
"""2 knows episodes whose simulator crashed; folders of format 1 are read as they are."""
METHODS = {1: METHOD_1, 2: METHOD}
_CRASH = "crash"
_RECORD_BYTES, _VIDEO_BYTES = 1024, 4 * 2**20
"""Room for a plan or record, and for a video."""

SCHEDULE, EPISODES, INFO = "schedule.json", "episodes.jsonl", "eval_info.json"
LEROBOT_INFO = f"lerobot/{INFO}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFolder:
    """A complete result folder, read and checked for its form."""

    root: Path
    plans: tuple[EpisodePlan, ...]
    records: tuple[EpisodeRecord, ...]
    crashes: Mapping[int, str]
    """Reason by episode id."""
    info: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """Policy, environment, sampler, seed, versions."""
        return mapping(self.info, "identity")


def require_new(root: Path) -> None:
    """Stop before a policy is built for a folder that is taken.

    Raises:
        ConfigError: the folder exists and is not empty.
    """
    if contents(root) or (root.exists() and not root.is_dir()):
        error = FieldError(
            field="--out", value=str(root), expected="a new or empty folder", fix="choose another"
        )
        raise ConfigError([error], source="command line")


def create_folder(root: Path, plans: Sequence[EpisodePlan], *, videos: int = 0) -> None:
    """Make the folder and write the schedule into it.

    Args:
        videos: how many will be written, at most.

    Raises:
        ConfigError: the folder exists and is not empty.
        EnvironmentNotReadyError: it cannot be written, or has no room for records and videos.
    """
    require_new(root)
    need = len(plans) * 2 * _RECORD_BYTES + videos * _VIDEO_BYTES + _RECORD_BYTES
    require_space(
        root,
        need,
        what=f"the records of {len(plans)} episodes and {videos} videos",
        fix="lower --videos",
    )
    _write(root / SCHEDULE, {"format": FORMAT, "plans": [asdict(plan) for plan in plans]})


def append_record(root: Path, record: EpisodeRecord, *, crash: str | None = None) -> None:
    """Add one record as it ends: a crash later keeps what was run, though no figure comes of it."""
    with Appender(root / EPISODES) as file:
        file.write(_row(record, crash).encode())


def finish_folder(
    root: Path,
    *,
    plans: Sequence[EpisodePlan],
    records: Sequence[EpisodeRecord],
    identity: Mapping[str, Any],
    videos: Sequence[Mapping[str, Any]],
    crashes: Mapping[int, str] | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """Write the records in the order of the schedule and `eval_info.json` last.

    Args:
        crashes: reasons by episode id.
        seconds: what the episodes took, for LeRobot's form of the figures.

    Returns:
        The content of `eval_info.json`.

    Raises:
        EvidenceError: the records are not those of the schedule.
    """
    check_records(plans, records)
    reasons = dict(crashes or {})
    write_text(root / EPISODES, "".join(_row(r, reasons.get(r.episode_id)) for r in records))
    (root / LEROBOT_INFO).parent.mkdir(exist_ok=True)
    _write(root / LEROBOT_INFO, lerobot_info(records, videos=videos, seconds=seconds))
    info = {
        "format": FORMAT,
        "method": METHODS[FORMAT],
        "identity": dict(identity),
        "sha256": {name: file_sha256(root / name) for name in (SCHEDULE, EPISODES, LEROBOT_INFO)},
        "videos": list(videos),
        **figures(records, reasons, form=FORMAT),
    }
    _write(root / INFO, info)
    return info


def figures(
    records: Sequence[EpisodeRecord], crashes: Mapping[int, str], *, form: int
) -> dict[str, Any]:
    """Every figure of `eval_info.json` that follows from the records, in a format of the folder."""
    found = compute_results(records).to_json()
    if form == 1:
        return found
    wanted = ("episode_id", "task", "init_state_id", "seed")
    listed = [
        {name: getattr(record, name) for name in wanted} | {"reason": crashes[record.episode_id]}
        for record in records
        if record.episode_id in crashes
    ]
    return found | {"crashes": listed}


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
        from_json(EpisodePlan, item, where=f"{SCHEDULE}: plan {n}")
        for n, item in enumerate(objects(read_object(root / SCHEDULE), "plans"), start=1)
    ]
    try:
        lines = (root / EPISODES).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{EPISODES} cannot be read as UTF-8 text: {error}") from error
    rows = [_object(line, n) for n, line in enumerate(lines, start=1)]
    info = read_object(root / INFO)
    form = info.get("format")
    if not isinstance(form, int) or form not in METHODS:
        raise EvidenceError(f"{INFO}: format {form!r}, this code reads 1 to {FORMAT}")
    plain = [{name: row[name] for name in row if name != _CRASH} for row in rows]
    records = [
        from_json(EpisodeRecord, row, where=f"{EPISODES} line {n}")
        for n, row in enumerate(plain, start=1)
    ]
    pairs = zip(records, rows, strict=True)
    crashes = {record.episode_id: text(row, _CRASH) for record, row in pairs if _CRASH in row}
    if set(crashes) != {record.episode_id for record in records if is_crashed(record)}:
        raise EvidenceError(f"{EPISODES}: a crash without a reason, or a reason without a crash")
    return EvalFolder(
        root=root, plans=tuple(plans), records=tuple(records), crashes=crashes, info=info
    )


def _row(record: EpisodeRecord, crash: str | None) -> str:
    row = asdict(record) if crash is None else asdict(record) | {_CRASH: crash}
    return json.dumps(row, sort_keys=True) + "\n"


def _object(line: str, number: int) -> Mapping[str, Any]:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise EvidenceError(f"{EPISODES} line {number} is not JSON") from error
    if not isinstance(value, dict):
        raise EvidenceError(f"{EPISODES} line {number} is not an object")
    return cast("Mapping[str, Any]", value)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_json(path, value, indent=1)
