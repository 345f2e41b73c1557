"""The only door to MLflow: one parent run per gate, one child per step, explicit run ids.

Owns status, ownership and first opening of the database. A run is FINISHED only for a passed
verdict; everything that goes wrong on the way leaves FAILED or KILLED, never RUNNING. Evidence does
not depend on this module: it copies what a bundle holds. Read `docs/evidence.md` next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from pirl.audit.bundle import FinishedBundle
from pirl.audit.criterion import CriterionResult, Verdict, worst
from pirl.errors import EvidenceError
from pirl.files import write_error
from pirl.journal.fields import read_object
from pirl.journal.metric_log import MetricRow
from pirl.tracking import view

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_BATCH = 1000
TEXTS_PER_BATCH = 100
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PARENT_TAG = "mlflow.parentRunId"


def _client_class() -> type[MlflowClient]:
    """Import the tracker late (several CPU seconds) and only after its telemetry is off."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    return MlflowClient


def _door[**P, T](call: Callable[P, T]) -> Callable[P, T]:
    """Translate the tracker's errors: a caller must be able to go on without it."""

    @wraps(call)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        _client_class()
        from alembic.util.exc import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return call(*args, **kwargs)
        except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
            first = str(error).strip().split("\n", 1)[0]
            if "disk is full" in first or (isinstance(error, OSError) and error.errno):
                cause = error if isinstance(error, OSError) else OSError(errno.ENOSPC, first)
                raise write_error(Path(cause.filename or "mlflow.db"), cause) from error
            raise EvidenceError(
                f"the tracker refused {call.__name__}: {first}\n"
                "  fix: mend or move away what MLFLOW_TRACKING_URI, or mlflow.db here, names; or --no-mlflow"
            ) from error

    return translated


def default_uri(repo_root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite file of the checkout; never relative to the cwd."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{repo_root.resolve()}/mlflow.db"


def _require_database(uri: str) -> None:
    """Ask SQLite itself first: MLflow goes on asking for what is no database for more than a minute."""
    if uri.startswith("sqlite:///"):
        path = uri.removeprefix("sqlite:///").split("?", 1)[0]
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")


def _owner() -> dict[str, str]:
    """Tags that say which process a run belongs to; a reused pid has another start time."""
    process = psutil.Process()
    return {
        "owner.pid": str(process.pid),
        "owner.started": f"{process.create_time():.2f}",
        "owner.boot": _boot_id(),
    }


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="utf-8").strip() if _BOOT_ID.is_file() else "unknown"


def _owner_is_alive(tags: Mapping[str, str]) -> bool:
    if tags["owner.boot"] != _boot_id():
        return False
    try:
        process = psutil.Process(int(tags["owner.pid"]))
        return f"{process.create_time():.2f}" == tags["owner.started"]
    except (psutil.Error, ValueError):
        return False


