"""Pictures of a learning run: success and episode length against env steps, and where the seconds went.

Owns how curves are drawn; figures come from `pirl.learning.judgement`. Read `pirl.learning.report` next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pirl.journal.metric_log import MetricRow
from pirl.learning.judgement import Point, Spent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, BLUE, ORANGE = "#1f2328", "#6e7781", "#1f6feb", "#bc4c00"
AXES: dict[str, Callable[[Spent], float]] = {
    "env steps": lambda spent: spent.env_steps,
    "CPU seconds": lambda spent: spent.cpu_s,
    "wall seconds": lambda spent: spent.wall_s,
}
"""Horizontal axes, and where each update stands on them."""


def draw_learning(
    points: Sequence[Point],
    rows: Sequence[MetricRow],
    costs: Mapping[int, Spent],
    *,
    title: str,
    path: Path,
) -> Path:
    """Success share above episode length, against env steps, CPU seconds and wall seconds.

    Large marks are held-out episodes with the stock sampler and their 95 % Wilson intervals; the thin line is
    the success share of the noisy training episodes.
    """
    # Without pyplot there is no global figure registry and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 6.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(AXES), sharex="col", sharey="row")
    for column, (label, position) in enumerate(AXES.items()):
        where = {update: position(cost) for update, cost in costs.items()}
        _success(grid[0, column], points, rows, where)
        _length(grid[1, column], points, rows, where)
        grid[1, column].set_xlabel(f"{label} of training", fontsize=9)
    grid[0, 0].set_ylabel("successes / episodes", fontsize=9)
    grid[1, 0].set_ylabel("mean episode length, env steps", fontsize=9)
    grid[0, 0].legend(loc="lower right", fontsize=8, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)


def _success(
    axes: Axes, points: Sequence[Point], rows: Sequence[MetricRow], where: Mapping[int, float]
) -> None:
    from matplotlib.patheffects import withStroke

    _style(axes)
    axes.plot(
        [where[row.step] for row in rows],
        [row.metrics["rollout/success_rate"] for row in rows],
        color=GREY,
        linewidth=1,
        label="training episodes (noise on)",
    )
    for point in points:
        low, high = point.rate.interval
        x = where[point.update]
        axes.plot([x, x], [low, high], color=BLUE, linewidth=5, alpha=0.25)
        axes.annotate(
            f"{point.rate.successes}/{point.rate.episodes}",
            (x, point.rate.successes / point.rate.episodes),
            (6, -12),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            # The training curve may run behind the count.
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=5,
        )
    axes.plot(
        [where[point.update] for point in points],
        [point.rate.successes / point.rate.episodes for point in points],
        "o-",
        color=BLUE,
        linewidth=1.5,
        label="held-out episodes (stock sampler)",
    )
    axes.set_ylim(-0.03, 1.05)


def _length(
    axes: Axes, points: Sequence[Point], rows: Sequence[MetricRow], where: Mapping[int, float]
) -> None:
    _style(axes)
    axes.plot(
        [where[row.step] for row in rows],
        [row.metrics["rollout/mean_env_steps"] for row in rows],
        color=GREY,
        linewidth=1,
    )
    axes.plot(
        [where[point.update] for point in points],
        [point.mean_env_steps for point in points],
        "o-",
        color=ORANGE,
        linewidth=1.5,
    )
