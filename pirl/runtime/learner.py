"""The learner: take a rollout, update, publish, checkpoint. Each is a call to a tested function.

Owns the loop, the run folder and the books (`learner/run.json`). Refuses to know the maths and the bytes on
the wire. Read `pirl.runtime.store` for what it waits on, `pirl.algorithm.update` for what it calls.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from lerobot.utils.constants import CHECKPOINTS_DIR

from pirl.algorithm.pi_rl import metric_row
from pirl.algorithm.replicas import ALONE
from pirl.checkpoint.digests import state_digests, tensor_hashes
from pirl.checkpoint.load import load_checkpoint
from pirl.checkpoint.locate import resolve_checkpoint
from pirl.checkpoint.retention import most_at_once, prune
from pirl.checkpoint.save import checkpoint_bytes, save_checkpoint
from pirl.checkpoint.state import RunState
from pirl.config.arguments import learner_parser
from pirl.config.command_line import parse
from pirl.config.load import LoadedConfig, load_config, write_resolved
from pirl.config.preflight import preflight_summary
from pirl.config.strictjson import parse_json
from pirl.errors import (
    CheckpointError,
    ExitCode,
    ParityError,
    PirlError,
)
from pirl.files import Appender, human_bytes, require_space, write_bytes
from pirl.journal.metric_log import JsonLines, MetricLog
from pirl.ownership import disown
from pirl.runtime.batch import build_batch
from pirl.runtime.demonstrations import demonstration_facts, open_demonstrations
from pirl.runtime.entry import configure_logging, stop_on_signals
from pirl.runtime.follower import meet, run_follower
from pirl.runtime.layout import RunFolder, open_run_folder
from pirl.runtime.live import NoWatchers, OpenWatchers, WatchedRun, Watchers, nobody
from pirl.runtime.mark import leave_mark
from pirl.runtime.memory import require_memory
from pirl.runtime.metrics import episode_metrics, system_metrics
from pirl.runtime.pace import Pace
from pirl.runtime.record import RunRecord, reason_of
from pirl.runtime.rollout_video import RolloutVideos
from pirl.runtime.seat import Seat, device_of, own_seat, require_size
from pirl.runtime.session import (
    Session,
    build_session,
    read_origin,
    tensor_digests,
    write_effective_config,
)
from pirl.runtime.store import RolloutStore, TakenRollouts
from pirl.runtime.team import Solo, Team
from pirl.runtime.timers import StageTimers
from pirl.transport.refusal import RefusedMessageError
from pirl.transport.server import LearnerServer
from pirl.transport.wire import limits_of_rollout

logger = logging.getLogger(__name__)

LOG_PROB_LIE = "log_prob"
"""Reason of a refusal: a recorded log-prob that does not follow from its decision."""

_EPISODE_BYTES, _UPDATE_BYTES, _RUN_BYTES = 512, 8 * 2**10, 4 * 2**20
"""Room for a record of an episode, for a row of an update, and for a run's own records."""


@dataclass(slots=True, kw_only=True)
class Books:
    """Totals of a run that checkpoints carry on and the gate audits."""

    updates: int = 0
    optimiser_steps: int = 0
    env_steps: int = 0
    episodes: int = 0
    successes: int = 0
    versions_published: list[int] = field(default_factory=list[int])


