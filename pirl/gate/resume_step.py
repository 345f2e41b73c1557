"""Step 3, resume-roundtrip: killed and resumed equals uninterrupted, bit for bit; damage is refused.

The uninterrupted run is the smoke run of step 2: same config, same seed, N+M updates. Owns how
`raw/resume-roundtrip/*` comes about. Read `pirl.gate.mismatch_step` next.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pirl.algorithm.chain import sample_chunk
from pirl.audit.bundle import StepWriter
from pirl.audit.criteria.resume import SAVE_KILLS
from pirl.audit.records import files
from pirl.audit.records.common import Process
from pirl.audit.records.resume import (
    CheckpointFiles,
    DamagedCheckpoint,
    FileFacts,
    Kill,
    SaveKill,
    StateDigests,
    StockLoad,
)
from pirl.checkpoint.load import load_checkpoint
from pirl.checkpoint.locate import has_checkpoint, resolve_checkpoint
from pirl.checkpoint.manifest import MANIFEST_NAME, verify_manifest
from pirl.checkpoint.record import read_record
from pirl.config.load import load_config
from pirl.config.train import env_of, policy_of
from pirl.contract.registry import policy_kind
from pirl.envs import EnvObservation, describe_env
from pirl.errors import CheckpointError, ExitCode, MismatchError, PirlError
from pirl.files import copy_tree, write_bytes
from pirl.gate import forked
from pirl.gate.processes import Watch, process_rows
from pirl.gate.session import GateFailedError, GateSession
from pirl.gate.smoke_step import RUN as UNINTERRUPTED
from pirl.gate.smoke_step import marks_of
from pirl.journal.fields import file_sha256, read_object
from pirl.journal.metric_log import read_json_lines
from pirl.records import Observation
from pirl.runtime.launch import LaunchResult, free_port, launch
from pirl.runtime.layout import RunFolder
from pirl.runtime.procs import how_it_ended, wait_until
from pirl.runtime.seat import role_of, seats_here
from pirl.runtime.session import Session, build_session

RUN = "resumed"
_LATER_WORK_S = 0.05
"""The kill comes this long after `last` points at the first checkpoint. The next version was published before, so
actors are at work on it; a whole later update of the embedded run takes 0.3 s on an idle machine."""
_TRAIN_CONFIG = "pretrained_model/train_config.json"


def run(gate: GateSession, step: StepWriter) -> None:
    """Interrupt, resume, compare, damage, and load in stock LeRobot.

    Raises:
        GateFailedError, ProcessDiedError, TooLateError: a run did not go as the step needs it; logs are in the
            bundle.
    """
    total = gate.loaded.cfg.runtime.total_updates
    baseline = RunFolder(gate.work / UNINTERRUPTED)
    if not baseline.run_record.exists():
        raise GateFailedError("there is no uninterrupted run to compare with: smoke-run failed")
    folder = RunFolder(gate.work / RUN)
    watch = Watch()
    interrupted = _interrupt(gate, step, folder, watch)
    saved_dir = resolve_checkpoint(folder.root)
    saved = read_record(saved_dir)
    shutil.copy(folder.learner_metrics, gate.work / "metrics-interrupted.jsonl")
    killed_after = _last_update(gate.work / "metrics-interrupted.jsonl")
    deadline_s = gate.allowed_s("resumed-run")
    started = time.monotonic()
    resumed = launch(
        str(saved_dir / _TRAIN_CONFIG),
        actors=gate.loaded.cfg.runtime.actors,
        overrides=["--resume=true", f"--output_dir={folder.root}", "--runtime.port=0"],
        env=watch.env,
        log_dir=gate.work / "logs" / RUN,
        quiet=True,
        deadline_s=deadline_s,
    )
    elapsed = time.monotonic() - started
    _copy_logs(gate, step, resumed)
    if resumed.exit_code is not ExitCode.OK:
        raise GateFailedError(
            f"the resumed run ended with exit code {int(resumed.exit_code)}: {resumed.reason}"
        )
    learner = read_object(folder.run_record)
    kill = Kill(
        checkpoint_update=saved["step"],
        killed_after_update=killed_after,
        total_updates=total,
        resume_elapsed_s=elapsed,
        resume_deadline_s=deadline_s,
    )
    step.write(files.KILL, kill)
    digests = StateDigests(
        saved=saved["digests"],
        loaded=learner["digests_loaded"],
        uninterrupted=read_object(baseline.run_record)["digests_after"],
        resumed=learner["digests_after"],
    )
    step.write(files.DIGESTS, digests)
    step.copy(files.UNINTERRUPTED, baseline.learner_metrics)
    step.copy(files.INTERRUPTED, gate.work / "metrics-interrupted.jsonl")
    step.copy(files.RESUMED, folder.learner_metrics)
    rows = three_runs(
        baseline, folder, interrupted, resumed.processes, since_start=step.bundle.since_start
    )
    step.write_all(files.PROCESSES[files.RESUME], rows)
    last = resolve_checkpoint(folder.root)
    step.write(files.CHECKPOINT, checkpoint_files(last))
    step.write_all(files.DAMAGED, _damage(gate, last))
    step.write_all(files.SAVE_KILLS, _kill_saves(gate, last, watch))
    step.write(files.STOCK, _stock(step_dir=last))


type _Table = list[dict[str, Any]]
"""Role, pid, exit code and seconds of processes."""


def _interrupt(gate: GateSession, step: StepWriter, folder: RunFolder, watch: Watch) -> _Table:
    """Start the run again and kill its learner in the middle of the work after a checkpoint.

    Forked processes: only the run that resumes must start from nothing.

    Raises:
        GateFailedError, ProcessDiedError, TooLateError: there was no such moment.
    """
    cfg = gate.loaded.cfg
    logs = gate.work / "logs" / "interrupted"
    tail = ["--config_path", gate.config_path, f"--output_dir={folder.root}"]
    tail.append(f"--runtime.port={free_port(cfg.runtime.host)}")
    meeting = gate.work / "meeting"
    meeting.mkdir()
    seats = seats_here(cfg.parallelism.dp_replicate, meeting)
    # Role, module and environment; the first learner process is the one to be killed.
    parts: list[tuple[str, str, Mapping[str, str]]] = [
        (role_of(rank), "pirl.learner", seat) for rank, seat in enumerate(seats)
    ]
    parts += [(f"actor-{rank}", "pirl.actor", {}) for rank in range(cfg.runtime.actors)]
    processes: dict[str, forked.Forked] = {}
    try:
        with forked.ForkedGroup() as group:
            for role, module, seat in parts:
                rank = ["--rank", role.partition("-")[2]] if module == "pirl.actor" else []
                argv = [*tail, *rank]
                step.command(["python", "-m", module, *argv], about=f"interrupted {role}")
                processes[role] = group.start(
                    module, argv, env={**watch.env, **seat}, log_path=logs / f"{role}.log"
                )
            learner, *others = processes.values()
            wait_until(
                lambda: has_checkpoint(folder.root),
                what="the first checkpoint of the run to be interrupted",
                needs=[learner],
                unharmed=others,
                deadline_s=gate.allowed_s("first-checkpoint"),
            )
            time.sleep(_LATER_WORK_S)
            if learner.poll() is not None:
                raise GateFailedError(
                    f"the run to be interrupted was over too early: {how_it_ended(learner)}"
                )
            learner.kill()
            forked.exit_code(learner, 10.0)
            learner.seconds()
    finally:
        for log in sorted(logs.glob("*.log")):
            step.log(f"{log.stem}-interrupted", log)
    return [
        {
            "role": role,
            "pid": process.process.pid,
            "exit_code": process.poll(),
            "seconds": process.seconds(),
        }
        for role, process in processes.items()
    ]


def _last_update(path: Path) -> int:
    rows = read_json_lines(path, allow_torn_tail=True)
    return int(rows[-1]["step"]) if rows else 0


def _copy_logs(gate: GateSession, step: StepWriter, resumed: LaunchResult) -> None:
    for row in resumed.processes:
        role = str(row["role"])
        step.command(["python", *map(str, row["argv"][1:])], about=f"{RUN} {role}")
        step.log(f"{role}-{RUN}", gate.work / "logs" / RUN / f"{role}.log")


def three_runs(
    baseline: RunFolder,
    folder: RunFolder,
    interrupted: _Table,
    resumed: _Table,
    *,
    since_start: Callable[[float], float],
) -> list[Process]:
    """One table over the three runs: the uninterrupted learner is the one of smoke-run, by its launch's table.

    Args:
        interrupted, resumed: process tables; both runs have the folder one after the other.
    """
    launched = read_object(baseline.launch_record)["processes"]
    uninterrupted = [row for row in launched if row["role"] == "learner"]
    runs = (
        ("uninterrupted", uninterrupted, baseline),
        ("interrupted", interrupted, folder),
        (RUN, resumed, folder),
    )
    return [
        row
        for name, table, where in runs
        for row in process_rows(
            table,
            marks=marks_of(where, [str(r["role"]) for r in table]),
            since_start=since_start,
            suffix=f"-{name}",
        )
    ]


def checkpoint_files(step_dir: Path) -> CheckpointFiles:
    """The manifest's claims and what is on disk, file by file."""
    manifest = read_object(step_dir / MANIFEST_NAME)
    found = [p for p in sorted(step_dir.rglob("*")) if p.is_file() and p.name != MANIFEST_NAME]
    return CheckpointFiles(
        manifest={name: FileFacts(**facts) for name, facts in manifest["files"].items()},
        found={
            p.relative_to(step_dir).as_posix(): FileFacts(
                size=p.stat().st_size, sha256=file_sha256(p)
            )
            for p in found
        },
    )


