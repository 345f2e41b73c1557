"""Step 2, smoke-run: a real learner and real actors over real gRPC on a real simulator.

A profile whose own policy earns no reward has a second run, the rewarded one, from a policy that succeeds now
and then. Owns how the records of smoke-run follow from the run folder. Read `pirl.gate.resume_step` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pirl.audit.bundle import StepWriter
from pirl.audit.records import files
from pirl.audit.records.common import Process
from pirl.audit.records.smoke import (
    ActorCounters,
    Episode,
    Handshake,
    LearnerCounters,
    TensorDigests,
    TensorGroups,
)
from pirl.episodes import BrokenOffEpisode, EpisodeRecord
from pirl.errors import ExitCode
from pirl.gate.processes import Watch, process_rows
from pirl.gate.session import GateFailedError, GateSession
from pirl.journal.fields import Record, read_object
from pirl.journal.media import write_video
from pirl.journal.metric_log import read_json_lines
from pirl.runtime.launch import LaunchResult, launch
from pirl.runtime.layout import RunFolder
from pirl.runtime.mark import ProcessMark, read_marks

RUN, REWARDED_RUN = "smoke", "rewarded"
_VIDEO_FPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A run that was launched, and how it ended."""

    name: str
    folder: RunFolder
    actors: int
    result: LaunchResult
    rows: list[Process]


def run(gate: GateSession, step: StepWriter) -> None:
    """Launch, wait, and copy what both sides wrote; then the rewarded run, where the profile has one.

    Raises:
        GateFailedError: a run did not end with exit code 0; its logs are in the bundle.
    """
    watch = Watch()
    actors = gate.loaded.cfg.runtime.actors
    runs = [_launched(gate, step, watch, RUN, gate.config_path, actors=actors, allowed="run")]
    rewarded = gate.rewarded
    if rewarded is not None and runs[0].result.exit_code is ExitCode.OK:
        path, actors = str(rewarded.source_path), rewarded.cfg.runtime.actors
        runs.append(
            _launched(gate, step, watch, REWARDED_RUN, path, actors=actors, allowed="rewarded-run")
        )
    rows = [row for ended in runs for row in ended.rows]
    ports = [ended.result.port for ended in runs]
    step.write(files.LEFTOVERS, watch.leftovers(roles=[row.role for row in rows], ports=ports))
    step.write_all(files.PROCESSES[files.SMOKE], rows)
    for ended, file in zip(runs, (files.EPISODES, files.REWARDED_EPISODES), strict=False):
        if episodes := episodes_of(ended.folder, range(ended.actors)):
            step.write_all(file, episodes)
    for ended in runs:
        if ended.result.exit_code is not ExitCode.OK:
            raise GateFailedError(
                f"the {ended.name} run ended with exit code {int(ended.result.exit_code)}: "
                f"{ended.result.reason}"
            )
    _own_records(gate, step, runs[0].folder)
    if len(runs) > 1:
        _rewarded_records(step, runs[1].folder)


def _launched(
    gate: GateSession,
    step: StepWriter,
    watch: Watch,
    name: str,
    config_path: str,
    *,
    actors: int,
    allowed: str,
) -> _Ended:
    """Launch a run and wait for its end; the roles of a run other than the gate's own end in its name."""
    folder = RunFolder(gate.work / name)
    logs = gate.work / "logs" / name
    result = launch(
        config_path,
        actors=actors,
        overrides=[f"--output_dir={folder.root}", "--runtime.port=0"],
        env=watch.env,
        record_video=name == RUN,
        log_dir=logs,
        quiet=True,
        deadline_s=gate.allowed_s(allowed),
    )
    suffix = "" if name == RUN else f"-{name}"
    roles = [str(row["role"]) for row in result.processes]
    for row, role in zip(result.processes, roles, strict=True):
        step.command(["python", *map(str, row["argv"][1:])], about=role + suffix)
        step.log(role + suffix, logs / f"{role}.log")
    rows = process_rows(
        result.processes,
        marks=marks_of(folder, roles),
        since_start=step.bundle.since_start,
        suffix=suffix,
    )
    return _Ended(name=name, folder=folder, actors=actors, result=result, rows=rows)


def _own_records(gate: GateSession, step: StepWriter, folder: RunFolder) -> None:
    """What the run of the gate's own config left."""
    cfg = gate.loaded.cfg
    learner = read_object(folder.run_record)
    _link_records(step, folder, learner, range(cfg.runtime.actors))
    step.copy(files.LEARNER_METRICS, folder.learner_metrics)
    before, after = (TensorGroups(**learner["tensors"][when]) for when in ("before", "after"))
    step.write(files.TENSORS, TensorDigests(before=before, after=after))
    _video(gate, step, folder)


