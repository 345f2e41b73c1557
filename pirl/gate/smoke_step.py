"""Step 2, smoke-run: a real learner and real actors over real gRPC on a real simulator.

Owns how `raw/smoke-run/*` follows from the run folder. Read `pirl.gate.resume_step` next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pirl.config.sections import env_of
from pirl.errors import ExitCode
from pirl.evidence.bundle import StepWriter
from pirl.evidence.media import write_video
from pirl.evidence.metric_log import read_json_lines
from pirl.evidence.raw import Record, read_object
from pirl.gate.processes import Watch, process_records
from pirl.gate.session import GateFailedError, GateSession
from pirl.runtime.launch import launch
from pirl.runtime.layout import RunFolder

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
    for row in result.processes:
        role = str(row["role"])
        gate.bundle.command(["python", *map(str, row["argv"][1:])], comment=f"smoke-run: {role}")
        step.log(role, logs / f"{role}.log")
    labels = [str(row["role"]) for row in result.processes]
    step.record("leftovers.json", watch.leftovers(labels=labels, ports=[result.port]))
    if result.exit_code is not ExitCode.OK:
        step.record("processes.json", {"processes": process_records(result.processes, hooks={})})
        raise GateFailedError(
            f"the smoke run ended with exit code {int(result.exit_code)}: {result.reason}"
        )
    actors = [read_object(folder.actor_record(r)) for r in range(cfg.runtime.actors)]
    learner = read_object(folder.run_record)
    hooks = {str(record["role"]): record["hooks"] for record in (learner, *actors)}
    step.record("processes.json", {"processes": process_records(result.processes, hooks=hooks)})
    _link_records(step, folder, learner, actors)
    _learning_records(gate, step, folder, learner)


def _link_records(
    step: StepWriter, folder: RunFolder, learner: Record, actors: Sequence[Record]
) -> None:
    """Handshakes, effective configs and the books of both sides."""
    step.text("config-learner.json", folder.effective_config("learner").read_text("ascii"))
    counters = learner["counters"]
    step.record(
        "counters-learner.json",
        {
            "received": counters["received"],
            "consumed": counters["consumed"],
            "dropped": {
                k.removeprefix("dropped_"): v
                for k, v in counters.items()
                if k.startswith("dropped_")
            },
            "episodes_received": learner["books"]["episodes"],
            "bytes_received": counters["bytes_received"],
            "published": learner["books"]["versions_published"],
        },
    )
    accepted = {h["actor_id"] for h in learner["handshakes"] if h["accepted"]}
    for rank, actor in enumerate(actors):
        totals, handshake = actor["totals"], actor["handshake"]
        step.text(
            f"config-actor-{rank}.json", folder.effective_config(f"actor-{rank}").read_text("ascii")
        )
        step.record(
            f"handshake-{rank}.json",
            {
                "accepted": handshake["actor_id"] in accepted,
                # ActorLink hands out a tensor only after its identity was verified.
                "verified_before_load": bool(handshake["learner"]) and bool(totals["by_version"]),
                "learner": learner["identity"],
                "actor": actor["met_identity"],
                "seconds": handshake["seconds"],
            },
        )
        step.record(
            f"counters-actor-{rank}.json",
            {
                "sent": totals["decisions_sent"],
                "episodes_sent": totals["episodes_sent"],
                "bytes_sent": actor["bytes_sent"],
                "versions_received": totals["versions_received"],
                "by_version": totals["by_version"],
            },
        )
        step.copy(f"metrics-actor-{rank}.jsonl", folder.actor_metrics(rank))


def _learning_records(
    gate: GateSession, step: StepWriter, folder: RunFolder, learner: Record
) -> None:
    """Metric rows, tensor digests, episodes and the video."""
    cfg = gate.loaded.cfg
    step.copy("metrics-learner.jsonl", folder.learner_metrics)
    step.record("digests.json", learner["tensors"])
    step.lines(
        "episodes.jsonl",
        [
            {
                **episode,
                "phase": "train",
                "env_type": env_of(cfg).type,
                "suite": env_of(cfg).task,
                "end": "success" if episode["success"] else "timeout",
            }
            for episode in read_json_lines(folder.episodes)
        ],
    )
    with np.load(folder.actor_video(0)) as recorded:
        frames = list(recorded["frames"])
    video = gate.work / "rollout.mp4"
    clip = write_video(video, frames, fps=_VIDEO_FPS)
    step.video(
        video,
        facts={"frames": clip.frames, "width": clip.width, "height": clip.height, "episode": 0},
    )