def _truncate(path: Path) -> None:
    write_bytes(path, path.read_bytes()[:-7])


def _alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    write_bytes(path, bytes(data))


_DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated-file": ("pretrained_model/model.safetensors", _truncate),
    "altered-byte": ("algorithm/model.safetensors", _alter),
    "missing-file": ("training_state/rng_state.safetensors", Path.unlink),
    "missing-optimizer": ("training_state/pi_rl/optimizer_state.safetensors", Path.unlink),
    "missing-manifest": (MANIFEST_NAME, Path.unlink),
}
"""Case: the damaged part, relative to the step folder, and the damage."""


def _damage(gate: GateSession, source: Path) -> list[DamagedCheckpoint]:
    """Each damaged copy goes to the loader that a resume uses."""
    loaded = load_config(source / _TRAIN_CONFIG)
    session = build_session(loaded, device="cpu", run_id="damaged")
    session.algorithm.make_optimizers_and_scheduler()
    records: list[DamagedCheckpoint] = []
    for case, (part, damage) in _DAMAGE.items():
        copy = gate.work / "damaged" / case / "checkpoints" / source.name
        copy_tree(source, copy)
        damage(copy / part)
        code, message = None, "loaded"
        try:
            load_checkpoint(
                copy,
                cfg=loaded.cfg,
                flow_policy=session.policy,
                algorithm=session.algorithm,
                run_dir=None,
            )
        except (CheckpointError, MismatchError) as error:
            code, message = int(error.exit_code), str(error)
        records.append(
            DamagedCheckpoint(
                case=case,
                part=part,
                exit_code=code,
                message=message,
                optimiser_steps=session.algorithm.updates,
            )
        )
    return records


