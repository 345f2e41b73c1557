"""Criteria of smoke-run about processes and the link between them. Read `pirl.audit.criteria.learning` next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pirl.audit import outcomes
from pirl.audit.criterion import Group, Measured, counted
from pirl.audit.raw import MissingRecordError, RawRecords, some
from pirl.audit.records import files
from pirl.audit.records.common import Process
from pirl.audit.records.smoke import ActorCounters, Handshake
from pirl.errors import EvidenceError
from pirl.journal.codec import parse_object
from pirl.journal.fields import file_sha256

criterion = Group("smoke", files.SMOKE)

LEARNER = "learner"

AGREED = (
    "protocol_version", "recipe", "variant", "config_path", "config_hash", "run_id", "policy_type",
    "policy_architecture", "action_mode", "denoising_steps", "executed_steps", "environment", "control_mode",
    "cameras", "policy_settings", "reward", "state_split", "noise_settings",
)  # fmt: skip
"""Fields of an identity (`pirl.transport.identity`, which costs torch): all on both sides of every handshake."""


def disabled_hooks(processes: Sequence[Process]) -> Measured:
    """Checks that were off in a process, and processes of which nobody knows it."""
    silent = [f"{p.role} wrote nothing" for p in processes if p.hooks is None]
    found = [hook for p in processes for hook in p.hooks or ()] + silent
    return counted(found, f"{len(processes)} processes")


def distinct(processes: Sequence[Process]) -> int:
    """How many processes these rows are about, by what each process wrote of itself; a silent one is nobody."""
    return len({p.nonce for p in processes if p.nonce is not None and p.started_s is not None})


def _rows(raw: RawRecords) -> list[Process]:
    return raw.all(files.PROCESSES[files.SMOKE])


def _actors(raw: RawRecords) -> list[ActorCounters]:
    return [raw.one(files.ACTOR_COUNTERS, rank) for rank in raw.ranks(files.ACTOR_COUNTERS)]


def _learner_processes(raw: RawRecords) -> int:
    """By the config that the learner ran with.

    Raises:
        MissingRecordError: there is none.
        EvidenceError: it does not say how many.
    """
    config = parse_object(raw.text(files.LEARNER_CONFIG), where=files.LEARNER_CONFIG.name)
    section: Any = config.get("parallelism")
    try:
        return int(section["dp_replicate"])
    except (TypeError, KeyError, ValueError) as error:
        raise EvidenceError(f"{files.LEARNER_CONFIG.name}: no number of processes") from error


@criterion(">=", 2, "processes", row="D1")
def processes(raw: RawRecords) -> Measured:
    """Learner and actors are separate processes, each by its own word."""
    rows = _rows(raw)
    roles = sorted(row.role for row in rows)
    wanted = [f"actor-{rank}" for rank in range(raw.one(files.SETTINGS).actors)]
    wanted += [LEARNER, *(f"{LEARNER}-{rank}" for rank in range(1, _learner_processes(raw)))]
    wanted += files.REWARDED_ROLES if outcomes.has_second(raw) else ()
    found = distinct(rows)
    return Measured(
        value=found if roles == sorted(wanted) and found == len(rows) else 0,
        detail=f"{', '.join(roles)}: {found} processes",
    )


@criterion("==", 0, "checks", row="G4")
def checks_disabled(raw: RawRecords) -> Measured:
    """No safety check was turned off in learner or actors."""
    return disabled_hooks(_rows(raw))


@criterion("==", 0, "actors", row="D1")
def handshakes_missing(raw: RawRecords) -> Measured:
    """Both sides recorded an accepted handshake, and the actor read the learner's identity."""
    missing: list[str] = []
    for rank in raw.ranks(files.ACTOR_COUNTERS):
        try:
            met = raw.one(files.HANDSHAKE, rank)
        except MissingRecordError:
            missing.append(f"actor {rank}")
            continue
        if not _has_met(met):
            missing.append(f"actor {rank}")
    if outcomes.has_second(raw) and not _has_met(raw.one(files.REWARDED_HANDSHAKE)):
        missing.append("actor of the rewarded run")
    return counted(missing)


def _has_met(met: Handshake) -> bool:
    return bool(met.accepted and met.received and met.learner and met.actor)


@criterion("==", 0, "fields", row="D1")
def handshake_fields_differ(raw: RawRecords) -> Measured:
    """Identity is equal on both sides, and its config is the one of validate-config."""
    differing: list[str] = []
    config = raw.one(files.CONFIG)
    for rank in raw.ranks(files.HANDSHAKE):
        met = raw.one(files.HANDSHAKE, rank)
        differing += _differing(met)
        expected = {
            "config_hash": config.hash,
            "variant": config.variant,
            "config_path": config.path,
        }
        differing += [
            f"{name} (validate-config)"
            for name, value in expected.items()
            if met.learner.get(name) != value
        ]
    if outcomes.has_second(raw):
        met = raw.one(files.REWARDED_HANDSHAKE)
        differing += _differing(met)
        if met.learner.get("variant") != config.variant:
            differing.append("variant (rewarded run)")
    return counted(differing)


def _differing(met: Handshake) -> list[str]:
    """Identity fields that are not the same on all sides, or missing on one."""
    sides = (met.learner, met.received, met.actor)
    return [
        name
        for name in sorted({*AGREED, *met.learner, *met.received, *met.actor})
        if len({repr(side.get(name)) for side in sides}) > 1
        or any(name not in side for side in sides)
    ]