class Learner:
    """One run, from a fresh start or a checkpoint, to its last update."""

    def __init__(
        self,
        session: Session,
        *,
        folder: RunFolder,
        record: RunRecord,
        stop: threading.Event,
        watched_by: OpenWatchers = nobody,
        team: Team | None = None,
    ) -> None:
        """
        Args:
            team: the processes that compute the updates, this one the first of them; None for this one alone.
        """
        cfg = session.loaded.cfg
        record.facts["identity"] = asdict(session.identity)
        self._record = record
        session.algorithm.make_optimizers_and_scheduler()
        session.algorithm.replicas = ALONE if team is None else team
        self._team = Solo() if team is None else team
        self._session = session
        self._cfg = cfg
        self._folder = folder
        self._stop = stop
        self._books = Books()
        self._version = 0
        self._param_bytes = 0
        self._loaded_digests: dict[str, str] | None = None
        self._timers = StageTimers()
        self._videos = RolloutVideos(folder.root, every=cfg.runtime.video_every)
        self._watched_by = watched_by
        self._watchers: Watchers = NoWatchers()
        self._store = RolloutStore(
            actors=cfg.runtime.actors,
            mode=cfg.runtime.mode,
            staleness_threshold=cfg.pirl.staleness_threshold,
            bounds=session.bounds,
        )
        self._settled = self._store.settled_counters()
        self._server = LearnerServer(
            session.identity,
            runtime=cfg.runtime,
            schema=session.schema,
            sink=self._store,
            limits=limits_of_rollout(session.schema, decisions=session.bounds.max_decisions),
        )
        self._started = time.monotonic()

    def restore(self, step_dir: Path) -> None:
        """Continue from `step_dir`: everything is restored, or an error ends the run.

        Raises:
            CheckpointError, MismatchError: as `load_checkpoint`.
        """
        state = load_checkpoint(
            step_dir,
            cfg=self._cfg,
            flow_policy=self._session.policy,
            algorithm=self._session.algorithm,
            run_dir=self._folder.root,
        )
        self._version = state.policy_version
        counters = dict(state.counters)
        try:
            self._books = Books(**counters.pop("books"))
            self._store.restore_counters(counters)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{step_dir}: the counters are not those of a learner", parts=[repr(error)]
            ) from error
        self._settled = self._store.settled_counters()
        self._loaded_digests = self._digests()
        self._record.facts["books"] = asdict(self._books)
        for path in (self._folder.learner_metrics, self._folder.episodes):
            _set_aside_rows_after(path, self._version)

    def run(self) -> ExitCode:
        """Serve, update until `runtime.total_updates`, close the books.

        Raises:
            PirlError: the reason is in `run.json` before the error leaves.
        """
        reason, code = "failed", ExitCode.CHECK_FAILED
        try:
            self._team.require_all()
            if self._stop.is_set():
                code = ExitCode.INTERRUPTED
                reason = "interrupted"
                return code
            self._require_equal()
            self._record.facts |= {
                "torch_threads": torch.get_num_threads(),
                "books": asdict(self._books),
                "digests_before": self._digests(),
                "digests_loaded": self._loaded_digests,
                "tensors": {"before": tensor_digests(self._session.policy)},
            }
            write_effective_config(self._folder.effective_config("learner"), self._cfg)
            # Before anybody is served: W&B starts a process, and gRPC must not be forked.
            self._watchers = self._watched_by(self._watched())
            self._server.start()
            with (
                MetricLog(self._folder.learner_metrics) as metrics,
                JsonLines(self._folder.episodes) as episodes,
            ):
                code = self._loop(metrics, episodes)
            reason = "finished" if code is ExitCode.OK else "interrupted"
            return code
        except PirlError as error:
            reason = reason_of(error)
            raise
        finally:
            self._end(reason, code)

    def _end(self, reason: str, code: ExitCode) -> None:
        """Tell the others, close the books; what is known already is written before all that takes time."""
        try:
            self._record.write(reason)
        finally:
            self._team.end(code)
            if reason == "finished":
                self._server.finish()
            self._server.stop()
            self._store.drop_held("run_ended")
        self._record.facts["videos"] = self._videos.counts
        self._record.facts["trackers"] = self._watchers.close(finished=reason == "finished")
        self._record.facts |= {
            "counters": self._store.counters(),
            "server": self._server.counters(),
            "handshakes": [asdict(handshake) for handshake in self._server.handshakes()],
        }
        self._record.write(reason)
        if "tensors" in self._record.facts:
            self._record.facts["digests_after"] = self._digests()
            self._record.facts["tensors"]["after"] = tensor_digests(self._session.policy)
        self._record.write(reason, complete=True)

    def require_space(self) -> None:
        """Stop before the first rollout when the disk cannot take what the run will write.

        Raises:
            EnvironmentNotReadyError: with what is needed and what is free.
        """
        runtime = self._cfg.runtime
        left = runtime.total_updates - self._version
        every = runtime.checkpoint_every_updates
        checkpoints = -(-left // every) if every > 0 else min(left, 1)
        kept = most_at_once(
            checkpoints,
            updates=left,
            newest=runtime.keep_checkpoints,
            every=runtime.keep_checkpoints_every,
        )
        each = checkpoint_bytes(self._session.policy, self._session.algorithm)
        rows = left * (_UPDATE_BYTES + runtime.rollout_chunks * _EPISODE_BYTES)
        require_space(
            self._folder.root,
            kept * each + rows + _RUN_BYTES,
            what=f"{kept} checkpoints of {human_bytes(each)} and the metrics of {left} updates",
            fix="set runtime.keep_checkpoints=2, which keeps the newest two and the first, or raise "
            "runtime.checkpoint_every_updates",
        )

    def _loop(self, metrics: MetricLog, episodes: JsonLines) -> ExitCode:
        runtime = self._cfg.runtime
        self._publish()
        # `benchmarks/start_up.py` waits for this line, and for the actor's.
        logger.info("ready: version %d is published", self._version)
        pace = Pace()
        while self._version < runtime.total_updates:
            with self._timers.stage("wait"):
                taken = self._store.take(
                    min_decisions=runtime.rollout_chunks,
                    timeout_s=runtime.rollout_timeout_s,
                    stop=self._stop,
                    replacement_s=runtime.replacement_timeout_s,
                    has_actors=lambda: bool(self._server.alive_ranks()),
                )
            if taken is None:
                self._team.require_all()
                return ExitCode.INTERRUPTED
            try:
                row = self._update(taken)
            except ParityError as error:
                self._refuse_senders(error)
                continue
            self._publish()
            # Now: a signal may write the record at any moment.
            self._record.facts["books"] = asdict(self._books)
            for record in taken.episodes:
                episodes.write(asdict(record) | {"update": self._version})
            # Before the checkpoint: a crash in between leaves a row too many, which a resume sets aside, and
            # not one too few. The seconds of the save are in the next row.
            row |= self._timers.drain()
            metrics.write_row(self._version, version=self._version, metrics=row)
            self._watchers.row(self._version, row)
            video = self._videos.see(self._version, taken)
            if video is not None:
                self._watchers.video(self._version, video)
            if self._is_checkpoint_due():
                with self._timers.stage("checkpoint"):
                    # Before the save, which asks nothing of the others: what differs is not kept.
                    self._require_equal()
                    self._save()
            pace.note()
            logger.info(
                "update %d/%d%s: %d decisions, %d/%d episodes succeeded, kl %.2e",
                self._version,
                runtime.total_updates,
                pace.left(runtime.total_updates - self._version),
                len(taken.transitions),
                row["rollout/successes"],
                row["rollout/episodes"],
                row["update/approx_kl"],
            )
        return ExitCode.OK

    def _update(self, taken: TakenRollouts) -> dict[str, float]:
        """One update; afterwards the version is one higher."""
        with self._timers.stage("preprocess"):
            batch = build_batch(
                taken.transitions,
                policy_version=self._version,
                inputs=tuple(self._session.policy.inputs),
            )
            batch = self._team.share(batch)
        with self._timers.stage("update"):
            stats = self._session.algorithm.update(iter([batch]))
        self._store.consume()
        self._version += 1
        # Now, because from the publication on decisions of the next version may arrive at any moment.
        self._settled = self._store.settled_counters()
        # In one look: an actor that comes back sends while this row is put together, and its books must close.
        counters = self._store.counters()
        self._books.updates += 1
        self._books.optimiser_steps += int(stats.extra["optimiser_steps"])
        self._books.episodes += len(taken.episodes)
        self._books.successes += sum(e.success for e in taken.episodes)
        self._books.env_steps += sum(e.env_steps for e in taken.episodes)
        return {
            **metric_row(stats),
            **episode_metrics(taken.episodes),
            "counters/received": float(counters["received"]),
            "counters/consumed": float(counters["consumed"]),
            "counters/dropped": float(counters["dropped"]),
            "version/current": float(self._version),
            "counters/updates": float(self._books.updates),
            "counters/optimiser_steps": float(self._books.optimiser_steps),
            "counters/env_steps": float(self._books.env_steps),
            "counters/rejected_peers": float(self._rejected_calls()),
            "link/param_bytes": float(self._param_bytes),
            "link/bytes_received": float(counters["bytes_received"]),
            "time/wall_s": time.monotonic() - self._started,
            **system_metrics(),
        }

    def _refuse_senders(self, error: ParityError) -> None:
        """What recorded log-probs that are not true cost: their senders, and nobody else."""
        logger.warning("version %d: %s", self._version, error)
        senders = self._store.refuse_taken(error.gaps, LOG_PROB_LIE)
        for (rank, actor_id), episodes in senders.items():
            worst = max(episodes, key=error.gaps.__getitem__)
            text = (
                f"episode {worst}: its recorded log-prob is {error.gaps[worst]:.3g} nats from what the learner "
                f"replays (runtime.parity_tol = {self._session.algorithm.limits.parity:g})"
            )
            logger.warning("gave up the actor of rank %d: %s", rank, text)
            self._server.refuse_actor(rank, actor_id, RefusedMessageError(LOG_PROB_LIE, text))

    def _rejected_calls(self) -> int:
        counters = self._server.counters()
        return sum(n for name, n in counters.items() if name.startswith("handshakes_refused"))

    def _publish(self) -> None:
        """Make the current version the one actors act with; encoded once, sent to each.

        The last version is not published: nobody would act with it.
        """
        if self._version >= self._cfg.runtime.total_updates:
            return
        with self._timers.stage("publish"):
            self._store.begin_version(self._version)
            size = self._server.publish(self._version, self._session.algorithm.get_weights())
        self._param_bytes = size
        # A resumed run publishes the version of its checkpoint once more.
        if self._version not in self._books.versions_published:
            self._books.versions_published.append(self._version)

    def _is_checkpoint_due(self) -> bool:
        every = self._cfg.runtime.checkpoint_every_updates
        last = self._version == self._cfg.runtime.total_updates
        return last or (every > 0 and self._version % every == 0)

    def _save(self) -> None:
        save_checkpoint(
            self._folder.root,
            state=self._run_state(),
            total_steps=self._cfg.runtime.total_updates,
            cfg=self._cfg,
            flow_policy=self._session.policy,
            algorithm=self._session.algorithm,
        )
        runtime = self._cfg.runtime
        prune(
            self._folder.root / CHECKPOINTS_DIR,
            newest=runtime.keep_checkpoints,
            every=runtime.keep_checkpoints_every,
        )

    def _require_equal(self) -> None:
        """Every learner process holds the same tensors; raises as `Team.compare`."""
        algorithm = self._session.algorithm
        self._team.compare(lambda: tensor_hashes(algorithm.live_tensors()))

    def _run_state(self) -> RunState:
        return RunState(
            run_id=self._session.identity.run_id,
            step=self._version,
            policy_version=self._version,
            config_path=self._session.identity.config_path,
            counters={**self._settled, "books": asdict(self._books)},
            # Episodes are a function of (seed, version, rank): the version is the whole cursor.
            env_cursor={"policy_version": self._version},
        )

    def _watched(self) -> WatchedRun:
        return WatchedRun(
            cfg=self._cfg,
            root=self._folder.root,
            run_id=self._session.identity.run_id,
            version=self._version,
        )

    def _digests(self) -> dict[str, str]:
        return dict(state_digests(self._session.policy, self._session.algorithm, self._run_state()))


def _set_aside_rows_after(path: Path, version: int) -> None:
    """Move rows of updates that a crash undid to a file of their own; nothing is deleted.

    A line that a killed process left torn or damaged is moved as well.
    """
    if not path.exists():
        return
    kept: list[bytes] = []
    undone: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        (kept if _update_of(line) <= version else undone).append(line)
    if not undone:
        return
    with Appender(path.with_suffix(f".undone-{os.getpid()}.jsonl")) as aside:
        aside.write(b"".join(undone))
    write_bytes(path, b"".join(kept))


def _update_of(line: bytes) -> float:
    """The update that a row belongs to; infinite for a row that a crash left torn or damaged."""
    try:
        row = parse_json(line) if line.endswith(b"\n") else {}
        return float(row.get("update", row.get("step", math.inf)))
    except (ValueError, TypeError, AttributeError):
        return math.inf


def run_learner(
    loaded: LoadedConfig,
    *,
    stop: threading.Event,
    build: Callable[..., Session] = build_session,
    watched_by: OpenWatchers = nobody,
    seat: Seat | None = None,
) -> ExitCode:
    """Run the learner of a validated pi-rl config to its end.

    Args:
        seat: this process's place among those of the learner; None where it is the only one.
        build: `build_session`, or a control's own.
        watched_by: opens who gets the metrics of every update.
    """
    # Before anything of the run is read: a resumed run has its folder from its checkpoint.
    folder = open_run_folder(loaded, new_id := uuid.uuid4().hex)
    try:
        leave_mark(folder.marks("learner"), "learner")
        with RunRecord(folder.run_record, role="learner", keep_earlier=True) as record:
            run_id = read_origin(loaded).run_id or new_id
            seat = seat or Seat()
            facts = demonstration_facts(loaded)
            team = None
            if seat.size > 1:
                team, _ = meet(seat, loaded, stop=stop, run_id=run_id, facts=facts)
            device = device_of(seat, loaded.cfg.runtime.learner_device)
            session = build(loaded, device=device, run_id=run_id)
            shown = open_demonstrations(loaded, session.policy, facts)
            session.algorithm.demonstrations = shown
            if shown is not None:
                record.facts["demonstrations"] = dict(shown.facts)
            learner = Learner(
                session, folder=folder, record=record, stop=stop, watched_by=watched_by, team=team
            )
            if loaded.cfg.resume:
                learner.restore(resolve_checkpoint(loaded.source_path))
            learner.require_space()
            require_memory(session, processes=seat.size)
            if not loaded.cfg.resume:
                write_resolved(loaded.cfg, folder.root / "train_config.json")
            return learner.run()
    finally:
        disown(folder.root)


def main(
    argv: Sequence[str],
    *,
    build: Callable[..., Session] = build_session,
    watched_by: OpenWatchers = nobody,
) -> int:
    """Command line of a process of the learner: `--config_path F` and dotted overrides.

    Args:
        build, watched_by: as for `run_learner`.
    """
    args, overrides = parse(learner_parser(), argv)
    loaded = load_config(args.config_path, overrides)
    seat = own_seat()
    configure_logging(seat.role)
    require_size(seat, loaded.cfg.parallelism.dp_replicate)
    stop = stop_on_signals()
    # A learner answers nothing: what a library prints is progress, and no reader of it decides the exit code.
    with redirect_stdout(sys.stderr):
        if seat.rank > 0:
            return int(run_follower(loaded, seat, stop=stop, build=build))
        logger.info("\n%s", preflight_summary(loaded))
        return int(run_learner(loaded, stop=stop, build=build, watched_by=watched_by, seat=seat))