@dataclass(slots=True, kw_only=True)
class MlflowSink:
    """An open experiment."""

    client: MlflowClient
    experiment_id: str

    @staticmethod
    @_door
    def open(
        repo_root: Path,
        *,
        uri: str | None = None,
        experiment: str = view.EXPERIMENT,
        tags: Mapping[str, str] | None = None,
    ) -> MlflowSink:
        """Open the tracker and an experiment, created with `tags` (the gate's note and saved view).

        The database is opened under a lock: processes that open a new one together break its
        migrations.

        Raises:
            EvidenceError: the tracker does not answer; so for every other method.
        """
        lock = repo_root / "mlflow.db.lock"
        with lock.open("w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            uri = uri or default_uri(repo_root)
            _require_database(uri)
            client = _client_class()(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            if found is not None:
                return MlflowSink(client=client, experiment_id=str(found.experiment_id))
            gate_tags = {
                view.NOTE_TAG: view.experiment_note(),
                view.VIEW_TAG: view.saved_view(now_ms=_now_ms()),
            }
            created = client.create_experiment(
                experiment,
                artifact_location=(repo_root.resolve() / "mlartifacts").as_uri(),
                tags=dict(gate_tags if tags is None else tags),
            )
            return MlflowSink(client=client, experiment_id=str(created))

    @_door
    def reap(self) -> list[str]:
        """Mark RUNNING runs whose owner is dead as FAILED; returns their ids.

        Runs without owner tags are somebody else's and are left alone.
        """
        running = self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'")
        dead: list[str] = []
        for run in running:
            tags = cast("Mapping[str, str]", run.data.tags)
            if {"owner.pid", "owner.started", "owner.boot"} <= set(tags):
                if _owner_is_alive(tags):
                    continue
                run_id = str(run.info.run_id)
                _close_name(self.client, run_id, "crashed")
                self.client.set_terminated(run_id, status="FAILED")
                dead.append(run_id)
        return dead

    @contextmanager
    def gate(self, *, variant: str, commit: str, tags: Mapping[str, str]) -> Generator[GateRun]:
        """The parent run of a gate.

        Args:
            variant: `flow-sde` or `flow-noise`.
            commit: git commit, for the name of the run.
            tags: everything known at the start (`mlflow_view.run_tags`, `mlflow_view.dvc_tags`).
        """
        name = view.run_name(variant=variant, commit=commit, label=None)
        # The tracker's table has the columns of tags in the order in which a run got them.
        first = {"gate.verdict": str(Verdict.NOT_RUN), "variant": variant, view.KIND_TAG: "gate"}
        with self.open_run(name, first | dict(tags)) as open_run:
            yield GateRun(sink=self, open=open_run, variant=variant, commit=commit)

    @contextmanager
    def open_run(self, name: str, tags: Mapping[str, str]) -> Generator[OpenRun]:
        """A run that ends with a status whatever happens inside."""
        open_run = self.create(name, tags)
        status = "KILLED"
        try:
            yield open_run
            status = "FINISHED" if open_run.verdict == Verdict.PASSED else "FAILED"
        except BaseException as error:
            # Cancellation and Ctrl-C are no Exception; a plain error is a failure.
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with suppress(EvidenceError):
                # The reason why the run ended is worth more than a tracker that is gone as well.
                self._explain(open_run, type(error).__name__, status)
            raise
        finally:
            self._terminate(open_run, status)

    @_door
    def create(self, name: str, tags: Mapping[str, str]) -> OpenRun:
        """A run that its caller ends."""
        created = self.client.create_run(
            self.experiment_id, tags={**_owner(), **tags}, run_name=name
        )
        return OpenRun(client=self.client, run_id=str(created.info.run_id))

    @_door
    def _explain(self, open_run: OpenRun, reason: str, status: str) -> None:
        if open_run.verdict == Verdict.NOT_RUN:
            word = "crashed" if status == "FAILED" else "cancelled"
            _close_name(self.client, open_run.run_id, word)
        self.client.set_tag(open_run.run_id, "stopped_by", reason)

    @_door
    def _terminate(self, open_run: OpenRun, status: str) -> None:
        self.client.set_terminated(open_run.run_id, status=status)


@dataclass(slots=True, kw_only=True)
class OpenRun:
    """A run that is still open; FINISHED in the end only if its verdict is passed."""

    client: MlflowClient
    run_id: str
    verdict: Verdict = Verdict.NOT_RUN
    _start_ms: int = field(default_factory=lambda: _now_ms())

    @_door
    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        items = [RunTag(key, value[:5000]) for key, value in tags.items()]
        self._batches(items, TEXTS_PER_BATCH, lambda part: {"tags": part})

    @_door
    def params(self, params: Mapping[str, str]) -> None:
        """Set parameters."""
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        self._batches(items, TEXTS_PER_BATCH, lambda part: {"params": part})

    @_door
    def metrics(self, rows: Sequence[MetricRow], *, prefix: str = "") -> None:
        """Log metric rows by update; a value that is not finite is logged as such."""
        from mlflow.entities import Metric

        items = [
            Metric(prefix + name, value, self._start_ms + int(row.elapsed_s * 1000), row.step)
            for row in rows
            for name, value in row.metrics.items()
        ]
        self._batches(items, METRICS_PER_BATCH, lambda part: {"metrics": part})

    def numbers(self, values: Mapping[str, float]) -> None:
        """Log single numbers."""
        rows = [MetricRow(step=0, version=0, elapsed_s=0.0, metrics=values)]
        self.metrics(rows)

    @_door
    def artifact(self, path: Path) -> None:
        """Copy a file, or a folder under its own name."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), artifact_path=path.name)
        else:
            self.client.log_artifact(self.run_id, str(path))

    def _batches(
        self, items: Sequence[Any], size: int, arguments: Callable[[Sequence[Any]], dict[str, Any]]
    ) -> None:
        for start in range(0, len(items), size):
            self.client.log_batch(self.run_id, **arguments(items[start : start + size]))


@dataclass(slots=True, kw_only=True)
class GateRun:
    """The parent run of a gate."""

    sink: MlflowSink
    open: OpenRun
    variant: str
    commit: str

    @property
    def run_id(self) -> str:
        return self.open.run_id

    @contextmanager
    def step(self, step: str, *, tags: Mapping[str, str] | None = None) -> Generator[StepRun]:
        """The child run of a step."""
        linked = {_PARENT_TAG: self.run_id, "gate.step": step, "variant": self.variant}
        with self.sink.open_run(f"{step} {self.variant}", {**linked, **(tags or {})}) as child:
            yield StepRun(open=child, experiment_id=self.sink.experiment_id)

    @_door
    def conclude(self, finished: FinishedBundle) -> None:
        """Copy a finished bundle into the run: verdict, tags, params, artifacts, description."""
        verdict = finished.verdict
        config = finished.folder / "config" / "train_config.json"
        self.open.verdict = verdict.verdict
        self.open.tag(view.verdict_tags(verdict, bundle_digest=finished.digest))
        if config.is_file():
            self.open.params(view.flat_params(read_object(config)))
        self.open.numbers(
            {
                "gate_passed": float(verdict.verdict == Verdict.PASSED),
                "criteria_passed": float(verdict.count(Verdict.PASSED)),
                "criteria_total": float(verdict.total),
            }
        )
        note = view.verdict_note(verdict, bundle_digest=finished.digest, commit=self.commit)
        client = self.sink.client
        client.set_tag(self.run_id, view.NOTE_TAG, note)
        client.log_artifacts(self.run_id, str(finished.folder))
        name = view.run_name(variant=self.variant, commit=self.commit, label=verdict.label)
        client.update_run(self.run_id, name=name)


@dataclass(slots=True, kw_only=True)
class StepRun:
    """The child run of a step."""

    open: OpenRun
    experiment_id: str

    @property
    def run_id(self) -> str:
        return self.open.run_id

    @_door
    def conclude(self, results: Sequence[CriterionResult]) -> None:
        """Record the criteria of the step and its verdict."""
        self.open.verdict = worst({result.name: result.verdict for result in results})
        self.open.client.log_table(self.run_id, view.criteria_table(results), view.CRITERIA_FILE)
        verdict = str(self.open.verdict)
        self.open.tag({"gate.verdict": verdict, view.COLOR_TAG: view.run_color(verdict)})
        measured = {
            f"measured/{result.name}": float(result.measured)
            for result in results
            if result.measured is not None
        }
        passed = float(sum(result.verdict == Verdict.PASSED for result in results))
        totals = {"criteria_passed": passed, "criteria_total": float(len(results))}
        self.open.numbers(measured | totals)

    @_door
    def checkpoint(self, *, name: str, digest: str, step: int) -> str:
        """Note a checkpoint that lives outside the tracker, by digest; returns its model id."""
        from mlflow.entities import LoggedModelOutput

        if not digest:
            raise EvidenceError("a checkpoint without a digest is no evidence")
        client = self.open.client
        model = client.create_logged_model(
            self.experiment_id,
            name=name,
            source_run_id=self.run_id,
            tags={"mlflow.model.isExternal": "true", "sha256": digest},
            model_type="pirl-checkpoint",
        )
        client.finalize_logged_model(model.model_id, status="READY")
        client.log_outputs(self.run_id, [LoggedModelOutput(model_id=model.model_id, step=step)])
        return str(model.model_id)


def _close_name(client: MlflowClient, run_id: str, word: str) -> None:
    """A run without a verdict says how it ended: in its tag, and in its name where that said "running"."""
    client.set_tag(run_id, "gate.verdict", word)
    client.set_tag(run_id, view.COLOR_TAG, view.run_color(word))
    name = str(client.get_run(run_id).info.run_name)
    client.update_run(run_id, name=view.ended_name(name, word))


def _now_ms() -> int:
    return int(time.time() * 1000)
