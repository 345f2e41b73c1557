"""The tampered checkpoints of step 4, and the learners that must refuse to resume from them.

Owns what was tampered with. Read `pirl.gate.mismatch_step` for the order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pirl.checkpoint.layout import RUN_STATE
from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.manifest import MANIFEST_NAME, write_manifest
from pirl.config.recipe import VARIANTS
from pirl.files import copy_tree, write_json
from pirl.gate.mismatch_cases import other_variant
from pirl.gate.mismatch_run import WrongPeer
from pirl.gate.session import GateSession
from pirl.gate.smoke_step import RUN as SMOKE
from pirl.journal.fields import read_object

_TRAIN_CONFIG = Path("pretrained_model/train_config.json")


def _edit_record(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Edit `run_state.json` and write a manifest that fits, as an attacker would."""

    def tamper(step_dir: Path) -> None:
        path = step_dir / RUN_STATE
        record = dict(read_object(path))
        change(record)
        write_json(path, record, sort_keys=False)
        (step_dir / MANIFEST_NAME).unlink()
        write_manifest(step_dir)

    return tamper


def _edit_manifest(step_dir: Path) -> None:
    path = step_dir / MANIFEST_NAME
    manifest = dict(read_object(path))
    first = next(iter(manifest["files"]))
    manifest["files"][first]["size"] += 1
    write_json(path, manifest, sort_keys=False)


_TAMPER: dict[str, Callable[[Path], None]] = {
    "checkpoint-identity": _edit_record(lambda r: r["identity"].update(recipe="another-recipe")),
    "checkpoint-manifest": _edit_manifest,
    "package-version": _edit_record(lambda r: r["versions"].update(lerobot="0.0.1")),
}


def tampered(gate: GateSession, name: str) -> Path:
    """A copy of the smoke run's last checkpoint, tampered with."""
    source = resolve_checkpoint(gate.work / SMOKE)
    copy = gate.work / "tampered" / name / "checkpoints" / source.name
    if copy.parent.exists():
        shutil.rmtree(copy.parent)
    copy_tree(source, copy)
    if name in _TAMPER:
        _TAMPER[name](copy)
    return copy


def resume_argv(step_dir: Path, *extra: str) -> tuple[str, ...]:
    run_dir = step_dir.parent.parent
    return (
        "pirl.learner",
        "--config_path",
        str(step_dir / _TRAIN_CONFIG),
        "--resume=true",
        f"--output_dir={run_dir}",
        "--runtime.port=0",
        "--parallelism.dp_replicate=1",
        *extra,
    )


def checkpoint_cases(gate: GateSession) -> list[WrongPeer]:
    """Learners that must refuse to resume; each is a process of its own."""
    checkpoints = {name: tampered(gate, name) for name in (*_TAMPER, "resume-other-variant")}
    _rewrite_variant(gate, checkpoints["resume-other-variant"])
    return [resuming(name, step_dir) for name, step_dir in checkpoints.items()]


def resuming(
    name: str,
    step_dir: Path,
    *,
    direction: str = "checkpoint",
    env: Mapping[str, str] | None = None,
) -> WrongPeer:
    """A learner that would go on from a checkpoint."""
    return WrongPeer(
        name=name,
        argv=resume_argv(step_dir),
        direction=direction,
        env=env or {},
        run_dir=step_dir.parent.parent,
    )


def _rewrite_variant(gate: GateSession, step_dir: Path) -> None:
    """Ask for the other variant when resuming: another config beside an untouched checkpoint."""
    other = next(v for v in VARIANTS if v != gate.variant)
    shutil.copy(other_variant(gate, other), step_dir / _TRAIN_CONFIG)
    (step_dir / MANIFEST_NAME).unlink()
    write_manifest(step_dir)
