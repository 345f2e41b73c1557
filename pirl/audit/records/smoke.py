"""Records of smoke-run: the link between learner and actors, updates, episodes, what was left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pirl.audit.records.common import says

Claims = Mapping[str, str | int]
"""Identity fields by name (`docs/envelope.md`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """How one actor met the learner, as both wrote it."""

    actor_id: str = field(metadata=says("given by the actor to itself"))
    accepted: bool = field(metadata=says("the learner's book has this actor id as accepted"))
    seconds: float = field(metadata=says("duration of the contact", "s"))
    learner: Claims = field(metadata=says("the learner's identity, by its own record"))
    received: Claims = field(metadata=says("what the actor read before it loaded a tensor"))
    actor: Claims = field(metadata=says("the actor's identity, by its own record"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerCounters:
    """The learner's books."""

    received: int = field(metadata=says("from all actors", "decisions"))
    consumed: int = field(metadata=says("used by an update", "decisions"))
    dropped: Mapping[str, int] = field(metadata=says("reason to count", "decisions"))
    episodes_received: int = field(metadata=says("from all actors", "episodes"))
    bytes_received: int = field(metadata=says("of transitions", "bytes"))
    published: tuple[int, ...] = field(metadata=says("policy versions, rising"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorCounters:
    """An actor's books."""

    sent: int = field(metadata=says("to the learner", "decisions"))
    episodes_sent: int = field(metadata=says("to the learner", "episodes"))
    bytes_sent: int = field(metadata=says("of transitions", "bytes"))
    versions_received: tuple[int, ...] = field(metadata=says("policy versions"))
    by_version: Mapping[str, int] = field(
        metadata=says("version to what was sampled with it; adds up to `sent`", "decisions")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroups:
    """Digests of the policy's tensors at one moment."""

    trained: Mapping[str, str] = field(metadata=says("name to digest", "SHA-256"))
    frozen: Mapping[str, str] = field(metadata=says("name to digest", "SHA-256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDigests:
    """The policy's tensors before and after the run, by the learner's own record."""

    before: TensorGroups = field(metadata=says("before the first update"))
    after: TensorGroups = field(metadata=says("after the last update"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An episode that began, as it ended."""

    episode_id: int = field(metadata=says("unique in the run"))
    task_id: int = field(metadata=says("index of the task"))
    task: str = field(metadata=says("name of the task"))
    init_state_id: int = field(metadata=says("initial state"))
    seed: int = field(metadata=says("of the simulator"))
    policy_version: int = field(metadata=says("version that acted"))
    env_steps: int = field(metadata=says("executed", "simulator steps"))
    decisions: int = field(metadata=says("executed", "decisions"))
    reward: float | None = field(metadata=says("sum; null: it was broken off", "reward"))
    end: str = field(
        metadata=says(
            "`success`, `timeout`, `failure` (the simulator ended it), `env-error` (the simulator "
            "died), `interrupted` (given up or lost)"
        )
    )
    update: int | None = field(metadata=says("that used it; null: none did"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """The recorded rollout."""

    file: str = field(metadata=says("path in the bundle"))
    sha256: str = field(metadata=says("of the file", "SHA-256"))
    frames: int = field(metadata=says("number of frames", "frames"))
    width: int = field(metadata=says("of a frame", "pixels"))
    height: int = field(metadata=says("of a frame", "pixels"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedFor:
    """What a step looked for after its run."""

    processes: tuple[str, ...] = field(metadata=says("roles"))
    ports: tuple[int, ...] = field(metadata=says("TCP ports"))
    shared_memory: tuple[str, ...] = field(metadata=says("patterns of names"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What was still there after the run."""

    looked_for: LookedFor = field(metadata=says("what was looked for; none of it empty"))
    processes: tuple[str, ...] = field(metadata=says("names of programs"))
    ports: tuple[int, ...] = field(metadata=says("TCP ports that answer"))
    shared_memory: tuple[str, ...] = field(metadata=says("names of segments"))
