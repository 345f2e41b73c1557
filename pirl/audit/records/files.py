"""Where each record lies below `raw/<step>/`: the exact set of files that a step may leave.

Owns names and forms. A file that is not listed here does not belong in a bundle. Read `pirl.audit.raw` next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pirl.audit.records import common, mismatch, resume, smoke, validate

STEPS = ("validate-config", "smoke-run", "resume-roundtrip", "mismatch-negative")
"""The steps of the gate, in order."""

VALIDATE, SMOKE, RESUME, MISMATCH = STEPS


@dataclass(frozen=True, slots=True)
class RecordFile[T]:
    """A file of one step."""

    step: str
    name: str
    """`{rank}` stands for the number of an actor."""
    kind: type[T]
    """Class of its records; `str` for metric rows and for texts whose bytes are hashed."""
    profile: str | None = None
    """The only profile that leaves it; None: every one."""

    @property
    def is_lines(self) -> bool:
        """One record per line instead of one in all."""
        return self.name.endswith(".jsonl")

    def of(self, rank: int | None = None) -> str:
        """Name of the file, of an actor where it has one each."""
        return self.name if rank is None else self.name.format(rank=rank)

    def rank_in(self, name: str) -> int | None:
        """Number of the actor in the name of one of these files; None for another file."""
        pattern = re.escape(self.name).replace(re.escape("{rank}"), "([0-9]|[1-9][0-9]+)")
        found = re.fullmatch(pattern, name)
        return int(found.group(1)) if found else None

    @property
    def is_per_actor(self) -> bool:
        return "{rank}" in self.name


SEAL_NAME = "step.json"

CONFIG = RecordFile(VALIDATE, "config.json", validate.Config)
PROFILE = RecordFile(VALIDATE, "profile.json", validate.Profile)
RULES = RecordFile(VALIDATE, "rules.jsonl", validate.Rule)
INVALID = RecordFile(VALIDATE, "invalid.jsonl", validate.InvalidConfig)
GAUSSIAN = RecordFile(VALIDATE, "analytic-gaussian.jsonl", validate.GaussianCase)
GAE = RecordFile(VALIDATE, "analytic-gae.jsonl", validate.GaeCase)
STD = RecordFile(VALIDATE, "analytic-std.jsonl", validate.StdCase)
SETTINGS = RecordFile(VALIDATE, "settings.json", validate.Settings)
INPUTS = RecordFile(VALIDATE, "inputs.json", validate.Inputs)
SPLIT = RecordFile(VALIDATE, "split.json", validate.Split)
FIRST_LOOK = RecordFile(VALIDATE, "first_look.json", validate.FirstLook)
CONTRACT = RecordFile(VALIDATE, "contract.jsonl", validate.Clause)
PACKAGES = RecordFile(VALIDATE, "packages.jsonl", validate.Package)

HANDSHAKE = RecordFile(SMOKE, "handshake-{rank}.json", smoke.Handshake)
LEARNER_CONFIG = RecordFile(SMOKE, "config-learner.json", str)
ACTOR_CONFIG = RecordFile(SMOKE, "config-actor-{rank}.json", str)
LEARNER_COUNTERS = RecordFile(SMOKE, "counters-learner.json", smoke.LearnerCounters)
ACTOR_COUNTERS = RecordFile(SMOKE, "counters-actor-{rank}.json", smoke.ActorCounters)
LEARNER_METRICS = RecordFile(SMOKE, "metrics-learner.jsonl", str)
ACTOR_METRICS = RecordFile(SMOKE, "metrics-actor-{rank}.jsonl", str)
TENSORS = RecordFile(SMOKE, "tensors.json", smoke.TensorDigests)
EPISODES = RecordFile(SMOKE, "episodes.jsonl", smoke.Episode)
VIDEO = RecordFile(SMOKE, "video.json", smoke.Video)
LEFTOVERS = RecordFile(SMOKE, "leftovers.json", smoke.Leftovers)

OWN = "own"
"""The profile whose config is a file of the user's."""
REWARDED = "libero"
"""The profile with a second smoke run, from a policy that succeeds now and then."""
REWARDED_ROLES = ("learner-rewarded", "actor-0-rewarded")
"""Its processes."""
REWARDED_CONFIG = RecordFile(SMOKE, "rewarded-config.json", str, REWARDED)
REWARDED_HANDSHAKE = RecordFile(SMOKE, "rewarded-handshake.json", smoke.Handshake, REWARDED)
REWARDED_METRICS = RecordFile(SMOKE, "rewarded-metrics.jsonl", str, REWARDED)
REWARDED_EPISODES = RecordFile(SMOKE, "rewarded-episodes.jsonl", smoke.Episode, REWARDED)

