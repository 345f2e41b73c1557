"""Records that every step has: its processes, its commands, and the seal that ties it to its gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


def says(meaning: str, unit: str = "") -> dict[str, str]:
    """Metadata of a field: what it means and its unit; both go to `docs/evidence.md`."""
    return {"meaning": meaning, "unit": unit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of a step: what it wrote of itself, and what the process table said when it had ended."""

    role: str = field(metadata=says("what it was started as"))
    nonce: str | None = field(
        metadata=says(
            "written by the process itself, one per process of the system; null: it wrote none"
        )
    )
    started_s: float | None = field(
        metadata=says("its start by the kernel's clock, since the gate began, as it wrote it", "s")
    )
    seconds: float = field(metadata=says("from its start until it was seen to have ended", "s"))
    exit_code: int | None = field(
        metadata=says("minus the number of a signal; null: it did not end")
    )
    hooks: tuple[str, ...] | None = field(
        metadata=says("safety checks turned off, as it wrote it; null: it wrote nothing")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that the step ran, as it may be copied from `commands.txt`."""

    about: str = field(metadata=says("which process of which part of the step"))
    argv: tuple[str, ...] = field(metadata=says("program and arguments, redacted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a step consists of and which gate it belongs to; the last thing that is written of it."""

    step: str = field(metadata=says("name of the step"))
    nonce: str = field(metadata=says("of the gate"))
    config_hash: str = field(
        metadata=says("of the config that the gate was started with", "SHA-256")
    )
    variant: str = field(metadata=says("`flow-sde` or `flow-noise`"))
    before: str = field(
        metadata=says(
            "digest of the seal before, of the gate's opening for the first step", "SHA-256"
        )
    )
    started_s: float = field(metadata=says("since the gate began", "s"))
    ended_s: float = field(metadata=says("since the gate began", "s"))
    files: Mapping[str, str] = field(
        metadata=says("every other file of the step, by path in the bundle", "SHA-256")
    )
