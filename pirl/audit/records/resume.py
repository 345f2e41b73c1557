"""Records of resume-roundtrip: killed and resumed beside uninterrupted, damage, stock LeRobot.

N updates up to a checkpoint, SIGKILL of the learner during later work, resume in a new process up to N+M; beside
it N+M updates without interruption, which are those of smoke-run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pirl.audit.records.common import says


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """When the learner was killed, and how long the resume took."""

    checkpoint_update: int = field(metadata=says("N, by the checkpoint's own record", "updates"))
    killed_after_update: int = field(
        metadata=says("last row that the learner had written", "updates")
    )
    total_updates: int = field(metadata=says("N+M", "updates"))
    resume_elapsed_s: float = field(metadata=says("of the resumed run", "s"))
    resume_deadline_s: float = field(metadata=says("given to it", "s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDigests:
    """Parts of the run's state (`pirl.checkpoint.digests.COMPONENTS`) at four moments."""

    saved: Mapping[str, str] = field(metadata=says("in the checkpoint of N", "SHA-256"))
    loaded: Mapping[str, str] = field(metadata=says("after loading, before an update", "SHA-256"))
    uninterrupted: Mapping[str, str] = field(metadata=says("at N+M", "SHA-256"))
    resumed: Mapping[str, str] = field(metadata=says("at N+M", "SHA-256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file."""

    size: int = field(metadata=says("of the file", "bytes"))
    sha256: str = field(metadata=says("of the file", "SHA-256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """The last checkpoint: what its manifest lists and what the gate found."""

    manifest: Mapping[str, FileFacts] = field(metadata=says("listed"))
    found: Mapping[str, FileFacts] = field(metadata=says("on disk"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedCheckpoint:
    """A checkpoint that was damaged on purpose, given to the loader that a resume uses."""

    case: str = field(metadata=says("kind of damage"))
    part: str = field(metadata=says("the damaged file"))
    exit_code: int | None = field(metadata=says("of the refusal; null: it was loaded"))
    message: str = field(metadata=says("of the refusal"))
    optimiser_steps: int = field(metadata=says("taken by the loader's algorithm", "steps"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveKill:
    """SIGKILL of a process that saves over and over."""

    exit_code: int | None = field(metadata=says("of the process; -9 is SIGKILL"))
    unfinished_folders: int = field(metadata=says("left behind", "folders"))
    earlier_checkpoint_loads: bool = field(metadata=says("its newest complete checkpoint is sound"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StockLoad:
    """`pretrained_model/` in stock `XVLAPolicy.from_pretrained(strict=True)`, beside pirl's own."""

    missing_keys: tuple[str, ...] = field(metadata=says("tensors that stock LeRobot lacks"))
    unexpected_keys: tuple[str, ...] = field(metadata=says("tensors that pirl does not have"))
    actions_pirl: tuple[float, ...] = field(metadata=says("same inputs and noise", "action"))
    actions_stock: tuple[float, ...] = field(metadata=says("same inputs and noise", "action"))