def _rewarded_records(step: StepWriter, folder: RunFolder) -> None:
    """What the second run left: who met, on which config, and its updates."""
    config = folder.effective_config("learner").read_text("ascii")
    met = handshake(read_object(folder.run_record), read_object(folder.actor_record(0)))
    step.exact(files.REWARDED_CONFIG, config)
    step.write(files.REWARDED_HANDSHAKE, met)
    step.copy(files.REWARDED_METRICS, folder.learner_metrics)


def marks_of(folder: RunFolder, roles: Sequence[str]) -> list[ProcessMark]:
    """What every process that played one of these roles wrote of itself."""
    return [mark for role in roles for mark in read_marks(folder.marks(role))]


def _link_records(
    step: StepWriter, folder: RunFolder, learner: Record, ranks: Sequence[int]
) -> None:
    """Handshakes, effective configs and the books of both sides."""
    step.exact(files.LEARNER_CONFIG, folder.effective_config("learner").read_text("ascii"))
    step.write(files.LEARNER_COUNTERS, learner_counters(learner))
    for rank in ranks:
        actor = read_object(folder.actor_record(rank))
        config = folder.effective_config(f"actor-{rank}")
        step.exact(files.ACTOR_CONFIG, config.read_text("ascii"), rank=rank)
        step.write(files.HANDSHAKE, handshake(learner, actor), rank=rank)
        step.write(files.ACTOR_COUNTERS, actor_counters(actor), rank=rank)
        step.copy(files.ACTOR_METRICS, folder.actor_metrics(rank), rank=rank)


def learner_counters(learner: Record) -> LearnerCounters:
    """The learner's books, from its own record."""
    counters, books = learner["counters"], learner["books"]
    return LearnerCounters(
        received=counters["received"],
        consumed=counters["consumed"],
        dropped={
            name.removeprefix("dropped_"): count
            for name, count in counters.items()
            if name.startswith("dropped_")
        },
        episodes_received=books["episodes"],
        bytes_received=counters["bytes_received"],
        published=tuple(books["versions_published"]),
    )


def actor_counters(actor: Record) -> ActorCounters:
    """An actor's books, from its own record."""
    totals = actor["totals"]
    return ActorCounters(
        sent=totals["decisions_sent"],
        episodes_sent=totals["episodes_sent"],
        bytes_sent=actor["bytes_sent"],
        versions_received=tuple(totals["versions_received"]),
        by_version=totals["by_version"],
    )


def handshake(learner: Record, actor: Record) -> Handshake:
    """How an actor met its learner, from the records of both."""
    met = actor["handshake"]
    accepted = {answer["actor_id"] for answer in learner["handshakes"] if answer["accepted"]}
    return Handshake(
        actor_id=met["actor_id"],
        accepted=met["actor_id"] in accepted,
        seconds=met["seconds"],
        learner=learner["identity"],
        received=met["learner"],
        actor=actor["met_identity"],
    )


def episodes_of(folder: RunFolder, ranks: Sequence[int]) -> list[Episode]:
    """Every episode that began: those that an update used, and those that an actor had to break off."""
    used = read_json_lines(folder.episodes) if folder.episodes.exists() else []
    found = [_finished(line) for line in used]
    for rank in ranks:
        path = folder.broken_off(rank)
        lines = read_json_lines(path) if path.exists() else []
        found += [_broken_off(BrokenOffEpisode(**line)) for line in lines]
    return found


def _finished(line: dict[str, Any]) -> Episode:
    update = line["update"]
    record = EpisodeRecord(**{k: v for k, v in line.items() if k != "update"})
    facts = {k: v for k, v in asdict(record).items() if k not in ("success", "truncated")}
    return Episode(**facts, end=end_of(record), update=update)


def end_of(record: EpisodeRecord) -> str:
    """How a finished episode ended, by the simulator's word."""
    if record.success:
        return "success"
    return "timeout" if record.truncated else "failure"


def _broken_off(episode: BrokenOffEpisode) -> Episode:
    return Episode(**asdict(episode), reward=None, update=None)


def _video(gate: GateSession, step: StepWriter, folder: RunFolder) -> None:
    with np.load(folder.actor_video(0)) as recorded:
        frames = list(recorded["frames"])
    video = gate.work / "rollout.mp4"
    step.video(video, write_video(video, frames, fps=_VIDEO_FPS))
