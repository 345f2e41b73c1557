"""The actor: wait for a version, collect its rollout, send it, say that it is complete.

Owns the loop and the actor's own records. Refuses to know how weights are trained. Read
`pirl.runtime.rollout` for the collecting and `pirl.transport.client` for the link.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pirl.config.arguments import actor_parser
from pirl.config.command_line import parse
from pirl.config.load import LoadedConfig, load_config
from pirl.config.recipe import RuntimeConfig
from pirl.config.train import env_of
from pirl.envs import make_vector_env
from pirl.envs.base import VectorEnv
from pirl.envs.split import StateSplit, load_split
from pirl.episodes import BrokenOffEpisode, EpisodeRecord
from pirl.errors import EnvError, ExitCode, LinkClosedError, PirlError
from pirl.files import writing
from pirl.journal.metric_log import JsonLines, MetricLog
from pirl.ownership import owned
from pirl.runtime.entry import configure_logging, stop_on_signals
from pirl.runtime.layout import RunFolder, run_root
from pirl.runtime.lockstep import FinishedEpisode
from pirl.runtime.mark import leave_mark
from pirl.runtime.metrics import episode_metrics, system_metrics
from pirl.runtime.record import RunRecord, reason_of
from pirl.runtime.rewards import build_reward
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.session import (
    Session,
    build_session,
    write_effective_config,
)
from pirl.runtime.timers import StageTimers
from pirl.transport.client import ActorLink
from pirl.transport.wire import ParameterMessage

logger = logging.getLogger(__name__)

_WAIT_SLICE_S = 0.5
_RECONNECT_PAUSE_S = 0.2


@dataclass(slots=True, kw_only=True)
class _Totals:
    """What this actor did, for its record."""

    decisions_sent: int = 0
    """Handed to a link; what a lost link took with it is in here, the learner never saw all of that."""
    episodes_sent: int = 0
    env_steps: int = 0
    versions_received: list[int] = field(default_factory=list[int])
    by_version: dict[str, int] = field(default_factory=dict[str, int])
    """Decisions sampled under each version."""
    reconnects: int = 0


class Actor:
    """One actor, from first contact to the learner's end of run."""

    def __init__(
        self,
        session: Session,
        *,
        env: VectorEnv,
        split: StateSplit,
        link: ActorLink,
        record: RunRecord,
        rank: int,
        stop: threading.Event,
        video: Path | None = None,
    ) -> None:
        cfg = session.loaded.cfg
        self._session = session
        self._runtime = cfg.runtime
        self._link = link
        self._record = record
        self._rank = rank
        self._stop = stop
        self._timers = StageTimers()
        self._broken_off: list[BrokenOffEpisode] = []
        self._totals = _Totals()
        self._rollouts = 0
        self._acted_version = -1
        self._lost_since: float | None = None
        self._video = video
        self._started = time.monotonic()
        self._collector = RolloutCollector(
            policy=session.policy,
            noise_head=session.algorithm.noise_head,
            env=env,
            pirl=cfg.pirl,
            placement=Placement(
                seed=cfg.seed or 0,
                rank=rank,
                num_actors=cfg.runtime.actors,
                split=split,
            ),
            timers=self._timers,
            pipeline=cfg.runtime.pipeline,
            reward=build_reward(cfg, env.info, device=device_of(rank, cfg.runtime)),
            on_broken_off=self._broken_off.append,
        )

    def run(self, folder: RunFolder) -> ExitCode:
        """Act until the learner publishes its final version or the process is told to stop.

        Raises:
            MismatchError: the learner is not the one this actor was configured for.
            LinkClosedError: the learner is gone and did not come back in time.
            EnvError: the simulator failed.
        """
        reason = "failed"
        try:
            with MetricLog(folder.actor_metrics(self._rank)) as metrics:
                is_finished = self._loop(metrics)
            reason = "finished" if is_finished else "interrupted"
            return ExitCode.OK if is_finished else ExitCode.INTERRUPTED
        except (EnvError, LinkClosedError) as error:
            reason = "interrupted" if self._stop.is_set() else reason_of(error)
            raise
        except PirlError as error:
            reason = reason_of(error)
            raise
        finally:
            self._note(reason)
            if self._broken_off:
                with JsonLines(folder.broken_off(self._rank)) as lines:
                    for episode in self._broken_off:
                        lines.write(asdict(episode))
            self._link.close()
            self._note(reason, complete=True)

    def _loop(self, metrics: MetricLog) -> bool:
        """Act with one version after the other; True when the learner finished, False when told to stop."""
        at_least = 0
        while not self._stop.is_set():
            try:
                message = self._next_version(at_least)
                if message is None or message.final:
                    return message is not None
                if message.version != self._acted_version:
                    # Only a new version shows that a link which was made again is of use.
                    self._lost_since = None
                self._acted_version = message.version
                self._act(message, metrics)
                # In async mode the same version goes on until there is a newer one.
                at_least = message.version + (self._runtime.mode == "sync")
            except LinkClosedError as error:
                if self._link.finished:
                    return True
                self._reconnect(error)
                # A learner that comes back from a checkpoint may be behind the version that was under way.
                at_least = 0
        return False

    def _next_version(self, at_least: int) -> ParameterMessage | None:
        """The newest published version from `at_least` on; None when told to stop.

        Raises:
            LinkClosedError: the learner is gone, or published nothing for `runtime.version_timeout_s`.
        """
        limit_s = self._runtime.version_timeout_s
        end = time.monotonic() + limit_s
        with self._timers.stage("wait"):
            while not self._stop.is_set():
                if time.monotonic() > end:
                    raise LinkClosedError(
                        f"the learner published no version from {at_least} on for {limit_s:g} s "
                        "(runtime.version_timeout_s)"
                    )
                message = self._link.wait_for_version(at_least, timeout_s=_WAIT_SLICE_S)
                if message is not None:
                    self._totals.versions_received.append(message.version)
                    return message
        return None

    def _reconnect(self, lost: LinkClosedError) -> None:
        """Get the learner back within `runtime.reconnect_s`, counted from the first of the losses that
        no new version came between: a link that breaks again and again has no more time than one.

        Raises:
            LinkClosedError: it did not come back, or nobody asked for that (`reconnect_s` is 0).
            MismatchError: another run answers now.
        """
        now = time.monotonic()
        self._lost_since = now if self._lost_since is None else self._lost_since
        left_s = self._runtime.reconnect_s - (now - self._lost_since)
        if left_s <= 0 or self._stop.is_set():
            raise lost
        logger.warning("lost the learner (%s); waiting %g s for it", lost, left_s)
        with self._timers.stage("wait"):
            # So that a learner which takes the contact and drops the link is not called without a pause.
            self._stop.wait(_RECONNECT_PAUSE_S)
            self._link = self._link.reconnect(left_s, stop=self._stop)
        _log_link(self._link, self._rank)
        self._totals.reconnects += 1

    def _act(self, message: ParameterMessage, metrics: MetricLog) -> None:
        """Collect and send the rollout of one version.

        In `sync` mode it is reported as a whole, and one that a lost link broke off starts afresh; in `async`
        mode each episode is reported by itself and none is repeated.
        """
        self._take_over(message)
        quota = -(-self._runtime.rollout_chunks // self._runtime.actors)
        is_sync = self._runtime.mode == "sync"
        records: list[EpisodeRecord] = []
        start = time.monotonic()
        rollout = self._collector.collect(
            version=message.version, min_decisions=quota, anew=is_sync, give_up=self._is_over
        )
        # Closed here, so that episodes under way are known as broken off before the record is written.
        with closing(rollout) as episodes:
            for episode in episodes:
                self._send(episode)
                records.append(episode.record)
                if not is_sync:
                    self._report(message.version, [episode.record])
        if self._is_over():
            return
        if is_sync:
            self._report(message.version, records)
        self._rollouts += 1
        collect_s = time.monotonic() - start
        row = {
            **episode_metrics(records),
            "version/acted": float(message.version),
            "counters/sent": float(self._totals.decisions_sent),
            "counters/episodes_sent": float(self._totals.episodes_sent),
            "counters/env_steps": float(self._totals.env_steps),
            "link/bytes_sent": float(self._link.bytes_sent),
            "link/reconnects": float(self._totals.reconnects),
            "time/collect_s": collect_s,
            "system/env_steps_per_s": sum(r.env_steps for r in records) / collect_s,
            "time/wall_s": time.monotonic() - self._started,
            **system_metrics(),
            **self._timers.drain(),
        }
        metrics.write_row(self._rollouts, version=message.version, metrics=row)
        logger.info(
            "version %d: %d decisions, %d/%d episodes succeeded",
            message.version,
            sum(r.decisions for r in records),
            row["rollout/successes"],
            row["rollout/episodes"],
        )

    def _take_over(self, message: ParameterMessage) -> None:
        """Act with the weights of `message` from now on; it is emptied.

        They are views of its memory, which the link would keep for as long as the version is the newest. In async
        mode it hands out the same message again, whose weights are loaded then.
        """
        if message.weights:
            self._session.algorithm.load_weights(message.weights)
            message.weights.clear()

    def _is_over(self) -> bool:
        """Whether nobody waits for what is being collected."""
        return self._stop.is_set() or self._link.finished

    def _send(self, episode: FinishedEpisode) -> None:
        """Hand one episode to the link and count it."""
        encoded_before = self._link.encode_seconds
        with self._timers.stage("send"):
            self._link.send_transitions(episode.transitions)
        encoding_s = self._link.encode_seconds - encoded_before
        self._timers.add("encode", encoding_s)
        self._timers.add("send", -encoding_s)
        self._totals.decisions_sent += len(episode.transitions)
        self._totals.episodes_sent += 1
        self._totals.env_steps += episode.record.env_steps
        version = str(episode.record.policy_version)
        sent = self._totals.by_version.get(version, 0)
        self._totals.by_version[version] = sent + len(episode.transitions)
        if self._video is not None and episode.frames:
            self._video.parent.mkdir(parents=True, exist_ok=True)
            # Encoding would fork a process out of one that runs gRPC; whoever wants a video encodes.
            with writing(self._video):
                np.savez_compressed(self._video, frames=np.stack(episode.frames))
            self._video = None

    def _report(self, version: int, records: Sequence[EpisodeRecord]) -> None:
        self._link.send_interaction(
            {
                "type": "rollout_done",
                "version": version,
                "rank": self._rank,
                "decisions": sum(record.decisions for record in records),
                "episodes": [asdict(record) for record in records],
            }
        )

    def _note(self, reason: str, *, complete: bool = False) -> None:
        """Write the record with what is known now."""
        self._record.facts |= {
            "handshake": self._link.handshake(),
            "met_identity": asdict(self._link.identity),
            "bytes_sent": self._link.bytes_sent,
            "totals": asdict(self._totals),
        }
        self._record.write(reason, complete=complete)


def _log_link(link: ActorLink, rank: int) -> None:
    # Here and not in the link: the gate makes contact dozens of times, to be refused.
    logger.info(
        "linked to the learner at %s as rank %d, run %s",
        link.learner_address,
        rank,
        link.identity.run_id,
    )


def device_of(rank: int, runtime: RuntimeConfig) -> str:
    """Of `runtime.actor_devices` the one of that rank, from the first again after the last."""
    devices = runtime.actor_devices or (runtime.actor_device,)
    return devices[rank % len(devices)]


def run_actor(
    loaded: LoadedConfig, *, rank: int, stop: threading.Event, record_video: bool = False
) -> ExitCode:
    """Run one actor of a validated pi-rl config.

    The link is made before the simulator is built: a mismatch must cost seconds, not a LIBERO start.
    """
    cfg = loaded.cfg
    session = build_session(loaded, device=device_of(rank, cfg.runtime), run_id="")
    actor_id = f"{rank}-{uuid.uuid4().hex[:12]}"
    with ActorLink(
        session.identity,
        runtime=cfg.runtime,
        rank=rank,
        actor_id=actor_id,
        expected=session.algorithm.published_like(),
        # In `async` mode a learner that is in the middle of an update lets its actors wait.
        send_timeout_s=cfg.runtime.version_timeout_s,
    ) as link:
        link.connect(stop=stop)
        _log_link(link, rank)
        folder = RunFolder(run_root(cfg.output_dir, link.identity.run_id))
        own_part = folder.actor_record(rank).parent
        # Not earlier: the learner wants its folder empty, and has it since before it answered.
        with (
            owned(own_part, field=f"output_dir (rank {rank})"),
            RunRecord(folder.actor_record(rank), role=f"actor-{rank}") as record,
        ):
            leave_mark(folder.marks(f"actor-{rank}"), f"actor-{rank}")
            record.facts["identity"] = asdict(session.identity)
            write_effective_config(folder.effective_config(f"actor-{rank}"), cfg)
            split = load_split(
                env_of(cfg).type, mode=cfg.runtime.split, split_file=cfg.runtime.split_file
            )
            env = make_vector_env(
                env_of(cfg),
                num_envs=cfg.runtime.envs_per_actor,
                num_workers=cfg.runtime.env_workers,
                image_keys=session.image_keys,
                split=split,
                record_frames=record_video,
                stock_simulator=cfg.runtime.stock_simulator,
            )
            logger.info("ready: %d environments", cfg.runtime.envs_per_actor)
            try:
                return Actor(
                    session,
                    env=env,
                    split=split,
                    link=link,
                    record=record,
                    rank=rank,
                    stop=stop,
                    video=folder.actor_video(rank) if record_video else None,
                ).run(folder)
            finally:
                env.close()


def main(argv: Sequence[str]) -> int:
    """Command line of an actor: `--config_path F [--rank R]` and dotted overrides."""
    args, overrides = parse(actor_parser(), argv)
    loaded = load_config(args.config_path, overrides)
    configure_logging(f"actor-{args.rank}")
    stop = stop_on_signals()
    try:
        # As a learner: what a simulator prints is progress.
        with redirect_stdout(sys.stderr):
            return int(run_actor(loaded, rank=args.rank, stop=stop, record_video=args.record_video))
    except (EnvError, LinkClosedError) as error:
        # Told to stop, it lost what was told to stop as well.
        if not stop.is_set():
            raise
        logger.info("%s", error)
        return int(ExitCode.INTERRUPTED)
