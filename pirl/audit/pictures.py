"""Pictures for a reader of a bundle, drawn from its raw records.

Owns style and labels: every picture says its profile, its n, and that a smoke run is no performance
claim. A picture whose records are missing is not drawn. Refuses to judge anything. Read
`pirl.audit.report` next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl.audit import outcomes
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.audit.records.files import RecordFile
from pirl.errors import EvidenceError
from pirl.journal.metric_log import MetricRow
from pirl.journal.metrics import RATIO_EDGES
from pirl.journal.stages import stage_totals
from pirl.journal.stats import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISCLAIMER = "smoke run, not a performance claim"

BLUE, ORANGE, GREY, INK = "#2563a8", "#c2571a", "#8a8f98", "#22262b"

CAPTIONS = {
    "learning_curve.png": "Successes per update with 95 % Wilson intervals: a " + DISCLAIMER + ".",
    "ratio.png": "Ratio of current to behaviour policy; 1 before the first optimiser step.",
    "stage_times.png": "Where the time of learner and actors goes, and how much they exchange.",
    "resume.png": "Uninterrupted run and killed, resumed run: the points must lie on the line.",
}
"""File name and caption, in the order of the report."""


def draw_all(raw: RawRecords, folder: Path) -> list[Path]:
    """Draw every picture whose records are there; returns the files."""
    painters: dict[str, Callable[[RawRecords, Axes], str]] = {
        "learning_curve.png": _learning_curve,
        "ratio.png": _ratio,
        "stage_times.png": _stage_times,
        "resume.png": _resume,
    }
    return [path for name in CAPTIONS if (path := _draw(raw, folder / name, painters[name]))]


def _draw(raw: RawRecords, path: Path, paint: Callable[[RawRecords, Axes], str]) -> Path | None:
    figure, axes = _figure()
    try:
        title = paint(raw, axes)
        profile = raw.one(files.PROFILE).profile
    except EvidenceError:
        # The criteria report what is missing; an empty frame would only look like a result.
        return None
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    figure.text(
        0.995, 0.01, f"profile: {profile} · {DISCLAIMER}", ha="right", fontsize=8, color=GREY
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _figure() -> tuple[Figure, Axes]:
    # Without pyplot there is no global figure registry and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(rect=(0, 0.045, 1, 0.955))  # type: ignore[union-attr]
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
    return figure, axes


def _whole_steps(axes: Axes, rows: Sequence[MetricRow]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(rows[0].step - 0.5, rows[-1].step + 0.5)
    axes.set_xlabel("update", fontsize=9)


def _learning_curve(raw: RawRecords, axes: Axes) -> str:
    rows = outcomes.rewarded_rows(raw)
    wanted = ("rollout/successes", "rollout/episodes")
    counts = [
        (r.step, int(r.metrics[wanted[0]]), int(r.metrics[wanted[1]]))
        for r in rows
        if all(name in r.metrics for name in wanted) and r.metrics[wanted[1]] >= 1
    ]
    if not counts:
        raise EvidenceError("no success counts")
    for step, successes, episodes in counts:
        low, high = wilson_interval(successes, episodes)
        axes.plot([step, step], [low, high], color=BLUE, linewidth=5, alpha=0.25)
        label = f"{successes}/{episodes}"
        axes.annotate(label, (step, successes / episodes), (8, 4), textcoords="offset points",
                      fontsize=9, color=INK)  # fmt: skip
    axes.plot(
        [c[0] for c in counts], [c[1] / c[2] for c in counts], "o-", color=BLUE, linewidth=1.5
    )
    axes.set_ylim(-0.03, 1.05)
    axes.set_ylabel("successes / episodes", fontsize=9)
    _whole_steps(axes, rows)
    return f"Training episodes{_where(raw)}, n = {sum(c[2] for c in counts)} (bars: 95 % Wilson interval)"


def _ratio(raw: RawRecords, axes: Axes) -> str:
    names = [f"update/ratio_bin_{index}" for index in range(len(RATIO_EDGES) + 1)]
    rows = [r for r in outcomes.rewarded_rows(raw) if names[0] in r.metrics]
    counts = [sum(int(row.metrics[name]) for row in rows) for name in names]
    if not sum(counts):
        raise EvidenceError("no ratio histogram")
    edges = [f"{edge:g}" for edge in RATIO_EDGES]
    inner = [f"{low}\nto {high}" for low, high in pairwise(edges)]
    labels = [f"below\n{edges[0]}", *inner, f"from\n{edges[-1]}"]
    axes.bar(labels, counts, color=BLUE, width=0.92)
    for position, count in enumerate(counts):
        axes.annotate(str(count), (position, count), (0, 3), textcoords="offset points",
                      ha="center", fontsize=8, color=INK)  # fmt: skip
    axes.margins(y=0.12)
    axes.set_xlabel("ratio, all minibatches of all updates", fontsize=9)
    axes.set_ylabel("log-prob samples", fontsize=9)
    axes.tick_params(axis="x", labelsize=8, length=0)
    return f"Ratio of current to behaviour policy{_where(raw)}, n = {sum(counts)}"


def _where(raw: RawRecords) -> str:
    return ", rewarded run" if outcomes.has_second(raw) else ""


def _stage_times(raw: RawRecords, axes: Axes) -> str:
    sides = {"learner": raw.metrics(files.LEARNER_METRICS)}
    for rank in raw.ranks(files.ACTOR_METRICS):
        sides[f"actor-{rank}"] = raw.metrics(files.ACTOR_METRICS, rank)
    bars = [
        (f"{side}  {stage}", seconds, BLUE if side == "learner" else ORANGE)
        for side, rows in sides.items()
        for stage, seconds in stage_totals(row.metrics for row in rows).items()
    ]
    if not bars:
        raise EvidenceError("no stage times")
    bars.reverse()
    axes.barh([b[0] for b in bars], [b[1] for b in bars], color=[b[2] for b in bars], height=0.7)
    for position, (_, seconds, _) in enumerate(bars):
        axes.annotate(f"{seconds:.2f}", (seconds, position), (4, -3), textcoords="offset points",
                      fontsize=8, color=INK)  # fmt: skip
    axes.grid(visible=False)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.margins(x=0.12)
    counters = raw.one(files.LEARNER_COUNTERS)
    published = sum(row.metrics.get("link/param_bytes", 0.0) for row in sides["learner"])
    moved = f"{counters.bytes_received / 1e6:.1f} MB of decisions, {published / 1e6:.1f} MB of parameters"
    axes.set_xlabel(f"seconds, whole run; {moved} per actor", fontsize=9)
    return "Time per stage, and bytes"


def _resume(raw: RawRecords, axes: Axes) -> str:
    name = "update/policy_loss"
    names: dict[str, RecordFile[str]] = {
        "uninterrupted": files.UNINTERRUPTED,
        "interrupted": files.INTERRUPTED,
        "resumed": files.RESUMED,
    }
    runs = {run: raw.metrics(file) for run, file in names.items()}
    kill = raw.one(files.KILL)
    saved, killed = kill.checkpoint_update, kill.killed_after_update
    styles: dict[str, dict[str, Any]] = {
        "uninterrupted": {"color": GREY, "linewidth": 2.0, "label": "uninterrupted"},
        "interrupted": {"color": ORANGE, "marker": "x", "linestyle": "", "label": "until SIGKILL"},
        "resumed": {
            "color": BLUE, "marker": "o", "fillstyle": "none", "linestyle": "", "markersize": 9,
            "label": "resumed, new process",
        },
    }  # fmt: skip
    for run, rows in runs.items():
        shown = [(row.step, row.metrics[name]) for row in rows if name in row.metrics]
        axes.plot([s for s, _ in shown], [v for _, v in shown], **styles[run])
    axes.axvline(saved, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("checkpoint", (saved, 0.98), (4, -8), xycoords=("data", "axes fraction"),
                  textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    axes.set_ylabel("policy loss", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    _whole_steps(axes, runs["uninterrupted"])
    return f"Resume after SIGKILL (saved at {saved}, killed after {killed})"
