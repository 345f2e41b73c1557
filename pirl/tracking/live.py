"""A run as others see it while it runs: TensorBoard files, LeRobot's own wandb block, MLflow.

Owns which tracker a config asks for and what each is told. They get copies: nothing that pirl reads or judges
comes from here. Read `pirl.tracking.feed` for what happens when one fails.
"""

from __future__ import annotations

import copy
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pirl.config.sections import encode_config
from pirl.journal.metric_log import MetricRow
from pirl.runtime.live import WatchedRun
from pirl.tracking.feed import Feed, Tracker

TENSORBOARD = "tensorboard"
"""Folder in the run folder."""
EXPERIMENT = "pirl-runs"
"""Of MLflow; gates and learning proofs have their own."""
RUN_TAG = "pirl.run_id"


class LiveTrackers:
    """Every tracker that the config of a run asks for."""

    def __init__(self, run: WatchedRun) -> None:
        self._feeds = {name: Feed(name, opened, fix=fix) for name, opened, fix in _wanted(run)}
        for feed in self._feeds.values():
            feed.wait_until_open()

    def row(self, step: int, metrics: Mapping[str, float]) -> None:
        """As `pirl.runtime.live.Watchers`."""
        for feed in self._feeds.values():
            feed.row(step, metrics)

    def video(self, step: int, path: Path) -> None:
        """As `pirl.runtime.live.Watchers`."""
        for feed in self._feeds.values():
            feed.video(step, path)

    def close(self, *, finished: bool) -> Mapping[str, Any]:
        """As `pirl.runtime.live.Watchers`."""
        return {name: feed.close(finished=finished) for name, feed in self._feeds.items()}


def _wanted(run: WatchedRun) -> Iterator[tuple[str, Callable[[], Tracker], str]]:
    names = run.cfg.runtime.trackers
    if "tensorboard" in names:
        yield "tensorboard", lambda: TensorBoard(run), "free space there, or runtime.trackers=[]"
    if "mlflow" in names:
        fix = "look at MLFLOW_TRACKING_URI, or leave mlflow out of runtime.trackers"
        yield "mlflow", lambda: Mlflow(run), fix
    if run.cfg.wandb.enable:
        fix = "`wandb login`, or wandb.mode=offline, or wandb.enable=false"
        yield "wandb", lambda: Wandb(run), fix


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir RUN`."""

    def __init__(self, run: WatchedRun) -> None:
        # Their records without their writer: that one writes in a thread of its own, and an error there is a
        # traceback that nobody can catch.
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._event: Any = event_pb2
        self._summary: Any = summary_pb2
        folder = run.root / TENSORBOARD
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._append(file_version="brain.Event:2")
        # A resumed run plays the updates after its checkpoint again.
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._append(step=run.version + 1, session_log=start)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        value = self._summary.Summary.Value
        values = [value(tag=name, simple_value=number) for name, number in metrics.items()]
        self._append(step=step, summary=self._summary.Summary(value=values))

    def video(self, step: int, path: Path) -> None:
        """Event files hold no mp4; it lies beside them."""

    def close(self, *, finished: bool) -> None:
        self._file.close()

    def _append(self, **content: Any) -> None:
        """Add an event whole or not at all: a reader stops at half a record.

        Raises:
            OSError: it does not fit.
        """
        from tensorboard.summary.writer.record_writer import RecordWriter

        frame = io.BytesIO()
        RecordWriter(frame).write(
            self._event.Event(wall_time=time.time(), **content).SerializeToString()
        )
        end = self._file.seek(0, os.SEEK_END)
        try:
            rest = frame.getvalue()
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(end)
            raise


class Wandb:
    """LeRobot's own logger and its `wandb.*` settings; metrics are below `train/`, as it has them."""

    def __init__(self, run: WatchedRun) -> None:
        # It would put itself between this process and its log, and report its own faults even offline.
        os.environ.setdefault("WANDB_CONSOLE", "off")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        from lerobot.common.wandb_utils import WandBLogger

        cfg = copy.copy(run.cfg)
        cfg.output_dir = run.root
        # The config goes to the service.
        cfg.runtime = copy.copy(cfg.runtime)
        cfg.runtime.token = None
        # A run that was not watched before its resume has nothing there to go on with.
        cfg.resume = bool(cfg.wandb.run_id) or (cfg.resume and (run.root / "wandb").is_dir())
        self._logger = WandBLogger(cfg)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._logger.log_dict(dict(metrics), step=step)

    def video(self, step: int, path: Path) -> None:
        self._logger.log_video(str(path), step)

    def close(self, *, finished: bool) -> None:
        import wandb

        exit_code = 0 if finished else 1
        wandb.finish(exit_code=exit_code)
        # Its own process writes the rows, and may still do so after `finish`; this ends it and waits for that.
        wandb.teardown(exit_code=exit_code)


class Mlflow:
    """A run of the experiment `pirl-runs`; a resumed run goes on in the same one."""

    def __init__(self, run: WatchedRun) -> None:
        # Only now: it imports what audits a gate, and no learner needs that.
        from pirl.tracking.sink import MlflowSink, OpenRun
        from pirl.tracking.view import flat_params

        self._sink = MlflowSink.open(Path.cwd(), experiment=EXPERIMENT, tags={})
        self._started = time.monotonic()
        client = self._sink.client
        self._sink.reap()
        found = client.search_runs([self._sink.experiment_id], f"tags.`{RUN_TAG}` = '{run.run_id}'")
        if found:
            self._open = OpenRun(client=client, run_id=str(found[0].info.run_id))
            client.update_run(self._open.run_id, status="RUNNING")
            return
        tags = {RUN_TAG: run.run_id, "pirl.variant": str(run.cfg.pirl.variant)}
        self._open = self._sink.create(run.root.name, tags)
        tree = encode_config(run.cfg)
        tree["runtime"]["token"] = None
        self._open.params(flat_params(tree))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        elapsed = time.monotonic() - self._started
        self._open.metrics([MetricRow(step=step, version=step, elapsed_s=elapsed, metrics=metrics)])

    def video(self, step: int, path: Path) -> None:
        self._sink.client.log_artifact(self._open.run_id, str(path), artifact_path=path.parent.name)

    def close(self, *, finished: bool) -> None:
        status = "FINISHED" if finished else "KILLED"
        self._sink.client.set_terminated(self._open.run_id, status=status)
