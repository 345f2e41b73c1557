"""What the records of smoke-run say about processes and the link between them.

Owns processes, handshakes, counters, versions, leftovers in `raw/smoke-run/*` (`docs/evidence.md`);
one pure function per criterion. Refuses to know thresholds. Read `measure_learning` next.
"""

from __future__ import annotations

from pirl.errors import EvidenceError
from pirl.evidence import outcomes
from pirl.evidence.criteria import Measured
from pirl.evidence.raw import (
    MissingRecordError,
    RawRecords,
    Record,
    boolean,
    file_sha256,
    integer,
    mapping,
    objects,
    sequence,
    some,
    text,
)

STEP = "smoke-run"
LEARNER = "learner"

AGREED = ("config_path", "config_hash", "recipe", "variant", "run_id", "protocol_version")
"""Identity fields that every handshake records on both sides, beside any others."""


def process_table(raw: RawRecords, step: str) -> list[Record]:
    """The processes of a step, from `processes.json`."""
    return some(objects(raw.json(step, "processes.json"), "processes"), "process")


def disabled_hooks(raw: RawRecords, step: str) -> Measured:
    """Safety checks that a test hook had turned off in a process of the step."""
    hooks = [h for p in process_table(raw, step) for h in sequence(p, "hooks")]
    return Measured(value=len(hooks), detail=", ".join(str(hook) for hook in hooks))


def _actors(raw: RawRecords) -> list[str]:
    """Ranks of the actors that kept counters, as they stand in file names."""
    names = raw.matching(STEP, "counters-actor-*.json")
    return [name.removeprefix("counters-actor-").removesuffix(".json") for name in names]


def _sides(raw: RawRecords) -> tuple[Record, list[Record]]:
    learner = raw.json(STEP, "counters-learner.json")
    return learner, [raw.json(STEP, f"counters-actor-{rank}.json") for rank in _actors(raw)]


def processes(raw: RawRecords) -> Measured:
    """Distinct processes, when one of them is the learner; 0 otherwise."""
    table = process_table(raw, STEP)
    labels = {text(process, "label") for process in table}
    roles = [text(process, "role") for process in table]
    actors = [role for role in roles if role.startswith("actor")]
    ok = roles.count(LEARNER) == 1 and len(labels) == len(table) and bool(actors)
    return Measured(value=len(table) if ok else 0, detail=", ".join(sorted(roles)))


def checks_disabled(raw: RawRecords) -> Measured:
    """Safety checks that a test hook had turned off in learner or actors."""
    return disabled_hooks(raw, STEP)


def handshakes_missing(raw: RawRecords) -> Measured:
    """Actors without an accepted handshake that both sides recorded."""
    missing = [rank for rank in _actors(raw) if not _accepted(raw, rank)]
    return Measured(value=len(missing), detail=", ".join(f"actor {rank}" for rank in missing))


def _accepted(raw: RawRecords, rank: str) -> bool:
    try:
        record = raw.json(STEP, f"handshake-{rank}.json")
    except MissingRecordError:
        return False
    verified_first = boolean(record, "verified_before_load")
    return boolean(record, "accepted") and verified_first and bool(mapping(record, "learner"))


def handshake_fields_differ(raw: RawRecords) -> Measured:
    """Identity fields that the two sides of a handshake recorded differently or not at all."""
    differing: list[str] = []
    expected = text(raw.json("validate-config", "config.json"), "hash")
    for name in raw.matching(STEP, "handshake-*.json"):
        record = raw.json(STEP, name)
        learner, actor = mapping(record, "learner"), mapping(record, "actor")
        for field in sorted({*AGREED, *learner, *actor}):
            absent = field not in learner or field not in actor
            if absent or learner[field] != actor[field]:
                differing.append(field)
        if learner.get("config_hash") != expected:
            differing.append("config_hash (validate-config)")
    return Measured(value=len(differing), detail=", ".join(differing))


