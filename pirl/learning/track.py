"""A learning run in MLflow: one run, its metrics by update, its report, pictures and videos.

Owns what is copied; the door is `pirl.tracking.sink`. Read `docs/learning.md` for what the figures mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

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


type Conclude = Callable[[Mapping[str, Any], LearningRun], None]
"""Takes over the record of a finished run."""


def _keep_nothing(record: Mapping[str, Any], run: LearningRun) -> None: ...


def _conclude(open_run: OpenRun, record: Mapping[str, Any], run: LearningRun) -> None:
    open_run.verdict = Verdict.PASSED if record["passed"] else Verdict.FAILED
    open_run.tag(
        {
            "learn.verdict": str(open_run.verdict),
            "config.sha256": run.config_hash,
            "weights.sha256": run.weights_sha256,
            **{f"criterion.{c['name']}": c["measured"] for c in record["criteria"]},
            NOTE_TAG: _description(run.folder.root / REPORT),
        }
    )
    config = read_object(run.folder.run.effective_config("learner"))
    open_run.params(flat_params(config, prefix=_CONFIG_PREFIX))
    open_run.metrics(run.rows)
    last = record["points"][-1]
    open_run.numbers({"heldout_successes": last["successes"], "heldout_episodes": last["episodes"]})
    for name in ("learn.json", "report.md", "learning.png", "videos", "evaluation", "logs"):
        path = run.folder.root / name
        if path.exists():
            open_run.artifact(path)


def _description(report: Path) -> str:
    """The report without its picture, which a description cannot show: it is among the artifacts."""
    lines = report.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))


@contextmanager
def track_learning(
    settings: LearnSettings, *, enabled: bool, row: str | None = None
) -> Generator[Conclude]:
    """One run in MLflow, on SQLite or `MLFLOW_TRACKING_URI` where that is set; call what it yields in the end.

    Args:
        row: study and label of a run that is a row of a study; its name in the tracker.

    Raises:
        EvidenceError: the tracker does not answer.
    """
    if not enabled:
        yield _keep_nothing
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
        yield partial(_conclude, open_run)
