"""A learning run in MLflow: one run, its metrics by update, its report, pictures and videos.

Owns what is copied; the door is `pirl.tracking.sink`. Read `docs/learning.md` for what the figures mean.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pirl.audit.criterion import Verdict
from pirl.journal.environment import collect_source
from pirl.journal.fields import read_object
from pirl.learning.proof import LearningRun
from pirl.learning.report import REPORT
from pirl.learning.settings import LearnSettings
from pirl.tracking.sink import MlflowSink, OpenRun
from pirl.tracking.view import NOTE_TAG, flat_params

EXPERIMENT = "learning"
_NOTE = (
    "Does piRL improve a policy? One run is a warm start, training through learner and actors, and held-out "
    "episodes before and after. A run is FINISHED only when every bound held; a control must not learn."
)
_CONFIG_PREFIX = "config."
"""Parameters of the train config carry it; those of the run's own settings do not."""


class Tracker(Protocol):
    """Whoever keeps a copy of the result."""

    def conclude(self, record: dict[str, Any], run: LearningRun) -> None:
        """Take over a finished run."""
        ...


class _NoTracker:
    def conclude(self, record: dict[str, Any], run: LearningRun) -> None: ...


class _MlflowTracker:
    def __init__(self, open_run: OpenRun) -> None:
        self._open = open_run

    def conclude(self, record: dict[str, Any], run: LearningRun) -> None:
        self._open.verdict = Verdict.PASSED if record["passed"] else Verdict.FAILED
        self._open.tag(
            {
                "learn.verdict": str(self._open.verdict),
                "config.sha256": run.config_hash,
                "weights.sha256": run.weights_sha256,
                **{f"criterion.{c['name']}": c["measured"] for c in record["criteria"]},
            }
        )
        self._open.tag({NOTE_TAG: _description(run.folder.root / REPORT)})
        config = read_object(run.folder.run.effective_config("learner"))
        self._open.params(flat_params(config, prefix=_CONFIG_PREFIX))
        self._open.metrics(run.rows)
        last = record["points"][-1]
        self._open.numbers(
            {"heldout_successes": last["successes"], "heldout_episodes": last["episodes"]}
        )
        for name in ("learn.json", "report.md", "learning.png", "videos", "evaluation", "logs"):
            path = run.folder.root / name
            if path.exists():
                self._open.artifact(path)


def _description(report: Path) -> str:
    """The report without its picture, which a description cannot show: it is among the artifacts."""
    lines = report.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))


@contextmanager
def track_learning(
    settings: LearnSettings, *, enabled: bool, row: str | None = None
) -> Generator[Tracker]:
    """The tracker of one run: MLflow on SQLite, or `MLFLOW_TRACKING_URI` where that is set.

    Args:
        row: study and label of a run that is a row of a study; its name in the tracker.

    Raises:
        EvidenceError: the tracker does not answer.
    """
    if not enabled:
        yield _NoTracker()
        return
    root = Path.cwd()
    sink = MlflowSink.open(
        root,
        uri=os.environ.get("MLFLOW_TRACKING_URI"),
        experiment=EXPERIMENT,
        tags={NOTE_TAG: _NOTE},
    )
    sink.reap()
    source = collect_source(root)
    control = f" control {settings.control}" if settings.control else ""
    tags = {
        "variant": settings.variant,
        "seed": str(settings.seed),
        "control": settings.control or "none",
        "mlflow.source.git.commit": str(source["git_commit"]),
        "git.dirty": str(source["git_dirty"]),
    }
    name = row or f"learn {settings.variant}{control} seed {settings.seed}"
    with sink.open_run(name, tags) as open_run:
        open_run.params(flat_params(asdict(settings)))
        yield _MlflowTracker(open_run)
