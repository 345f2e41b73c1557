"""What a bundle says of its own making: `metadata/*.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pirl.audit.records.common import says


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """When a step ran, and what ended it early."""

    started_utc: str = field(metadata=says("whole seconds", "UTC"))
    ended_utc: str | None = field(metadata=says("whole seconds; null: it never ended", "UTC"))
    stopped_by: str | None = field(metadata=says("type of the error; null: it ran to its end"))
    error: str | None = field(metadata=says("message of a deliberate error, one line, redacted"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Who ran the gate, when, under which rules; with the reports the only place with times of day."""

    gate: str = field(metadata=says("`phase2-gate`"))
    bundle_format: int = field(metadata=says("of this folder"))
    policy_version: str = field(metadata=says("of the criteria"))
    policy_digest: str = field(metadata=says("of `policy.json`", "SHA-256"))
    nonce: str = field(metadata=says("32 hex digits, drawn before anything ran"))
    launched_by: str = field(metadata=says("`direct`, `dvc`, `prefect` or `test`"))
    started_utc: str = field(metadata=says("whole seconds", "UTC"))
    ended_utc: str | None = field(metadata=says("whole seconds; null: it never ended", "UTC"))
    signed_by: str | None = field(
        metadata=says("public key of `statement.sig`; null: the bundle is not signed", "SHA-256")
    )
    command: tuple[str, ...] = field(metadata=says("that runs the whole gate again, redacted"))
    steps: Mapping[str, StepTimes] = field(metadata=says("by step, in their order"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The code that ran."""

    git_commit: str = field(metadata=says("40 hex digits"))
    git_dirty: bool = field(metadata=says("whether the checkout differed from the commit"))
    patch_sha256: str | None = field(metadata=says("of the difference; null: none", "SHA-256"))
    lock_files: Mapping[str, str] = field(metadata=says("files that fix versions", "SHA-256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the packages; no host, user or path."""

    python: str = field(metadata=says("version"))
    packages: Mapping[str, str | None] = field(metadata=says("version; null: not installed"))
    system: str = field(metadata=says("operating system"))
    kernel: str = field(metadata=says("version"))
    libc: str = field(metadata=says("name and version"))
    machine: str = field(metadata=says("architecture"))
    cpu: str = field(metadata=says("model"))
    cpu_count: int | None = field(metadata=says("of the machine", "cores"))
    cpu_usable: int = field(metadata=says("for this process", "cores"))
    memory_gib: float = field(metadata=says("of the machine", "GiB"))
    variables: Mapping[str, str | None] = field(
        metadata=says("environment variables that change what is computed; null: not set")
    )