def _kill_saves(gate: GateSession, source: Path, watch: Watch) -> list[SaveKill]:
    """SIGKILL a process that saves over and over, at other moments each time.

    Raises:
        ProcessDiedError, TooLateError: it saved nothing.
    """
    records: list[SaveKill] = []
    for index in range(SAVE_KILLS):
        run_dir = gate.work / "interrupted-saves" / str(index)
        with forked.ForkedGroup() as group:
            saver = group.start(
                "pirl.gate.save_loop",
                [str(source), str(run_dir)],
                env=watch.env,
                log_path=gate.work / "logs" / "saver.log",
            )
            wait_until(
                partial(has_checkpoint, run_dir),
                what="the first save of the loop",
                needs=[saver],
                deadline_s=gate.allowed_s("first-save"),
            )
            time.sleep(0.05 + 0.11 * index)
            saver.kill()
            code = forked.wait(saver, 10.0)
        records.append(
            SaveKill(
                exit_code=code,
                unfinished_folders=len(list((run_dir / "checkpoints").glob(".tmp-*"))),
                earlier_checkpoint_loads=_loads(run_dir),
            )
        )
    return records


def _loads(run_dir: Path) -> bool:
    try:
        return not verify_manifest(resolve_checkpoint(run_dir))
    except PirlError:
        return False


def _stock(*, step_dir: Path) -> StockLoad:
    """Stock LeRobot loads `pretrained_model/` with strict keys and acts as pirl does.

    Both sides start from the same noise; the observation is fixed and artificial.
    """
    folder = step_dir / "pretrained_model"
    loaded = load_config(folder / "train_config.json")
    session = build_session(loaded, device="cpu", run_id="stock")
    session.algorithm.make_optimizers_and_scheduler()
    load_checkpoint(
        step_dir,
        cfg=loaded.cfg,
        flow_policy=session.policy,
        algorithm=session.algorithm,
        run_dir=None,
    )
    kind = policy_kind(policy_of(loaded.cfg).type)
    stock = kind.load_stock(folder)
    ours, theirs = session.policy.module.state_dict(), stock.state_dict()
    spec = session.policy.spec
    observation = _fixed_observation(session)
    rows = len(observation)
    # Both sides draw from generators of their own that begin alike.
    rngs, again = (
        [torch.Generator().manual_seed(100 + row) for row in range(rows)] for _ in range(2)
    )
    shape = spec.chunk_size, spec.model_dim
    noise = torch.stack([torch.randn(shape, generator=rng) for rng in again])
    sampled = sample_chunk(
        session.policy,
        session.policy.encode(observation),
        pirl=replace(loaded.cfg.pirl, base_sampler=session.policy.sampler),
        noise_head=session.algorithm.noise_head,
        rngs=rngs,
        stochastic=False,
    )
    mine = session.policy.postprocess(sampled.chunk).flatten()
    other = kind.stock_generate(stock, observation, noise).flatten()
    return StockLoad(
        missing_keys=tuple(sorted(set(ours) - set(theirs))),
        unexpected_keys=tuple(sorted(set(theirs) - set(ours))),
        actions_pirl=tuple(mine.tolist()),
        actions_stock=tuple(other.tolist()),
    )


def _fixed_observation(session: Session) -> Observation:
    """Two rows of reproducible pixels and states, told what the environment tells the policy."""
    rng = torch.Generator().manual_seed(0)
    env = describe_env(env_of(session.loaded.cfg))
    rows = [
        EnvObservation(
            images={
                name: torch.randint(
                    0, 256, env.image_shapes[name], generator=rng, dtype=torch.uint8
                ).numpy()
                for name in session.image_keys
            },
            state=torch.rand(env.state_width, generator=rng).numpy(),
        )
        for _ in range(2)
    ]
    return Observation.cat(
        [
            session.policy.prepare(row, env.instructions[i % len(env.instructions)])
            for i, row in enumerate(rows)
        ]
    )