KILL = RecordFile(RESUME, "kill.json", resume.Kill)
DIGESTS = RecordFile(RESUME, "digests.json", resume.StateDigests)
UNINTERRUPTED = RecordFile(RESUME, "metrics-uninterrupted.jsonl", str)
INTERRUPTED = RecordFile(RESUME, "metrics-interrupted.jsonl", str)
RESUMED = RecordFile(RESUME, "metrics-resumed.jsonl", str)
CHECKPOINT = RecordFile(RESUME, "checkpoint.json", resume.CheckpointFiles)
DAMAGED = RecordFile(RESUME, "damaged.jsonl", resume.DamagedCheckpoint)
SAVE_KILLS = RecordFile(RESUME, "save_kills.jsonl", resume.SaveKill)
STOCK = RecordFile(RESUME, "stock.json", resume.StockLoad)

CONTROL = RecordFile(MISMATCH, "control.json", mismatch.Case)
HOST = RecordFile(MISMATCH, "host.json", mismatch.Host)
CASES = RecordFile(MISMATCH, "cases.jsonl", mismatch.Case)
TEETH = RecordFile(MISMATCH, "teeth.jsonl", mismatch.Tooth)

PROCESSES = {step: RecordFile(step, "processes.jsonl", common.Process) for step in (SMOKE, RESUME)}
COMMANDS = {step: RecordFile(step, "commands.jsonl", common.Command) for step in STEPS}
SEALS = {step: RecordFile(step, SEAL_NAME, common.Seal) for step in STEPS}

METRIC_FILES = (
    LEARNER_METRICS, ACTOR_METRICS, REWARDED_METRICS, UNINTERRUPTED, INTERRUPTED, RESUMED,
)  # fmt: skip
"""Files of metric rows (`pirl.journal.metric_log`)."""

FILES: tuple[RecordFile[Any], ...] = (
    CONFIG, PROFILE, RULES, INVALID, GAUSSIAN, GAE, STD, SETTINGS, INPUTS, SPLIT, FIRST_LOOK,
    CONTRACT, PACKAGES,
    HANDSHAKE, LEARNER_CONFIG, ACTOR_CONFIG, LEARNER_COUNTERS, ACTOR_COUNTERS, LEARNER_METRICS,
    ACTOR_METRICS, TENSORS, EPISODES, VIDEO, LEFTOVERS,
    REWARDED_CONFIG, REWARDED_HANDSHAKE, REWARDED_METRICS, REWARDED_EPISODES,
    KILL, DIGESTS, UNINTERRUPTED, INTERRUPTED, RESUMED, CHECKPOINT, DAMAGED, SAVE_KILLS, STOCK,
    CONTROL, HOST, CASES, TEETH,
    *PROCESSES.values(), *COMMANDS.values(), *SEALS.values(),
)  # fmt: skip
"""Every file of every step."""


def file_of(step: str, name: str) -> RecordFile[Any] | None:
    """The entry that a file of a step belongs to."""
    for file in FILES:
        if file.step == step and (
            file.rank_in(name) is not None if file.is_per_actor else file.name == name
        ):
            return file
    return None