@criterion("==", 0, "processes", row="C1")
def effective_configs_differ(raw: RawRecords) -> Measured:
    """Each process ran the config of validate-config; the rewarded run the one that both its sides named."""
    expected = raw.one(files.CONFIG).hash
    paths = [raw.path(files.LEARNER_CONFIG)]
    paths += [raw.path(files.ACTOR_CONFIG, rank) for rank in raw.ranks(files.ACTOR_COUNTERS)]
    wrong = [path.name for path in paths if file_sha256(path) != expected]
    if outcomes.has_second(raw):
        paths.append(raw.path(files.REWARDED_CONFIG))
        named = raw.one(files.REWARDED_HANDSHAKE).learner.get("config_hash")
        wrong += [paths[-1].name] if file_sha256(paths[-1]) != named else []
    return counted(wrong, f"{len(paths)} configs")


@criterion("==", 0, "decisions", row="D2")
def decisions_unaccounted(raw: RawRecords) -> Measured:
    """Decisions sent = received = consumed + dropped."""
    learner = raw.one(files.LEARNER_COUNTERS)
    sent, dropped = sum(a.sent for a in _actors(raw)), sum(learner.dropped.values())
    gap = abs(sent - learner.received) + abs(learner.received - learner.consumed - dropped)
    detail = (
        f"sent {sent}, received {learner.received}, consumed {learner.consumed}, dropped {dropped}"
    )
    return Measured(value=gap, detail=detail)


@criterion(">=", 1, "decisions", row="D2")
def decisions_consumed(raw: RawRecords) -> Measured:
    """Decisions that an update used."""
    return Measured(value=raw.one(files.LEARNER_COUNTERS).consumed)


@criterion("==", 0, "episodes", row="D2")
def episodes_unaccounted(raw: RawRecords) -> Measured:
    """Episodes sent = received = recorded."""
    sent = sum(actor.episodes_sent for actor in _actors(raw))
    received = raw.one(files.LEARNER_COUNTERS).episodes_received
    recorded = len(outcomes.used(outcomes.all_episodes(raw)))
    detail = f"sent {sent}, received {received}, recorded {recorded}"
    return Measured(value=abs(sent - received) + abs(received - recorded), detail=detail)


@criterion("==", 0, "bytes", row="D2")
def bytes_unaccounted(raw: RawRecords) -> Measured:
    """Bytes of transitions sent = received."""
    sent = sum(actor.bytes_sent for actor in _actors(raw))
    received = raw.one(files.LEARNER_COUNTERS).bytes_received
    return Measured(value=abs(sent - received), detail=f"sent {sent}, received {received}")


@criterion(">=", 2, "versions", row="D4")
def versions_published(raw: RawRecords) -> Measured:
    """Policy versions that the learner published, rising."""
    published = list(raw.one(files.LEARNER_COUNTERS).published)
    if published != sorted(set(published)):
        raise EvidenceError(f"published versions do not rise: {published}")
    return Measured(value=len(published), detail=", ".join(map(str, published)))


@criterion(">=", 2, "versions", row="D4")
def versions_acted(raw: RawRecords) -> Measured:
    """Policy versions that were published, received and then used to act."""
    published = set(raw.one(files.LEARNER_COUNTERS).published)
    acted: dict[int, int] = {}
    for actor in _actors(raw):
        if sum(actor.by_version.values()) != actor.sent:
            raise EvidenceError("decisions by version do not add up to the decisions sent")
        for version, count in actor.by_version.items():
            if int(version) in published & set(actor.versions_received):
                acted[int(version)] = acted.get(int(version), 0) + count
    used = sorted(version for version, count in acted.items() if count > 0)
    detail = ", ".join(f"v{version}: {acted[version]} decisions" for version in used)
    return Measured(value=len(used), detail=detail)


@criterion("==", 0, "processes", row="D6")
def exit_codes_nonzero(raw: RawRecords) -> Measured:
    """Every process ended with exit code 0."""
    bad = [f"{p.role}: {p.exit_code}" for p in _rows(raw) if p.exit_code != 0]
    return counted(bad)


def _left[T](looked_for: Sequence[T], found: Sequence[object], what: str) -> Measured:
    looked = some(looked_for, f"{what} to look for")
    detail = f"{len(looked)} looked for" + "".join(f"; {item}" for item in found)
    return Measured(value=len(found), detail=detail)


@criterion("==", 0, "processes", row="D6")
def processes_left(raw: RawRecords) -> Measured:
    """No process is left after the run."""
    left = raw.one(files.LEFTOVERS)
    return _left(left.looked_for.processes, left.processes, "process")


@criterion("==", 0, "ports", row="D6")
def ports_left(raw: RawRecords) -> Measured:
    """No port is left open after the run."""
    left = raw.one(files.LEFTOVERS)
    return _left(left.looked_for.ports, left.ports, "port")


@criterion("==", 0, "segments", row="D6")
def shared_memory_left(raw: RawRecords) -> Measured:
    """No shared memory is left after the run."""
    left = raw.one(files.LEFTOVERS)
    return _left(left.looked_for.shared_memory, left.shared_memory, "segment")
