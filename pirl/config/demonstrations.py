"""The demonstrations of a run (`dataset`, `pirl.bc_weight`): a local LeRobotDataset, judged by its small files.

Owns whether there is one, whether it fits the policy, and the digest of its content. Needs neither torch nor
LeRobot, so that a wrong data set is told of before anything starts. Only the learner reads demonstrations: actors
are not asked. Read `pirl.runtime.demonstrations` next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pirl.config.kinds import IMAGE_PREFIX, policy_facts
from pirl.config.strictjson import read_json_object
from pirl.errors import CheckpointError, ConfigError, FieldError

ACTION, STATE = "action", "observation.state"
INFO = "meta/info.json"
_PARTS = ("meta", "data", "videos")
"""Folders of a LeRobotDataset that are its content; what else lies there is not read."""
_FORMAT = "v3.0"
"""Of LeRobot 0.6."""
_MAKE = "`pirl bench demos` makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """What the files under `meta/` say."""

    shapes: Mapping[str, tuple[int, ...]]
    """By feature; pictures as channels, height, width."""
    lengths: tuple[int, ...]
    """Frames of each episode."""


def has_demonstrations(cfg: Any) -> bool:
    """Whether a valid config's learner reads demonstrations; Any: as `pirl.config.identity.canonical_json`."""
    return cfg.recipe is not None and cfg.pirl.bc_weight > 0


def require_demonstrations(cfg: Any, *, source: str) -> None:
    """Stop at a data set that is not there, or that the policy cannot learn from; Any as above.

    Raises:
        ConfigError: everything that does not fit.
    """
    errors = list(_errors(cfg)) if has_demonstrations(cfg) else []
    if errors:
        raise ConfigError(errors, source=source)


def content_digest(root: Path) -> str:
    """SHA-256 over the names and bytes of all files of a data set, hex.

    Raises:
        CheckpointError: a file cannot be read.
    """
    whole = hashlib.sha256()
    files = [path for part in _PARTS for path in (root / part).rglob("*") if path.is_file()]
    try:
        for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{digest} {path.relative_to(root).as_posix()}\n".encode())
    except OSError as error:
        raise CheckpointError(
            f"{root}: cannot read the demonstrations", parts=[str(error)]
        ) from error
    return whole.hexdigest()


def _errors(cfg: Any) -> Iterator[FieldError]:
    if cfg.dataset.root is None:
        yield FieldError(
            field="dataset.root",
            value=None,
            expected="the folder of a LeRobotDataset with pirl.bc_weight > 0: nothing is fetched from a hub",
            fix=f"download {cfg.dataset.repo_id} once and set dataset.root to its folder",
        )
        return
    root = Path(cfg.dataset.root)
    found = _read(root)
    if isinstance(found, FieldError):
        yield found
        return
    yield from _episode_errors(cfg, found)
    inputs: dict[str, Any] = cfg.policy.input_features or {}
    outputs: dict[str, Any] = cfg.policy.output_features or {}
    from_policy = {**inputs, **outputs}
    cameras = policy_facts(cfg.policy.type).cameras(cfg.policy)
    for name in (*cameras, STATE, ACTION):
        if name not in from_policy:
            continue
        wanted = tuple(from_policy[name].shape)
        has = found.shapes.get(name)
        if has != wanted:
            yield FieldError(
                field=f"dataset.root ({name})",
                value=None if has is None else list(has),
                expected=f"{list(wanted)}, as the policy's feature {name}; {root} has "
                + ", ".join(f"{n} {list(s)}" for n, s in found.shapes.items() if _is_seen(n)),
                fix="record the demonstrations with the policy's own cameras, state and action space"
                f" ({_MAKE}), or rename the data set's features",
            )


def _episode_errors(cfg: Any, found: DataInfo) -> Iterator[FieldError]:
    chosen, total = cfg.dataset.episodes, len(found.lengths)
    if chosen is not None and (not chosen or max(chosen) >= total):
        yield FieldError(
            field="dataset.episodes",
            value=list(chosen),
            expected=f"some of the {total} episodes of {cfg.dataset.root}, 0 to {total - 1}",
            fix="remove it to read all of them",
        )
        return
    longest = max(found.lengths if chosen is None else [found.lengths[i] for i in chosen])
    rows = getattr(cfg.policy, "chunk_size", 1)
    if longest < rows:
        yield FieldError(
            field="policy.chunk_size",
            value=rows,
            expected=f"at most {longest}, the frames of the longest demonstration: no whole chunk of"
            f" {rows} actions is in {cfg.dataset.root}",
            fix="record longer demonstrations, or take a policy with a shorter chunk",
        )


def _is_seen(name: str) -> bool:
    return name in (STATE, ACTION) or name.startswith(IMAGE_PREFIX)


def _read(root: Path) -> DataInfo | FieldError:
    """The files under `meta/`, or what is wrong with them."""
    try:
        info = read_json_object(root / INFO)
        if info.get("codebase_version") != _FORMAT:
            return _unreadable(root, f"its format is {info.get('codebase_version')!r}")
        features = cast("dict[str, dict[str, Any]]", info["features"])
        shapes = {name: _shape(feature) for name, feature in features.items()}
        lengths = _lengths(root)
    except FileNotFoundError as error:
        return _unreadable(root, f"there is no {error.filename}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return _unreadable(root, f"{type(error).__name__}: {error}")
    if not lengths:
        return _unreadable(root, "it has no episode")
    return DataInfo(shapes=shapes, lengths=lengths)


def _unreadable(root: Path, why: str) -> FieldError:
    return FieldError(
        field="dataset.root",
        value=str(root),
        expected=f"the folder of a LeRobotDataset {_FORMAT} with demonstrations; {why}",
        fix=f"name such a folder ({_MAKE}), or set pirl.bc_weight=0",
    )


def _shape(feature: Mapping[str, Any]) -> tuple[int, ...]:
    """Of a picture the channels come first, wherever the data set has them."""
    shape = tuple(int(n) for n in feature["shape"])
    names = feature.get("names")
    is_last = feature["dtype"] in ("image", "video") and names and str(names[0]) != "channels"
    return (shape[-1], *shape[:-1]) if is_last else shape


def _lengths(root: Path) -> tuple[int, ...]:
    # Only a run with demonstrations pays for the reader of their tables.
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    files = sorted((root / "meta/episodes").rglob("*.parquet"))
    try:
        tables = [read_table(path, columns=["episode_index", "length"]) for path in files]
    except ArrowException as error:
        raise ValueError(str(error)) from error
    rows = [row for table in tables for row in table.to_pylist()]
    return tuple(int(row["length"]) for row in sorted(rows, key=lambda row: row["episode_index"]))
