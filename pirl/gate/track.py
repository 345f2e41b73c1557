"""What a gate tells its tracker, and a tracker that keeps nothing.

The verdict never depends on what happens here: MLflow gets copies. Read `pirl.tracking.sink` next.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from pirl.audit.bundle import FinishedBundle
from pirl.gate.session import GateSession, StepOutcome
from pirl.gate.smoke_step import RUN as SMOKE
from pirl.journal.fields import file_sha256
from pirl.journal.metric_log import read_metrics
from pirl.runtime.layout import RunFolder
from pirl.tracking.sink import GateRun, MlflowSink, StepRun
from pirl.tracking.view import dvc_tags, run_tags

_URI_VARIABLE = "MLFLOW_TRACKING_URI"


class Tracker(Protocol):
    """What the gate reports, in this order."""

    def step(self, step: str) -> AbstractContextManager[None]:
        """The scope of one step; ending it in error ends its run as failed."""
        ...

    def step_done(self, gate: GateSession, outcome: StepOutcome) -> None:
        """The step was judged; called inside its scope."""
        ...

    def gate_done(self, gate: GateSession, bundle: FinishedBundle) -> None:
        """The bundle is sealed."""
        ...


class NoTracker:
    """Keeps nothing (`pirl gate --no-mlflow`)."""

    @contextmanager
    def step(self, step: str) -> Generator[None]:
        yield

    def step_done(self, gate: GateSession, outcome: StepOutcome) -> None: ...

    def gate_done(self, gate: GateSession, bundle: FinishedBundle) -> None: ...


class MlflowTracker:
    """One parent run per gate with a child per step."""

    def __init__(self, run: GateRun) -> None:
        self._run = run
        self._child: StepRun | None = None

    @contextmanager
    def step(self, step: str) -> Generator[None]:
        with self._run.step(step) as child:
            self._child = child
            try:
                yield
            finally:
                self._child = None

    def step_done(self, gate: GateSession, outcome: StepOutcome) -> None:
        child = self._child
        if child is None:
            raise ValueError("step_done outside the scope of a step")
        child.conclude(outcome.results)
        if outcome.error:
            child.open.tag({"stopped_by": outcome.error})
        if outcome.step != "smoke-run":
            return
        # Only now: these import torch, and a gate that cannot start must say so without it.
        from pirl.checkpoint.locate import step_folders
        from pirl.checkpoint.manifest import MANIFEST_NAME

        folder = RunFolder(gate.work / SMOKE)
        if folder.learner_metrics.exists():
            child.open.metrics(read_metrics(folder.learner_metrics))
        for number, step_dir in sorted(step_folders(folder.root / "checkpoints").items()):
            child.checkpoint(
                name=f"{gate.variant}-{number:06d}",
                digest=file_sha256(step_dir / MANIFEST_NAME),
                step=number,
            )

    def gate_done(self, gate: GateSession, bundle: FinishedBundle) -> None:
        self._run.conclude(bundle)


@contextmanager
def tracked(
    gate: GateSession, *, enabled: bool = True, tags: Mapping[str, str] | None = None
) -> Generator[NoTracker | MlflowTracker]:
    """The tracker of a gate: MLflow on SQLite, or `MLFLOW_TRACKING_URI` where that is set.

    Raises:
        EvidenceError: the tracker does not answer.
    """
    if not enabled:
        yield NoTracker()
        return
    root = Path.cwd()
    sink = MlflowSink.open(root, uri=os.environ.get(_URI_VARIABLE))
    sink.reap()
    source = gate.bundle.source
    start = run_tags(gate.bundle.run, source) | {
        "profile": gate.profile.name,
        "config.sha256": gate.loaded.identity.hash,
    }
    versions = dvc_tags(root / "dvc.lock", "phase2_gate")
    with sink.gate(
        variant=gate.variant,
        commit=source.git_commit,
        tags={**start, **versions, **(tags or {})},
    ) as run:
        yield MlflowTracker(run)
