"""Step 2, smoke-run: a real learner and real actors over real gRPC on a real simulator.

Owns how the records of smoke-run follow from the run folder. Read `pirl.gate.resume_step` next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pirl.audit.bundle import StepWriter
from pirl.audit.records import files
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
from pirl.runtime.launch import launch
from pirl.runtime.layout import RunFolder
from pirl.runtime.mark import ProcessMark, read_marks

RUN = "smoke"
_VIDEO_FPS = 10


def run(gate: GateSession, step: StepWriter) -> None:
    """Launch, wait, and copy what both sides wrote.

    Raises:
        GateFailedError: the run did not end with exit code 0; its logs are in the bundle.
    """
    cfg = gate.loaded.cfg
    folder = RunFolder(gate.work / RUN)
    logs = gate.work / "logs" / RUN
    watch = Watch()
    result = launch(
        gate.config_path,
        actors=cfg.runtime.actors,
        overrides=[f"--output_dir={folder.root}", "--runtime.port=0"],
        env=watch.env,
        record_video=True,
        log_dir=logs,
        quiet=True,
        deadline_s=gate.allowed_s("run"),
    )
    roles = [str(row["role"]) for row in result.processes]
    for row in result.processes:
        role = str(row["role"])
        step.command(["python", *map(str, row["argv"][1:])], about=role)
        step.log(role, logs / f"{role}.log")
    step.write(files.LEFTOVERS, watch.leftovers(roles=roles, ports=[result.port]))
    rows = process_rows(
        result.processes, marks=marks_of(folder, roles), since_start=step.bundle.since_start
    )
    step.write_all(files.PROCESSES[files.SMOKE], rows)
    if episodes := episodes_of(folder, range(cfg.runtime.actors)):
        step.write_all(files.EPISODES, episodes)
    if result.exit_code is not ExitCode.OK:
        raise GateFailedError(
            f"the smoke run ended with exit code {int(result.exit_code)}: {result.reason}"
        )
    learner = read_object(folder.run_record)
    _link_records(step, folder, learner, range(cfg.runtime.actors))
    step.copy(files.LEARNER_METRICS, folder.learner_metrics)
    before, after = (TensorGroups(**learner["tensors"][when]) for when in ("before", "after"))
    step.write(files.TENSORS, TensorDigests(before=before, after=after))
    _video(gate, step, folder)


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
