"""What a gate tells its tracker, and a tracker that keeps nothing.

The verdict never depends on what happens here: MLflow gets copies. Read `pirl.tracking.sink` next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
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


type Judged = Callable[[StepOutcome], None]
"""Takes the outcome of a step."""


class Tracker(Protocol):
    """What the gate reports, in this order."""

    def step(self, gate: GateSession, step: str) -> AbstractContextManager[Judged]:
        """The scope of one step, which yields who takes its outcome; an error ends its run as failed."""
        ...

    def gate_done(self, bundle: FinishedBundle) -> None:
        """The bundle is sealed."""
        ...


class NoTracker:
    """Keeps nothing (`pirl gate --no-mlflow`)."""

    @contextmanager
    def step(self, gate: GateSession, step: str) -> Generator[Judged]:
        yield lambda outcome: None

    def gate_done(self, bundle: FinishedBundle) -> None: ...


class MlflowTracker:
    """One parent run per gate with a child per step."""

    def __init__(self, run: GateRun) -> None:
        self._run = run

    @contextmanager
    def step(self, gate: GateSession, step: str) -> Generator[Judged]:
        with self._run.step(step) as child:
            yield partial(_conclude, gate, child)

    def gate_done(self, bundle: FinishedBundle) -> None:
        self._run.conclude(bundle)


def _conclude(gate: GateSession, child: StepRun, outcome: StepOutcome) -> None:
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
