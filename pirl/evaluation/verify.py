"""Recompute every figure of a result folder from its episode records, and compare two folders pair by pair.

Owns the two checks behind `pirl eval --verify` and `--compare`. Believes the records and nothing else. Read
`pirl.evaluation.main` next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pirl.errors import EvidenceError, FieldMismatch, MismatchError
from pirl.evaluation.folder import (
    EPISODES,
    LEROBOT_INFO,
    METHODS,
    SCHEDULE,
    EvalFolder,
    figures,
    read_folder,
)
from pirl.evaluation.results import check_records, suite_of
from pirl.journal import fields
from pirl.journal.fields import file_sha256
from pirl.journal.media import inside
from pirl.journal.stats import PairedTest, mcnemar
from pirl.records import EpisodePlan, EpisodeRecord

SAME_PROTOCOL = ("env", "split", "seed")
"""Identity fields that must agree before two result folders are compared."""


def verify_folder(root: Path) -> EvalFolder:
    """The folder, after every figure in it was computed again.

    Raises:
        EvidenceError: a file is missing or malformed, or names each figure that differs.
    """
    folder = read_folder(root)
    check_records(folder.plans, folder.records)
    form: int = folder.info["format"]
    wanted = figures(folder.records, folder.crashes, form=form) | {"method": METHODS[form]}
    problems = [
        line
        for name, value in wanted.items()
        for line in _differ(name, folder.info.get(name), value)
    ]
    digests = fields.mapping(folder.info, "sha256")
    for name in (SCHEDULE, EPISODES) if form == 1 else (SCHEDULE, EPISODES, LEROBOT_INFO):
        if not (root / name).is_file() or digests.get(name) != file_sha256(root / name):
            problems.append(f"{name} is not the file that was written")
    for video in fields.objects(folder.info, "videos"):
        path = root / inside(fields.text(video, "file"))
        if not path.is_file() or file_sha256(path) != video.get("sha256"):
            problems.append(f"{video['file']} is not the file that was written")
    if problems:
        raise EvidenceError(f"{root.name} does not hold", problems=problems)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two policies on the same episodes."""

    overall: PairedTest
    per_suite: Mapping[str, PairedTest]
    only_a: tuple[EpisodeRecord, ...]
    only_b: tuple[EpisodeRecord, ...]
    differences: tuple[FieldMismatch, ...]
    """What else differs between the two evaluations: sampler settings, versions, device."""

    def to_json(self) -> dict[str, Any]:
        return {
            "overall": _test_json(self.overall),
            "per_suite": {name: _test_json(test) for name, test in self.per_suite.items()},
            "only_a": [_episode(record) for record in self.only_a],
            "only_b": [_episode(record) for record in self.only_b],
            "differences": [asdict(item) for item in self.differences],
        }


def compare_folders(a: Path, b: Path) -> Comparison:
    """Exact paired test of two verified folders with the same schedule.

    Raises:
        EvidenceError: a folder does not hold.
        MismatchError: the first difference of the schedules, or every difference of the protocols.
    """
    left, right = verify_folder(a), verify_folder(b)
    _require_same(left, right)
    pairs = list(zip(left.records, right.records, strict=True))
    suites = dict.fromkeys(suite_of(record.task) for record in left.records)
    return Comparison(
        overall=_test(pairs),
        per_suite={s: _test([p for p in pairs if suite_of(p[0].task) == s]) for s in suites},
        only_a=tuple(x for x, y in pairs if x.success and not y.success),
        only_b=tuple(y for x, y in pairs if y.success and not x.success),
        differences=tuple(_differences(left.identity, right.identity)),
    )


def _require_same(left: EvalFolder, right: EvalFolder) -> None:
    sides = ("A", "B")
    wrong = [
        FieldMismatch(field=name, ours=left.identity.get(name), theirs=right.identity.get(name))
        for name in SAME_PROTOCOL
        if left.identity.get(name) != right.identity.get(name)
    ]
    if wrong:
        raise MismatchError("evaluations of different episodes", wrong, sides=sides)
    first = next(_plan_differences(left.plans, right.plans), None)
    if first is not None:
        raise MismatchError("schedules differ; the first difference", [first], sides=sides)
    names = [(x.task, y.task) for x, y in zip(left.records, right.records, strict=True)]
    for index, (x, y) in enumerate(names):
        if x != y:
            found = FieldMismatch(field=f"episode {index}: task", ours=x, theirs=y)
            raise MismatchError("schedules differ; the first difference", [found], sides=sides)


def _plan_differences(
    a: tuple[EpisodePlan, ...], b: tuple[EpisodePlan, ...]
) -> Iterator[FieldMismatch]:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        for name, value in asdict(x).items():
            if value != getattr(y, name):
                field = f"episode {index}: {name}"
                yield FieldMismatch(field=field, ours=value, theirs=getattr(y, name))
    if len(a) != len(b):
        yield FieldMismatch(field="episodes", ours=len(a), theirs=len(b))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[FieldMismatch]:
    for section in ("sampler", "versions", "device"):
        x, y = a.get(section), b.get(section)
        if not isinstance(x, Mapping) or not isinstance(y, Mapping):
            x, y = {"": x}, {"": y}
        for name in sorted({*x, *y}):
            if x.get(name) != y.get(name):
                field = f"{section}.{name}".rstrip(".")
                yield FieldMismatch(field=field, ours=x.get(name), theirs=y.get(name))


def _test(pairs: list[tuple[EpisodeRecord, EpisodeRecord]]) -> PairedTest:
    return mcnemar([x.success for x, _ in pairs], [y.success for _, y in pairs])


def _test_json(test: PairedTest) -> dict[str, Any]:
    return asdict(test) | {"pairs": test.pairs, "p_value": test.p_value}


def _episode(record: EpisodeRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("task", "init_state_id", "seed")}


def _differ(name: str, recorded: Any, computed: Any) -> Iterator[str]:
    """One line per leaf on which a recorded value is not the computed one."""
    if isinstance(recorded, dict) and isinstance(computed, dict) and set(recorded) == set(computed):
        for key in computed:
            yield from _differ(f"{name}.{key}", recorded[key], computed[key])
    elif (
        isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed)
    ):
        for index, (x, y) in enumerate(zip(recorded, computed, strict=True)):
            yield from _differ(f"{name}[{index}]", x, y)
    elif recorded != computed:
        yield f"{name}: recorded {recorded!r}, computed from the records {computed!r}"