def effective_configs_differ(raw: RawRecords) -> Measured:
    """Processes whose effective config does not have the hash of validate-config."""
    expected = text(raw.json("validate-config", "config.json"), "hash")
    names = ["config-learner.json", *(f"config-actor-{rank}.json" for rank in _actors(raw))]
    wrong = [name for name in names if file_sha256(raw.path(STEP, name)) != expected]
    return Measured(value=len(wrong), detail=", ".join(wrong) or f"{len(names)} processes")


def decisions_unaccounted(raw: RawRecords) -> Measured:
    """|sent - received| + |received - consumed - dropped|, decisions."""
    learner, actors = _sides(raw)
    sent = sum(integer(actor, "sent") for actor in actors)
    received, consumed = integer(learner, "received"), integer(learner, "consumed")
    dropped = sum(integer(mapping(learner, "dropped"), k) for k in mapping(learner, "dropped"))
    gap = abs(sent - received) + abs(received - consumed - dropped)
    detail = f"sent {sent}, received {received}, consumed {consumed}, dropped {dropped}"
    return Measured(value=gap, detail=detail)


def decisions_consumed(raw: RawRecords) -> Measured:
    """Decisions that an update used."""
    return Measured(value=integer(_sides(raw)[0], "consumed"))


def episodes_unaccounted(raw: RawRecords) -> Measured:
    """|sent - received| + |received - recorded|, episodes."""
    learner, actors = _sides(raw)
    sent = sum(integer(actor, "episodes_sent") for actor in actors)
    received = integer(learner, "episodes_received")
    recorded = len(outcomes.train_episodes(raw))
    detail = f"sent {sent}, received {received}, recorded {recorded}"
    return Measured(value=abs(sent - received) + abs(received - recorded), detail=detail)


def bytes_unaccounted(raw: RawRecords) -> Measured:
    """|sent - received|, bytes of transitions."""
    learner, actors = _sides(raw)
    sent, received = (
        sum(integer(a, "bytes_sent") for a in actors),
        integer(learner, "bytes_received"),
    )
    return Measured(value=abs(sent - received), detail=f"sent {sent}, received {received}")


def versions_published(raw: RawRecords) -> Measured:
    """Distinct policy versions that the learner published; they must rise."""
    published = [int(v) for v in sequence(_sides(raw)[0], "published")]
    if published != sorted(set(published)):
        raise EvidenceError(f"published versions do not rise: {published}")
    return Measured(value=len(published))


def versions_acted(raw: RawRecords) -> Measured:
    """Policy versions that were published, received and then used to act."""
    learner, actors = _sides(raw)
    published = {int(v) for v in sequence(learner, "published")}
    acted: dict[int, int] = {}
    for actor in actors:
        received = {int(v) for v in sequence(actor, "versions_received")}
        by_version = mapping(actor, "by_version")
        if sum(integer(by_version, v) for v in by_version) != integer(actor, "sent"):
            raise EvidenceError("decisions by version do not add up to the decisions sent")
        for version in by_version:
            if int(version) in published & received:
                count = integer(by_version, version)
                acted[int(version)] = acted.get(int(version), 0) + count
    used = sorted(version for version, count in acted.items() if count > 0)
    detail = ", ".join(f"v{version}: {acted[version]} decisions" for version in used)
    return Measured(value=len(used), detail=detail)


def exit_codes_nonzero(raw: RawRecords) -> Measured:
    """Processes that did not end with exit code 0."""
    bad = [p for p in process_table(raw, STEP) if integer(p, "exit_code") != 0]
    return Measured(value=len(bad), detail=", ".join(text(p, "role") for p in bad))


def _left(raw: RawRecords, kind: str) -> Measured:
    record = raw.json(STEP, "leftovers.json")
    looked = some(sequence(mapping(record, "looked_for"), kind), f"{kind} to look for")
    return Measured(value=len(sequence(record, kind)), detail=f"{len(looked)} looked for")


def processes_left(raw: RawRecords) -> Measured:
    """Processes that were still there after the run."""
    return _left(raw, "processes")


def ports_left(raw: RawRecords) -> Measured:
    """Ports that were still open after the run."""
    return _left(raw, "ports")


def shared_memory_left(raw: RawRecords) -> Measured:
    """Shared-memory segments that were still there after the run."""
    return _left(raw, "shared_memory")
